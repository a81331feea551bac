"""What differs between a node and the one it was: its fields, and what that amounts to."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from topograph.topology.canonical import Record
from topograph.topology.model import Dimension, Node, Parameter, Topology
from topograph.topology.pairs import compatible

Change = Literal["added", "removed", "changed", "renamed", "moved", "resized", "replaced"]
Aspect = Literal["path", "place", "size", "cost", "other"]

COMPARED = (
    "op", "kind", "target", "scope", "detail",
    "inputs", "shape", "dtype", "axes", "flops", "opaque",
)  # fmt: skip
ASPECTS: Mapping[str, Aspect] = {"shape": "size", "flops": "cost"}
NUMBER = re.compile(r"\d+(?:\.\d*)?(?:e[-+]?\d+)?")


class FieldChange(Record):
    """One field of a node that differs, as text before and after."""

    field: str
    before: str
    after: str


@dataclass(frozen=True)
class Pairing:
    """Two topologies and, for the names of the second, those of the first.

    Args:
        before: One topology.
        after: The other.
        was: Names in `after` to names in `before`.
    """

    before: Topology
    after: Topology
    was: Mapping[str, str]

    @cached_property
    def kept(self) -> frozenset[str]:
        """Names of the nodes of `before` that `after` still has."""
        return frozenset(self.was.values())

    @cached_property
    def old_state(self) -> dict[str, Parameter]:
        """Tensors of `before` by their paths."""
        return {parameter.path: parameter for parameter in self.before.parameters}

    @cached_property
    def new_state(self) -> dict[str, Parameter]:
        """Tensors of `after` by their paths."""
        return {parameter.path: parameter for parameter in self.after.parameters}

    @cached_property
    def renamed_scopes(self) -> frozenset[tuple[str, str]]:
        """Submodules that all their nodes left together for a new one: only the path changed."""
        met = {
            (self.before.by_name[a].scope, self.after.by_name[b].scope) for b, a in self.was.items()
        }
        old, new = {n.scope for n in self.before.nodes}, {n.scope for n in self.after.nodes}
        first, second = (Counter(side) for side in zip(*met, strict=True)) if met else ({}, {})
        return frozenset(
            (a, b) for a, b in met if first[a] == second[b] == 1 and a not in new and b not in old
        )


def compare(
    pairing: Pairing, old: Node, new: Node
) -> tuple[Change | None, tuple[FieldChange, ...]]:
    """Return what became of a node, None for nothing, and the fields that differ.

    Args:
        pairing: Both topologies.
        old: The node before.
        new: The same node after.

    Returns:
        ``replaced`` if the operation is another; ``renamed`` if only paths and names differ;
        ``moved`` if only the nodes that it reads, all in both topologies, or its submodule;
        ``resized`` if only sizes and the constants that are such sizes; ``changed`` else.

    Raises:
        Nothing.

    Example:
        >>> one = Node(name="h", kind="function", op="relu", target="relu", shape=("N", 4))
        >>> two = one.model_copy(update={"shape": ("N", 8)})
        >>> nets = [Topology(name="Net", nodes=(node,)) for node in (one, two)]
        >>> compare(Pairing(*nets, {"h": "h"}), one, two)[0]
        'resized'

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan
    """
    found = [*_fields(pairing, old, new), *_tensors(pairing, old, new)]
    fields = tuple(field for field, _ in found)
    aspects = {aspect for _, aspect in found} - {"path"}
    if not compatible(old, new):
        return "replaced", fields
    if not aspects:
        return ("renamed" if fields or old.name != new.name else None), fields
    if aspects <= {"place", "cost"} and "place" in aspects:
        return "moved", fields
    if aspects <= {"size", "cost"} and "size" in aspects:
        return "resized", fields
    return "changed", fields


def _fields(pairing: Pairing, old: Node, new: Node) -> Iterator[tuple[FieldChange, Aspect]]:
    for name in COMPARED:
        before, after = getattr(old, name), getattr(new, name)
        if name == "inputs":
            if before == tuple(map(pairing.was.get, after)):
                continue
            after = tuple(_origin(pairing, source) for source in after)
        if before != after:
            change = FieldChange(field=name, before=_text(before), after=_text(after))
            yield change, _aspect(pairing, name, old, new)


def _origin(pairing: Pairing, name: str) -> str:
    """Return the name of a node of `after`, with the one it had where that could mislead."""
    was = pairing.was.get(name)
    if was is not None:
        return name if was == name else f"{name} (was {was})"
    return f"{name} (new)" if name in pairing.before.by_name else name


def _aspect(pairing: Pairing, field: str, old: Node, new: Node) -> Aspect:
    """Return what kind of difference a field makes."""
    if field == "target":
        called = {"function", "method"} & {old.kind, new.kind}
        return "other" if called else "path"
    if field == "scope":
        return "path" if (old.scope, new.scope) in pairing.renamed_scopes else "place"
    if field == "inputs":
        both = pairing.kept.issuperset(old.inputs) and pairing.was.keys() >= set(new.inputs)
        return "place" if both and len(old.inputs) == len(new.inputs) else "other"
    if field == "detail":
        return "size" if _follows(pairing, old, new) else "other"
    return ASPECTS.get(field, "other")


def _follows(pairing: Pairing, old: Node, new: Node) -> bool:
    """Return whether a call's constants differ only where they are sizes that differ as well."""
    if NUMBER.sub("#", old.detail) != NUMBER.sub("#", new.detail):
        return False
    values = [(old.shape, new.shape)]
    values += [
        (pairing.before.by_name[a].shape, pairing.after.by_name[b].shape)
        for a, b in zip(old.inputs, new.inputs, strict=False)
    ]
    values += [(a.shape, b.shape) for _, a, b in _shared(pairing, old, new) if a and b]
    sizes = {(str(a), str(b)) for pair in values for a, b in _sizes(*pair)}
    numbers = zip(NUMBER.findall(old.detail), NUMBER.findall(new.detail), strict=True)
    return all(a == b or (a, b) in sizes for a, b in numbers)


def _sizes(
    old: tuple[Dimension, ...] | None, new: tuple[Dimension, ...] | None
) -> Iterator[tuple[Dimension, Dimension]]:
    if len(old or ()) == len(new or ()):
        yield from zip(old or (), new or (), strict=True)


def _tensors(pairing: Pairing, old: Node, new: Node) -> Iterator[tuple[FieldChange, Aspect]]:
    """Yield the tensors of a node that differ, and its list of paths if that does."""
    for path, before, after in _shared(pairing, old, new):
        if before is None or after is None:
            alike = False
        else:
            alike = before.model_copy(update={"path": after.path, "shape": after.shape}) == after
        change = FieldChange(field=path, before=_tensor(before), after=_tensor(after))
        if change.before != change.after:
            yield change, "size" if alike else "other"
    if old.parameters != new.parameters:
        before_, after_ = _text(old.parameters), _text(new.parameters)
        aspect: Aspect = "path" if _tails(old) == _tails(new) else "other"
        yield FieldChange(field="parameters", before=before_, after=after_), aspect


def _shared(
    pairing: Pairing, old: Node, new: Node
) -> Iterator[tuple[str, Parameter | None, Parameter | None]]:
    """Yield a node's tensors before and after, those of a renamed module by their last names."""
    olds, news = pairing.old_state, pairing.new_state
    if _tails(old) == _tails(new):
        for a, b in zip(old.parameters, new.parameters, strict=True):
            yield (b if a == b else b.rpartition(".")[2]), olds.get(a), news.get(b)
        return
    for path in dict.fromkeys((*old.parameters, *new.parameters)):
        before = olds.get(path) if path in old.parameters else None
        yield path, before, news.get(path) if path in new.parameters else None


def _tails(node: Node) -> list[str]:
    return [path.rpartition(".")[2] for path in node.parameters]


def _tensor(parameter: Parameter | None) -> str:
    if parameter is None:
        return "none"
    state = " buffer" if parameter.buffer else "" if parameter.trainable else " frozen"
    return f"{_text(parameter.shape)} {parameter.dtype}{state}"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None else str(value)
