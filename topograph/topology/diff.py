"""`TopologyDiff`: what is different between two topologies."""

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from topograph.topology.canonical import Record
from topograph.topology.model import Node, Parameter, Topology

COMPARED = (
    "op", "kind", "target", "scope", "detail",
    "inputs", "shape", "dtype", "axes", "flops", "opaque",
)  # fmt: skip
SIGN = {"added": "+", "removed": "-", "changed": "~"}


class FieldChange(Record):
    """One field of a node that differs, as text before and after."""

    field: str
    before: str
    after: str


class NodeChange(Record):
    """One node that was added, removed or changed."""

    change: Literal["added", "removed", "changed"]
    name: str
    summary: str
    fields: tuple[FieldChange, ...] = ()

    def __str__(self) -> str:
        lines = [f"{SIGN[self.change]} {self.name}  {self.summary}".rstrip()]
        lines += [f"    {f.field}: {f.before} -> {f.after}" for f in self.fields]
        return "\n".join(lines)


class TopologyDiff(Record):
    """The difference of two topologies, in topological order; falsy when there is none.

    Nodes are matched by name. A parameter that only changed its shape or whether it is trained
    shows as a change of the node that uses it.

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
        names = [change.name for change in self.changes]
        if len(set(names)) != len(names):
            raise ValueError("a node is listed twice")
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
    """Return what changes from one topology to another, matched by node name.

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
    old_state = {parameter.path: parameter for parameter in before.parameters}
    new_state = {parameter.path: parameter for parameter in after.parameters}
    changes = []
    for name in _merged_order(before, after):
        old, new = before.by_name.get(name), after.by_name.get(name)
        if new is None and old is not None:
            changes.append(NodeChange(change="removed", name=name, summary=summary(old)))
        elif old is None and new is not None:
            changes.append(NodeChange(change="added", name=name, summary=summary(new)))
        elif old is not None and new is not None:
            same = all(old_state.get(path) == new_state.get(path) for path in new.parameters)
            if old == new and same:
                continue
            fields = _field_changes(_with_sizes(old, old_state), _with_sizes(new, new_state))
            change = NodeChange(change="changed", name=name, summary=new.op, fields=fields)
            changes += [change] if fields else []
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


def _field_changes(
    old: dict[tuple[str, str], str], new: dict[tuple[str, str], str]
) -> tuple[FieldChange, ...]:
    return tuple(
        FieldChange(field=key[1], before=old.get(key, "none"), after=new.get(key, "none"))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )


def _with_sizes(node: Node, state: Mapping[str, Parameter]) -> dict[tuple[str, str], str]:
    """Return a node's compared fields as text, its parameters' shapes among them.

    Keys are pairs, since a parameter's path may be the name of a field.
    """
    return {
        **{("field", field): _text(getattr(node, field)) for field in COMPARED},
        **{("parameter", path): _tensor(state[path]) for path in node.parameters if path in state},
        ("field", "parameters"): _text(node.parameters),
    }


def _tensor(parameter: Parameter) -> str:
    state = " buffer" if parameter.buffer else "" if parameter.trainable else " frozen"
    return f"{_text(parameter.shape)} {parameter.dtype}{state}"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None else str(value)


def _merged_order(before: Topology, after: Topology) -> list[str]:
    """Return all names in the order of `after`, removed ones behind their old predecessor."""
    kept = set(after.by_name)
    behind: dict[str | None, list[str]] = {}
    anchor: str | None = None
    for node in before.nodes:
        if node.name in kept:
            anchor = node.name
        else:
            behind.setdefault(anchor, []).append(node.name)
    order = list(behind.get(None, []))
    for node in after.nodes:
        order += [node.name, *behind.get(node.name, [])]
    return order
