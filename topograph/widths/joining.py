"""Operations that put values together and take them apart: how dimensions are stacked."""

from typing import Any

from torch import fx

from topograph.widths.arguments import (
    argument,
    axis,
    first,
    locked,
    number,
    place,
    sequence,
    spread,
)
from topograph.widths.dims import Dim, between, lock, product, stack
from topograph.widths.flow import Flow, Layout, Rule, join

READ_BY_INDEX = "single indices of it are read"


def _repeat(flow: Flow, node: fx.Node) -> Layout:
    given, shape = first(flow, node), flow.shape(node)
    word = "dims" if "tile" in str(node.target) else "repeats"
    way, times = spread(node, 1, word)
    if given is None or len(times) > len(shape):
        return None
    padded = [Dim(1)] * (len(shape) - len(given)) + list(given)
    made = []
    for index, (dim, size) in enumerate(zip(padded, shape, strict=True)):
        if dim.size == size:
            made.append(dim)
        elif dim.size == 1:  # as many copies as the values that it will meet have units
            lock(dim, f"{node.name} repeats its one entry")
            made.append(Dim(size))
            at = index - (len(shape) - len(times))
            if way == ("args",):
                at += 1
            flow.write(node, (*way, at), made[-1])
        else:
            count = locked(size // dim.size, f"{node.name} writes how often it repeats")
            made.append(product([count, dim]))
    return tuple(made)


def _repeat_interleave(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    times = number(flow, argument(node, 1, "repeats"))
    if given is None:
        return None
    written = f"{node.name} writes how often it repeats"
    if argument(node, 2, "dim") is None:
        if times is None:
            return None
        return (product([*given, locked(times, written)]),)
    at = axis(node, 2, "dim", len(given))
    if at is None:
        return None
    if times is None:  # its own number for each entry
        lock(given[at], written)
        made = locked(flow.shape(node)[at], written)
    else:
        made = product([given[at], locked(times, written)])
    return (*given[:at], made, *given[at + 1 :])


def _cat(flow: Flow, node: fx.Node) -> Layout:
    rank = len(flow.shape(node))
    parts = sequence(flow, argument(node, 0, "tensors"))
    parts = [part for part in parts if part is None or [d.size for d in part] != [0]]
    known = [part for part in parts if part is not None and len(part) == rank]
    at = axis(node, 1, "dim", rank, 0)
    if not known or len(known) != len(parts) or at is None:
        return None
    made = list(known[0])
    for part in known[1:]:
        for index, dim in enumerate(part):
            if index != at:
                join(flow, node, made[index], dim)
    made[at] = stack(part[at] for part in known)
    return tuple(made)


def _stack(flow: Flow, node: fx.Node) -> Layout:
    parts = sequence(flow, argument(node, 0, "tensors"))
    known = [part for part in parts if part is not None]
    at = axis(node, 1, "dim", len(flow.shape(node)), 0)
    if not known or len(known) != len(parts) or at is None:
        return None
    for part in known[1:]:
        for mine, theirs in zip(known[0], part, strict=True):
            join(flow, node, mine, theirs)
    count = locked(len(parts), f"{node.name} stacks that many values")
    return (*known[0][:at], count, *known[0][at:])


def _split(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    at = axis(node, 2, "dim", len(given), 0) if given is not None else None
    if given is None or at is None:
        return None
    made, begin = [], 0
    for seen in flow.seen(node):
        part = between(given[at], begin, begin + seen.shape[at])
        if part is None:
            lock(given[at], f"{node.name} cuts it across its parts")
            part = locked(seen.shape[at], f"{node.name} cuts it across its parts")
        made.append(part)
        begin += seen.shape[at]
    names = ("chunks", "split_size", "split_size_or_sections", "split_sizes")
    name = next((name for name in names if name in node.kwargs), "chunks")
    sizes = argument(node, 1, name)
    if isinstance(sizes, tuple | list):
        for index, part in enumerate(made):
            flow.write(node, (*place(node, 1, name), index), part)
    else:
        flow.chunked[node.name] = made
    return [(*given[:at], part, *given[at + 1 :]) for part in made]


def _unbind(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    at = axis(node, 1, "dim", len(given), 0) if given is not None else None
    if given is None or at is None:
        return None
    lock(given[at], READ_BY_INDEX)
    return [(*given[:at], *given[at + 1 :]) for _ in range(given[at].size)]


def halved(flow: Flow, node: fx.Node, given: Any, at: Any) -> Layout:
    """Follow a gate: the second half of an axis gates the first."""
    if given is None or not isinstance(at, int):
        return None
    at %= len(given)
    half = given[at].size // 2
    left, right = between(given[at], 0, half), between(given[at], half, 2 * half)
    if left is None or right is None:
        return None
    join(flow, node, left, right)
    return (*given[:at], left, *given[at + 1 :])


def _glu(flow: Flow, node: fx.Node) -> Layout:
    return halved(flow, node, first(flow, node), argument(node, 1, "dim", -1))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("repeat", "tile"), _repeat), "repeatinterleave": _repeat_interleave,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat), "stack": _stack, "glu": _glu,
    **dict.fromkeys(("chunk", "split", "splitwithsizes"), _split), "unbind": _unbind,
}  # fmt: skip
