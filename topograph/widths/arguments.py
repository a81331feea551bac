"""What the rules ask of a call: its arguments, its axes, the dimensions that it reads."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn

from topograph.tracing.seen import Seen
from topograph.tracing.sizes import ARITHMETIC
from topograph.widths.dims import Dim, lock
from topograph.widths.flow import Flow, join


def first(flow: Flow, node: fx.Node) -> tuple[Dim, ...] | None:
    """Return the dimensions of a call's first argument; None where it is no tensor."""
    given = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return flow.dims(given)


def named(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, without underscores around."""
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def number(flow: Flow, given: Any) -> int | None:
    """Return an argument's value where it is a whole number, also one that the graph computes."""
    value = _value(flow, given)
    return value if type(value) is int else None


def _value(flow: Flow, given: Any) -> Any:
    """Return a constant, or what the graph computes from sizes; None where that is not known."""
    if not isinstance(given, fx.Node):
        return given
    if given.name not in flow.numbers:
        flow.numbers[given.name] = _computed(flow, given)
    return flow.numbers[given.name]


def _computed(flow: Flow, node: fx.Node) -> Any:
    source = measured(flow, node)
    if source is not None:
        return source.size
    if node.target not in ARITHMETIC and node.target is not operator.getitem:
        return None
    values = [_value(flow, part) for part in node.args]
    if not all(isinstance(value, int | float) for value in values):
        return None
    try:
        return node.target(*values)
    except (ArithmeticError, TypeError, ValueError):
        return None


def measured(flow: Flow, node: fx.Node) -> Dim | None:
    """Return the dimension whose size a node reads; None where it reads none."""
    of: Any = node.args[0] if node.args else None
    if node.op == "call_method" and node.target == "size":
        at = argument(node, 1, "dim")
    elif node.target is operator.getitem and isinstance(of, fx.Node) and of.target is getattr:
        at = node.args[1] if of.args[1] == "shape" else None
        of = of.args[0]
    else:
        return None
    dims = flow.dims(of)
    return dims[at] if dims is not None and isinstance(at, int) else None


def measures(flow: Flow, node: Any) -> Iterator[Dim]:
    """Yield all dimensions whose sizes a number is computed from."""
    if isinstance(node, fx.Node):
        source = measured(flow, node)
        if source is not None:
            yield source
        else:
            for part in node.all_input_nodes:
                yield from measures(flow, part)


def locked(size: int, reason: str) -> Dim:
    """Return a new dimension that cannot change."""
    dim = Dim(size)
    lock(dim, reason)
    return dim


def broadcast(
    flow: Flow, node: fx.Node, values: Sequence[tuple[Dim, ...]], shape: Sequence[int]
) -> tuple[Dim, ...] | None:
    """Unify values that are combined to one of a shape; an axis of one entry is repeated."""
    made: list[Dim | None] = [None] * len(shape)
    for dims in values:
        if len(dims) > len(shape):
            return None
        for index, dim in enumerate(reversed(dims), 1):
            if dim.size != shape[-index]:
                lock(dim, f"{node.name} repeats its one entry")
            elif (known := made[-index]) is None:
                made[-index] = dim
            else:
                join(flow, node, known, dim)
    return tuple(dim or Dim(size) for dim, size in zip(made, shape, strict=True))


def sequence(flow: Flow, given: Any) -> list[tuple[Dim, ...] | None]:
    """Return the dimensions of the tensors in a list, also one that another call returned."""
    if isinstance(given, fx.Node):
        layout = flow.layouts.get(given.name)
        return [dims if isinstance(dims, tuple) else None for dims in layout or ()]
    return [flow.dims(part) for part in given] if isinstance(given, tuple | list) else []


def is_boolean(flow: Flow, node: fx.Node) -> bool:
    """Return whether a node's value is a mask."""
    seen = flow.seen(node)
    return isinstance(seen, Seen) and str(seen.dtype) in ("torch.bool", "torch.uint8")


def inputs(flow: Flow, node: fx.Node) -> Iterator[tuple[fx.Node, tuple[Dim, ...]]]:
    """Yield every tensor that a call reads, in argument order, with its dimensions."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    for source in found:
        dims = flow.dims(source)
        if dims is not None:
            yield source, dims


def held(flow: Flow, module: nn.Module, name: str) -> tuple[Dim, ...] | None:
    """Return the dimensions of a module's parameter or buffer; None where it has none."""
    tensor = getattr(module, name, None)
    return flow.tensor(tensor) if isinstance(tensor, Tensor) else None


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """Return an argument by position or name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def place(node: fx.Node, index: int, name: str) -> tuple[Any, ...]:
    """Return where an argument stands in a call."""
    return ("args", index) if len(node.args) > index else ("kwargs", name)


def axis(node: fx.Node, index: int, name: str, rank: int, default: Any = None) -> int | None:
    """Return an argument that names an axis, counted from 0; None where it is not one number."""
    given = argument(node, index, name, node.kwargs.get("axis", default))
    return given % rank if isinstance(given, int) and rank else None


def axes(given: Any, rank: int) -> Sequence[int] | None:
    """Return axes counted from 0; all where none are given; None where they are not numbers."""
    if given is None or given == ():
        return range(rank)
    several = list(given) if isinstance(given, tuple | list) else [given]
    return [g % rank for g in several] if all(type(g) is int for g in several) else None


def spread(node: fx.Node, index: int, name: str) -> tuple[tuple[Any, ...], Sequence[Any]]:
    """Return numbers that are given one by one or as one sequence, and where the first stands."""
    given: Any = node.args[index:]
    if given and isinstance(given[0], tuple | list):
        return ("args", index), given[0]
    if given:
        return ("args",), given
    named_so = node.kwargs.get(name, ())
    return ("kwargs", name), named_so if isinstance(named_so, tuple | list) else ()
