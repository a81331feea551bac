"""A graph on the original module tree."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import fx, nn

from topograph.errors import ShapeError, TraceError
from topograph.tracing.guard import guard
from topograph.tracing.structure import AS_IT_IS, Mould, take_apart

Constants = tuple[tuple[int, str, Any], ...]


@dataclass(frozen=True)
class Calling:
    """How a graph is called as the model was.

    Attributes:
        constants: Position, name and value of inputs that were constants.
        mould: How to make the model's output from the graph's.
    """

    constants: Constants = ()
    mould: Mould = AS_IT_IS

    def run(self, graph: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a graph's function with the model's inputs; return what the model would.

        Raises:
            ShapeError: An input that was a constant is another one now.
        """
        for position, name, constant in self.constants:
            given = args[position] if position < len(args) else kwargs.get(name, constant)
            if given is not constant and (type(given) is not type(constant) or given != constant):
                raise ShapeError(
                    f"the model was traced with {name}={constant!r}, so it cannot be called with "
                    f"another value ({type(given).__name__}); trace it with that input"
                )
        plain = [take_apart(value)[0] for value in args]
        named = {name: take_apart(value)[0] for name, value in kwargs.items()}
        return self.mould.pour(graph(*plain, **named))


AS_RECORDED = Calling()
STATE = ("_parameters", "_buffers", "_modules")


class Network(fx.GraphModule):
    """A `torch.fx.GraphModule` that keeps the whole module tree it was recorded from.

    A plain ``GraphModule`` holds only what its graph refers to, so that unused parameters, tied
    names and the persistence of buffers are lost; this one has the same ``state_dict`` keys,
    parameters and buffers as the original, also after ``deepcopy``. Inputs that were constants
    while it was recorded, None among them, are part of the graph: a call with others is an error.
    """

    calling: Calling = AS_RECORDED

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, unless an input differs from what it was recorded with."""
        return self.calling.run(super().__call__, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        copied: Network = super().__deepcopy__(memo)  # type: ignore[assignment]
        _graft(copied, {name: copy.deepcopy(getattr(self, name), memo) for name in STATE})
        copied._non_persistent_buffers_set = set(self._non_persistent_buffers_set)
        copied.calling = self.calling
        return copied

    def __reduce__(self) -> Any:
        raise TraceError(
            "a recorded network is not pickled (loading would trace it anew, and wrongly); "
            "save model.state_dict(), or keep the run in a run directory"
        )


def build(graph: fx.Graph, tree: nn.Module, name: str, calling: Calling = AS_RECORDED) -> Network:
    """Return a module that runs a graph on a module tree, after the guard has passed it.

    The tree's top-level containers are copied, so that adding a module to the network adds none to
    the tree; modules, parameters and buffers are shared.

    Raises:
        GuardError: The graph holds something that must not reach generated code.
    """
    guard(graph, tree)
    named = name if name.isidentifier() else "Network"
    network: Network = Network(tree, graph, class_name=named)
    _graft(network, {store: dict(getattr(tree, store)) for store in STATE})
    network._non_persistent_buffers_set = set(tree._non_persistent_buffers_set)
    network.training = tree.training
    network.calling = calling
    return network


@cache
def _own_names() -> frozenset[str]:
    """Return the names that a network has beside those of every module; what is None gives way."""
    network = Network({}, fx.Graph())
    names = set(dir(network)) - set(dir(nn.Module()))
    return frozenset(name for name in names if getattr(network, name) is not None)


def taken(tree: nn.Module) -> dict[str, str]:
    """Return what at the top of a tree has a name that a network needs for itself."""
    return {
        name: store.strip("_").removesuffix("s").replace("module", "submodule")
        for store in STATE
        for name in getattr(tree, store)
        if name in _own_names()
    }


def _graft(network: Network, stores: dict[str, dict[str, Any]]) -> None:
    for name, store in stores.items():
        network.__dict__[name] = store
