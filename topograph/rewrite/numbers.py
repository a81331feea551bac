"""Numbers in a graph: sizes that are computed while it runs, and constants in arguments."""

import operator
from typing import Any

from torch import fx

from topograph.widths.flow import Flow
from topograph.widths.indices import Indices

Number = Any  # an int, a float, or a tuple of sizes
ARITHMETIC = (
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
    operator.neg, operator.getitem, operator.pow,
)  # fmt: skip


def numbers_after(flow: Flow, indices: Indices) -> dict[str, Number]:
    """Return the values that a graph's size nodes have after an edit, by node name."""
    found: dict[str, Number] = {}
    for node in flow.traced.module.graph.nodes:
        value = _size(node, flow, indices)
        if value is None and node.op == "call_function" and node.target in ARITHMETIC:
            value = _computed(node, found)
        if value is not None:
            found[node.name] = value
    return found


def _size(node: fx.Node, flow: Flow, indices: Indices) -> Number:
    method = node.op == "call_method" and node.target == "size"
    shape = node.target is getattr and node.args[1:] == ("shape",)
    dims = flow.dims(node.args[0]) if method or shape else None
    if dims is None:
        return None
    sizes = tuple(indices.size(dim) for dim in dims)
    if shape or (len(node.args) == 1 and not node.kwargs):
        return sizes
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return sizes[axis] if isinstance(axis, int) else None


def _computed(node: fx.Node, known: dict[str, Number]) -> Number:
    values = [known.get(a.name) if isinstance(a, fx.Node) else a for a in node.args]
    if not node.args or any(not isinstance(value, int | float | tuple) for value in values):
        return None
    try:
        return node.target(*values)  # type: ignore[operator]
    except (ArithmeticError, IndexError, TypeError):
        return None


def read_at(node: fx.Node, way: tuple[Any, ...]) -> Any:
    """Return what stands at a place in a call's arguments."""
    value: Any = node
    for step in way:
        value = getattr(value, step) if isinstance(value, fx.Node | slice) else value[step]
    return value


def written_at(node: fx.Node, way: tuple[Any, ...], number: int) -> None:
    """Put a number at a place in a call's arguments."""
    setattr(node, way[0], _exchanged(getattr(node, way[0]), way[1:], number))


def _exchanged(value: Any, way: tuple[Any, ...], number: int) -> Any:
    if not way:
        return number
    if isinstance(value, slice):
        parts = {name: getattr(value, name) for name in ("start", "stop", "step")}
        parts[way[0]] = number
        return slice(parts["start"], parts["stop"], parts["step"])
    if isinstance(value, dict):
        return {**value, way[0]: _exchanged(value[way[0]], way[1:], number)}
    items = list(value)
    items[way[0]] = _exchanged(items[way[0]], way[1:], number)
    return tuple(items) if isinstance(value, tuple) else items
