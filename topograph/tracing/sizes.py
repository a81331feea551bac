"""Numbers that remember which size of which tensor they came from.

Python's control flow sees the value; the graph sees the node. The node is written only when
something in the graph reads the number, so that sizes which merely pass by leave nothing behind.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class Source(Protocol):
    """Whoever records: where a number's node is written."""

    active: bool

    def number(self, op: str, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
        """Write down how a number is made and return its node."""


class Number:
    """What `Size` and `Real` share: how the number is made, written down on first use."""

    source: Source
    made: tuple[str, Any, tuple[Any, ...]]
    written: fx.Node | None

    @property
    def node(self) -> fx.Node:
        """The node that makes this number in the graph."""
        if self.written is None:
            op, target, arguments = self.made
            nodes = tuple(a.node if isinstance(a, Number) else a for a in arguments)
            self.written = self.source.number(op, target, nodes)
        return self.written


class Size(Number, int):
    """An integer read from the shape of a traced tensor, or computed from such integers."""

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return (int, (int.__int__(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int.__int__(self)


class Real(Number, float):
    """A floating-point number computed from sizes, such as half a height."""

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return (float, (float.__float__(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> float:
        return float.__float__(self)


def remember(value: Any, source: Source, op: str, target: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a number that remembers how it was made; anything else as it is."""
    if not source.active or isinstance(value, bool | complex):
        return value
    number: Any
    if isinstance(value, int):
        number = int.__new__(Size, value)
    elif isinstance(value, float):
        number = float.__new__(Real, value)
    else:
        return value
    number.source, number.made, number.written = source, (op, target, arguments), None
    return number


def _binary(base: type, name: str, function: Callable[..., Any], reflected: bool) -> Any:
    compute = getattr(base, name)

    def arithmetic(self: Any, other: Any, *modulus: Any) -> Any:
        value = compute(self, other, *modulus)
        if value is NotImplemented and isinstance(other, float):
            value = getattr(float, name)(float(self), other)
        if value is NotImplemented or modulus or not isinstance(other, int | float):
            return value
        arguments = (other, self) if reflected else (self, other)
        return remember(value, self.source, "call_function", function, arguments)

    return arithmetic


def _unary(base: type, name: str, function: Callable[..., Any]) -> Any:
    compute = getattr(base, name)

    def arithmetic(self: Any) -> Any:
        return remember(compute(self), self.source, "call_function", function, (self,))

    return arithmetic


for _base, _class in ((int, Size), (float, Real)):
    for _operation in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow"):
        _function = getattr(operator, _operation)
        setattr(_class, f"__{_operation}__", _binary(_base, f"__{_operation}__", _function, False))
        setattr(_class, f"__r{_operation}__", _binary(_base, f"__r{_operation}__", _function, True))
    setattr(_class, "__neg__", _unary(_base, "__neg__", operator.neg))  # noqa: B010
for _name in ("ceil", "floor", "trunc"):
    setattr(Real, f"__{_name}__", _unary(float, f"__{_name}__", getattr(math, _name)))

ARITHMETIC = frozenset(
    (
        operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod,
        operator.truediv, operator.pow, operator.neg, math.ceil, math.floor, math.trunc, math.sqrt,
    )
)  # fmt: skip
SIZES = ("size", "numel")


def is_size(node: fx.Node) -> bool:
    """Return whether a node reads a size, or computes with sizes only."""
    if node.op == "call_method":
        return node.target in SIZES
    return (
        node.op == "call_function"
        and node.target in ARITHMETIC
        and all(is_size(source) for source in node.all_input_nodes)
    )


def erase_unread(graph: fx.Graph) -> None:
    """Erase parts of values, parameters and sizes that nothing reads in the end."""
    for node in reversed(list(graph.nodes)):
        read = node.op == "call_function" and node.target in (operator.getitem, getattr)
        if not node.users and (read or node.op == "get_attr" or is_size(node)):
            graph.erase_node(node)
