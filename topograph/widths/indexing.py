"""Operations that pick parts of a value, or write to them."""

from typing import Any

from torch import fx

from topograph.widths.arguments import (
    argument,
    axis,
    broadcast,
    first,
    inputs,
    is_boolean,
    locked,
    measures,
    number,
    place,
)
from topograph.widths.dims import Dim, between, found, lock
from topograph.widths.flow import Flow, Layout, Rule, close, join
from topograph.widths.joining import READ_BY_INDEX

Parts = list[tuple[tuple[Any, ...], Any]]


def _getitem(flow: Flow, node: fx.Node) -> Layout:
    source, index = node.args
    layout = flow.layouts.get(source.name) if isinstance(source, fx.Node) else None
    if isinstance(layout, list):
        return layout[index] if isinstance(index, int) else None
    return _indexed(flow, node, layout, flow.shape(node)) if layout is not None else None


def _setitem(flow: Flow, node: fx.Node) -> Layout:
    """`x[index] = value`: the value's dimensions are those of the part that it is written to."""
    target, value = first(flow, node), flow.dims(node.args[2])
    part = _indexed(flow, node, target, None) if target is not None else None
    if value is not None and part is not None:
        part = broadcast(flow, node, [part, value[-len(part) :]], [dim.size for dim in part])
    if part is None and (value is not None or target is None):
        for _, dims in inputs(flow, node):
            close(dims, f"{node.name} writes to a part of it")
    return None


def _indexed(
    flow: Flow, node: fx.Node, layout: tuple[Dim, ...], shape: tuple[int, ...] | None
) -> tuple[Dim, ...] | None:
    """Return the dimensions of ``x[index]``; without its shape, None where a mask decides it."""
    parts = _parts(node, len(layout))
    rest, made = list(layout), []
    spots: list[int] = []  # where tensors index: their dimensions come in place of the first
    picked: list[tuple[Dim, ...]] = []
    masks = False
    for way, part in parts:
        if part is None:
            made.append(Dim(1))
        elif isinstance(part, slice):
            made.append(_slice(flow, node, rest.pop(0), part, way))
        elif number(flow, part) is not None:
            lock(rest.pop(0), READ_BY_INDEX)
        elif isinstance(part, tuple | list) and all(type(p) is int for p in part):
            lock(rest.pop(0), READ_BY_INDEX)
            spots.append(len(made))
            picked.append((locked(len(part), READ_BY_INDEX),))
        elif isinstance(part, fx.Node) and (chosen := flow.dims(part)) is not None:
            mask = is_boolean(flow, part)
            for own in chosen if mask else [rest[0]]:
                lock(rest[0], READ_BY_INDEX)
                if mask:
                    join(flow, node, rest[0], own)
                rest.pop(0)
            spots.append(len(made))
            picked.append(() if mask else chosen)
            masks = masks or mask
        else:
            return None
    if not spots:
        return tuple(made + rest)
    together = spots[-1] == spots[0]
    at = spots[0] if together else 0
    if masks:
        if shape is None:
            return None
        block = shape[at : at + len(shape) - len(made) - len(rest)]
        inner: Any = [locked(size, f"{node.name} computes its size") for size in block]
    else:
        sizes = [1] * max(len(dims) for dims in picked)
        for dims in picked:
            for index, dim in enumerate(reversed(dims), 1):
                sizes[-index] = max(sizes[-index], dim.size)
        inner = broadcast(flow, node, picked, sizes)
    return (*made[:at], *inner, *made[at:], *rest)


def _parts(node: fx.Node, rank: int) -> Parts:
    """Return the index of each axis with its place in the call, an ellipsis written out."""
    index: Any = node.args[1]
    single = not isinstance(index, tuple)
    parts: Parts = [
        (("args", 1) if single else ("args", 1, i), part)
        for i, part in enumerate([index] if single else index)
    ]
    dots = [i for i, (_, part) in enumerate(parts) if part is Ellipsis]
    taken = sum(part is not None and part is not Ellipsis for _, part in parts)
    for at in dots[:1]:
        parts[at : at + 1] = [((), slice(None))] * (rank - taken)
    return parts


def _slice(flow: Flow, node: fx.Node, dim: Dim, part: slice, way: tuple[Any, ...]) -> Dim:
    """Return the part of a dimension that a slice takes, and note its numbers."""
    given = [n if n is None else number(flow, n) for n in (part.start, part.stop, part.step)]
    raw = (part.start, part.stop, part.step)
    unknown = any(g is None and r is not None for g, r in zip(given, raw, strict=True))
    span = range(dim.size) if unknown else range(*slice(*given).indices(dim.size))
    foreign = any(found(d) is not found(dim) for bound in raw for d in measures(flow, bound))
    if given[2] not in (None, 1) or unknown or (foreign and len(span) != dim.size):
        lock(dim, f"{node.name} takes a part of it")
        return locked(len(span), f"{node.name} computes its size")
    start, stop, _ = slice(*given).indices(dim.size)
    stop = max(start, stop)
    part_of = between(dim, start, stop)
    if part_of is None:
        reason = f"{node.name} cuts it across its parts"
        lock(dim, reason)
        return locked(stop - start, reason)
    for name, value in (("start", given[0]), ("stop", given[1])):
        if not value or abs(value) > dim.size:
            continue
        rest = between(dim, *((dim.size + value, dim.size) if value < 0 else (0, value)))
        if rest is not None:
            flow.write(node, (*way, name), rest, -1 if value < 0 else 1)
    return part_of


def _narrow(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    at = axis(node, 1, "dim", len(given)) if given is not None else None
    start, length = (argument(node, 2 + i, name) for i, name in enumerate(("start", "length")))
    if given is None or at is None or not (isinstance(start, int) and isinstance(length, int)):
        return None
    part = between(given[at], start, start + length) if start >= 0 else None
    before = between(given[at], 0, start) if part is not None else None
    if part is None or before is None:
        return None
    if start:
        flow.write(node, place(node, 2, "start"), before)
    flow.write(node, place(node, 3, "length"), part)
    return (*given[:at], part, *given[at + 1 :])


def _picked(flow: Flow, node: fx.Node) -> Layout:
    """`index_select`, `topk`, `kthvalue`: the axis they work along is locked, the others stay."""
    given, seen = first(flow, node), flow.seen(node)
    ranked = "select" not in str(node.target) and node.target != "select"
    default = -1 if ranked else None
    place_of = 2 if ranked else 1
    at = axis(node, place_of, "dim", len(given), default) if given is not None else None
    if given is None or at is None:
        return None
    lock(given[at], READ_BY_INDEX)
    several = isinstance(seen, tuple)
    made = []
    for part in seen if several else (seen,):
        keeps = len(part.shape) == len(given)
        own = (locked(part.shape[at], f"{node.name} computes its size"),) if keeps else ()
        made.append((*given[:at], *own, *given[at + 1 :]))
    return made if several else made[0]


def _gathered(flow: Flow, node: fx.Node) -> Layout:
    """`gather` and `take_along_dim`: each place along the other axes picks for itself."""
    given, index = first(flow, node), None
    swapped = "take" in str(node.target)
    at = axis(node, 2 if swapped else 1, "dim", len(given)) if given is not None else None
    for source, dims in list(inputs(flow, node))[1:]:
        index = dims if source is not node.args[0] else index
    return _aligned(flow, node, given, index, at, index)


def _scattered(flow: Flow, node: fx.Node) -> Layout:
    """`scatter`, `index_add`, `index_copy`: the axis that is written to by index is locked."""
    given = first(flow, node)
    at = axis(node, 1, "dim", len(given)) if given is not None else None
    if given is None or at is None:
        return None
    for source, dims in list(inputs(flow, node))[1:]:
        if len(dims) == len(given):
            if _aligned(flow, node, given, dims, at, given) is None:
                return None
        elif len(dims) != 1 or source is not argument(node, 2, "index"):
            return None
    lock(given[at], READ_BY_INDEX)
    return given


def _aligned(flow: Flow, node: fx.Node, given: Any, other: Any, at: Any, made: Any) -> Layout:
    """Unify two values along all axes but one, which is locked in both."""
    if given is None or other is None or at is None or len(given) != len(other):
        return None
    for index, (mine, theirs) in enumerate(zip(given, other, strict=True)):
        if index != at and mine.size == theirs.size:
            join(flow, node, mine, theirs)
        else:
            for dim in (mine, theirs):
                lock(dim, READ_BY_INDEX)
    return made


RULES: dict[str, Rule] = {
    "getitem": _getitem, "setitem": _setitem, "narrow": _narrow,
    **dict.fromkeys(("indexselect", "select", "topk", "kthvalue"), _picked),
    **dict.fromkeys(("gather", "takealongdim"), _gathered),
    **dict.fromkeys(
        ("scatter", "scatteradd", "scatterreduce", "indexcopy", "indexadd", "indexfill"),
        _scattered),
}  # fmt: skip
