"""Sizes that remember which node they came from."""

import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class Source(Protocol):
    """Whoever records: where arithmetic on sizes becomes nodes."""

    graph: fx.Graph
    active: bool


class Size(int):
    """An integer read from a traced tensor; Python sees the value, the graph sees the node."""

    node: fx.Node
    source: Source

    def __new__(cls, value: int, node: fx.Node, source: Source) -> "Size":
        """Return an integer that remembers a node."""
        size = int.__new__(cls, value)
        size.node, size.source = node, source
        return size

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return (int, (int(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int(self)


def _recorded(name: str, function: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    compute = getattr(int, name)

    def arithmetic(self: Size, other: Any) -> Any:
        value = compute(self, other)
        if value is NotImplemented or not self.source.active:
            return value
        theirs = other.node if isinstance(other, Size) else int(other)
        arguments = (theirs, self.node) if reflected else (self.node, theirs)
        return Size(value, self.source.graph.call_function(function, arguments), self.source)

    return arithmetic


for _operation in ("add", "sub", "mul", "floordiv", "mod"):
    _function = getattr(operator, _operation)
    setattr(Size, f"__{_operation}__", _recorded(f"__{_operation}__", _function, False))
    setattr(Size, f"__r{_operation}__", _recorded(f"__r{_operation}__", _function, True))


def plain(value: Any) -> Any:
    """Return a value with every `Size` in it replaced by the integer it stands for."""
    if isinstance(value, Size):
        return int(value)
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(plain, value))
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def erase_unread_sizes(graph: fx.Graph) -> None:
    """Erase what was written down about sizes and parts that nothing reads in the end."""
    arithmetic = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod}
    for node in reversed(list(graph.nodes)):
        size = node.op == "call_method" and node.target in ("size", "numel")
        read = node.op == "call_function" and node.target in (operator.getitem, getattr)
        sum_of_sizes = node.op == "call_function" and node.target in arithmetic
        if not node.users and (size or read or sum_of_sizes or node.op == "get_attr"):
            graph.erase_node(node)
