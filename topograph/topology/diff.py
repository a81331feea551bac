"""`TopologyDiff`: what is different between two topologies."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from topograph.topology.canonical import Record
from topograph.topology.fields import Change, FieldChange, Pairing, compare
from topograph.topology.matching import match
from topograph.topology.model import Node, Topology

SIGN: dict[Change, str] = {
    "added": "+", "removed": "-", "changed": "~", "renamed": "=", "moved": ">", "resized": "*",
    "replaced": "-/+",
}  # fmt: skip


class NodeChange(Record):
    """What happened to one node; `was` is its name before, where that was another."""

    change: Change
    name: str
    summary: str
    fields: tuple[FieldChange, ...] = ()
    was: str | None = None

    @property
    def title(self) -> str:
        """The sign, the name and what the node does, on one line."""
        named = f"{self.name} (was {self.was})" if self.was is not None else self.name
        return f"{SIGN[self.change]} {named}  {self.summary}".rstrip()

    def __str__(self) -> str:
        lines = [self.title]
        lines += [f"    {f.field}: {f.before} -> {f.after}" for f in self.fields]
        return "\n".join(lines)


class TopologyDiff(Record):
    """The difference of two topologies, in topological order; falsy when there is none.

    Nodes are matched by name, then by structure (`diff`). Each has one sign:

    ===== ======== =============================================================================
    sign  change   what differs
    ===== ======== =============================================================================
    `+`   added    a node that only the second topology has
    `-`   removed  a node that only the first has
    `=`   renamed  its name, or the paths of its module and parameters, and nothing else
    `>`   moved    it reads other nodes, which both topologies have, or is in another submodule
    `*`   resized  shapes, those of its parameters, and the constants that are such sizes
    `-/+` replaced another operation under the same name or at the same place
    `~`   changed  anything else, or more than one of these: it reads a new node, say
    ===== ======== =============================================================================

    A parameter that only changed its shape or whether it is trained shows at the node that uses it.
    Documents from before the last four changes were told apart load as they are.

    Args:
        before: Fingerprint of the first topology.
        after: Fingerprint of the second.
        changes: One record per node.
        parameters: Change of the number of parameters.
        flops: Change of the floating-point operations per sample.

    Raises:
        SpecError: On `load` and `parse`, with the path of the wrong field.

    Example:
        >>> import topograph as tg
        >>> t = tg.Topology(name="Empty")
        >>> bool(tg.diff(t, t))
        False

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan (the signs + - ~).
    """

    format: Literal["topograph.diff/1"] = "topograph.diff/1"
    before: str
    after: str
    changes: tuple[NodeChange, ...] = ()
    parameters: int = 0
    flops: int = 0

    @model_validator(mode="after")
    def _names_once(self) -> "TopologyDiff":
        new = Counter(c.name for c in self.changes if c.change != "removed")
        old = Counter(c.was or c.name for c in self.changes if c.change != "added")
        twice = {name for names in (new, old) for name, count in names.items() if count > 1}
        if twice:
            raise ValueError(f"a node is listed twice: {min(twice)!r}; list each once")
        return self

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        if not self:
            return "no changes"
        lines = [str(change) for change in self.changes]
        lines.append(f"{self.parameters:+,} parameters, {self.flops:+,} FLOPs a sample")
        return "\n".join(lines)


def diff(before: Topology, after: Topology) -> TopologyDiff:
    """Return what changes from one topology to another, also between unrelated models.

    Nodes are matched by name; but ``relu_2``, an operation and a number, only says where the tracer
    met it, so such names count after places. What is left is matched by structure: equal
    neighbourhoods, then matched neighbours. `diff` read backwards is the diff of the two exchanged:
    added for removed, before for after. It takes time linear in nodes and edges.

    Args:
        before: The first topology.
        after: The second.

    Returns:
        The difference; falsy where the two have the same structure. Lines stand in the order in
        which values flow: removed nodes where they were, added ones where they are.

    Raises:
        TypeError: An argument is not a `Topology`.

    Example:
        >>> import topograph as tg
        >>> a = tg.Topology(name="A")
        >>> x = tg.Node(name="x", kind="input", op="input", target="x")
        >>> b = a.model_copy(update={"nodes": (x,)})
        >>> print(tg.diff(a, b))
        + x  input
        +0 parameters, +0 FLOPs a sample

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan
    """
    for value in (before, after):
        if not isinstance(value, Topology):
            raise TypeError(
                f"diff compares two Topology values, got {type(value).__name__}; "
                "pass traced.topology"
            )
    was = match(before, after)
    pairing = Pairing(before, after, was)
    changes = []
    for old, new in _merged_order(before, after, was):
        if new is None and old is not None:
            changes.append(NodeChange(change="removed", name=old.name, summary=summary(old)))
        elif old is None and new is not None:
            changes.append(NodeChange(change="added", name=new.name, summary=summary(new)))
        elif old is not None and new is not None:
            change, fields = compare(pairing, old, new)
            name = None if old.name == new.name else old.name
            if change is not None:
                changes.append(
                    NodeChange(
                        change=change, name=new.name, was=name, summary=new.op, fields=fields
                    )
                )
    return TopologyDiff(
        before=before.fingerprint,
        after=after.fingerprint,
        changes=tuple(changes),
        parameters=after.parameter_count - before.parameter_count,
        flops=after.flops - before.flops,
    )


def summary(node: Node) -> str:
    """Return one line about a node: its operation, constants, inputs and the value's shape."""
    parts = [f"{node.op}({node.detail})" if node.detail else node.op]
    if node.inputs:
        parts.append("of " + ", ".join(node.inputs))
    if node.shape is not None:
        parts.append(f"-> [{', '.join(map(str, node.shape))}]")
    return " ".join(parts)


def _merged_order(
    before: Topology, after: Topology, was: Mapping[str, str]
) -> list[tuple[Node | None, Node | None]]:
    """Return all nodes, paired, as in `after`; removed ones behind their old predecessor."""
    kept = set(was.values())
    behind: dict[str | None, list[tuple[Node | None, Node | None]]] = {}
    anchor: str | None = None
    for node in before.nodes:
        if node.name in kept:
            anchor = node.name
        else:
            behind.setdefault(anchor, []).append((node, None))
    order = list(behind.get(None, []))
    for node in after.nodes:
        old = was.get(node.name)
        order.append((before.by_name[old] if old is not None else None, node))
        order += behind.get(old, []) if old is not None else []
    return order
