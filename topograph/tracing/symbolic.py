"""Symbolic tracing, for when there are no example inputs: no values, so no shapes either."""

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from topograph.errors import TraceError
from topograph.tracing.leaves import is_leaf


class SymbolicTracer(fx.Tracer):
    """`torch.fx.Tracer` with this package's leaves; remembers which module made each call."""

    def __init__(self, closed: Mapping[str, str], opened: frozenset[str]) -> None:
        super().__init__()
        self.owners: dict[str, str] = {}
        self.first_input: fx.Node | None = None
        self._closed, self._opened = closed, opened

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        """Return whether a module's call is one node."""
        return path in self._closed or (is_leaf(module) and path not in self._opened)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Write down a call and who made it."""
        node = super().create_node(*args, **kwargs)
        self.owners[node.name] = next(reversed(self.module_stack), "") if self.module_stack else ""
        return node


def trace_symbolically(
    model: nn.Module, closed: Mapping[str, str], opened: frozenset[str]
) -> SymbolicTracer:
    """Return a tracer that has traced a model: its graph, and which module made each call.

    Raises:
        TraceError: The model's control flow depends on values; says which line of it.
    """
    tracer = SymbolicTracer(closed, opened)
    try:
        tracer.trace(model)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be traced without example inputs: "
            f"{type(error).__name__}: {error}; pass example_inputs=(…), so that it can be recorded"
        ) from error
    return tracer
