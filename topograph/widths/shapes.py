"""Operations that only move numbers: how their dimensions are made of each other."""

import math
from typing import Any

from torch import fx

from topograph.widths.arguments import argument, axis, first, inputs, locked, place, spread
from topograph.widths.dims import Dim, factors, lock, match, product, unify
from topograph.widths.flow import Flow, Layout, Rule, join
from topograph.widths.images import unfold_layer


def regroup(flow: Flow, node: fx.Node, given: tuple[Dim, ...], sizes: tuple[int, ...]) -> Layout:
    """Return the dimensions after a reshape: merged ones are products, split ones factors."""
    made: list[Dim] = []
    left, right = list(given)[::-1], list(sizes)[::-1]
    if 0 in sizes:
        return None
    while left or right:
        if left and left[-1].size == 1 and not (right and right[-1] == 1):
            lock(left.pop(), f"{node.name} drops this axis of one")
            continue
        if right and right[-1] == 1 and not (left and left[-1].size == 1):
            made.append(Dim(right.pop()))
            continue
        if not left or not right:
            return None
        ins, outs = [left.pop()], [right.pop()]
        while (have := math.prod(d.size for d in ins)) != (want := math.prod(outs)):
            side: list[Any] = left if have < want else right
            if not side:
                return None
            (ins if have < want else outs).append(side.pop())
        made += _group(node, ins, outs)
    return tuple(made)


def _group(node: fx.Node, ins: list[Dim], outs: list[int]) -> list[Dim]:
    if len(ins) == len(outs) == 1:
        return ins
    made = [Dim(size) for size in outs]
    pairs = match(factors(product(ins)), factors(product(made)))
    if pairs is not None:
        for old, new in pairs:
            unify(old, new, f"{node.name} cuts it across its parts")
        return made
    for dim in (*ins, *made):
        lock(dim, f"{node.name} cuts it across its parts")
    return made


def _reshape(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    made = regroup(flow, node, given, flow.shape(node))
    _sized(flow, node, 1, made)
    return made


def _sized(flow: Flow, node: fx.Node, begin: int, made: Layout) -> None:
    """Note the sizes that a call is given: as several arguments, or as one sequence."""
    if made is None:
        return
    names = ("shape", "size", "sizes", "dims")
    way, sizes = spread(node, begin, next((n for n in names if n in node.kwargs), "size"))
    offset = begin if way == ("args",) else 0
    if len(sizes) == len(made):
        for index, (size, dim) in enumerate(zip(sizes, made, strict=True)):
            if isinstance(size, fx.Node) or (isinstance(size, int) and size >= 0):
                flow.write(node, (*way, index + offset), dim)


def _flatten(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    return regroup(flow, node, given, flow.shape(node)) if given is not None else None


def _unflatten(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    made = regroup(flow, node, given, flow.shape(node))
    at = axis(node, 1, "dim", len(given))
    sizes = argument(node, 2, "sizes")
    if made is not None and at is not None and isinstance(sizes, tuple | list):
        for index, size in enumerate(sizes):
            if not isinstance(size, int) or size >= 0:
                flow.write(node, (*place(node, 2, "sizes"), index), made[at + index])
    return made


def _permute(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    _, order = spread(node, 1, "dims")
    if given is None or len(order) != len(given) or not all(isinstance(o, int) for o in order):
        return None
    return tuple(given[o] for o in order)


def _transpose(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    one = axis(node, 1, "dim0", len(given), node.kwargs.get("axis0"))
    two = axis(node, 2, "dim1", len(given), node.kwargs.get("axis1"))
    if one is None or two is None:
        return None
    made = list(given)
    made[one], made[two] = made[two], made[one]
    return tuple(made)


def _move(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    one, two = (argument(node, 1 + i, n) for i, n in enumerate(("source", "destination")))
    if given is None or not (isinstance(one, int) and isinstance(two, int)):
        return None
    rest = list(given)
    rest.insert(two % len(given), rest.pop(one))
    return tuple(rest)


def _turned(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    return given[:-2] + given[-2:][::-1] if given is not None else None


def _attribute(flow: Flow, node: fx.Node) -> Layout:
    name, given = node.args[1], first(flow, node)
    if name in ("mT", "mH") or (name in ("T", "H") and given is not None and len(given) < 3):
        return _turned(flow, node)
    return given if name in ("real", "imag", "data") else None


def _unsqueeze(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    at = axis(node, 1, "dim", len(given) + 1) if given is not None else None
    return (*given[:at], Dim(1), *given[at:]) if given is not None and at is not None else None


def _squeeze(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    for dim in given:
        if dim.size == 1:
            lock(dim, f"{node.name} drops this axis of one")
    return regroup(flow, node, given, flow.shape(node))


def _expand(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    shape = flow.shape(node)
    made: list[Dim] = [Dim(size) for size in shape]
    for index, dim in enumerate(reversed(given), 1):
        if dim.size == shape[-index]:
            made[-index] = dim
        else:
            lock(dim, f"{node.name} repeats its one entry")
    other = flow.dims(argument(node, 1, "other"))
    if other is not None:
        for mine, theirs in zip(made, other, strict=True):
            join(flow, node, mine, theirs)
    else:
        _sized(flow, node, 1, tuple(made))
    return tuple(made)


def _make(flow: Flow, node: fx.Node) -> Layout:
    made = tuple(Dim(size) for size in flow.shape(node))
    method = node.op == "call_method"  # x.new_zeros(size): the sizes follow the tensor
    _sized(flow, node, 1 if method else 0, made)
    return made


def _alike(flow: Flow, node: fx.Node) -> Layout:
    return next((dims for _, dims in inputs(flow, node)), None)


def _triangle(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    for dim in given[-2:] if given is not None else ():
        lock(dim, f"{node.name} depends on the order of its units")
    return given


def _windows(flow: Flow, node: fx.Node) -> Layout:
    """`Tensor.unfold`: windows along one axis; the entries of a window come last."""
    if node.op == "call_function" and "functional" in str(getattr(node.target, "__module__", "")):
        return unfold_layer(flow, node)
    given, shape = first(flow, node), flow.shape(node)
    at = axis(node, 1, "dimension", len(given)) if given is not None else None
    if given is None or at is None or len(shape) != len(given) + 1:
        return None
    reason = f"{node.name} slides along it"
    lock(given[at], reason)
    return (*given[:at], locked(shape[at], reason), *given[at + 1 :], locked(shape[-1], reason))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape"), _reshape), "flatten": _flatten, "ravel": _flatten,
    "unflatten": _unflatten, "reshapeas": _flatten, "viewas": _flatten, "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose), "t": _turned,
    **dict.fromkeys(("movedim", "moveaxis"), _move), "adjoint": _turned,
    "getattr": _attribute, "unsqueeze": _unsqueeze, "squeeze": _squeeze,
    **dict.fromkeys(("expand", "expandas", "broadcastto"), _expand),
    **dict.fromkeys(
        "zeros ones empty full rand randn newzeros newones newempty newfull".split(), _make),
    **dict.fromkeys("zeroslike oneslike emptylike fulllike randlike randnlike".split(), _alike),
    **dict.fromkeys(("tril", "triu"), _triangle), "unfold": _windows,
}  # fmt: skip
