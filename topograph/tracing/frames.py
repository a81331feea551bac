"""What went into and came out of every opened submodule, so that it can run alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from topograph.tracing.structure import AS_IT_IS, Mould


class Name(str):
    """The name of a node, among constants."""


@dataclass(frozen=True)
class Frame:
    """One call of a submodule.

    Attributes:
        args: Positional arguments; tensors and sizes are nodes (later `Name`).
        kwargs: Keyword arguments, likewise.
        output: What it returned, in plain tuples, lists and dicts.
        mould: How to make the returned value from them.
    """

    args: Any
    kwargs: Any
    output: Any
    mould: Mould = AS_IT_IS

    def named(self) -> "Frame":
        """Return the frame with the names of nodes in place of the nodes."""
        args, kwargs, output = (names_of(p) for p in (self.args, self.kwargs, self.output))
        return replace(self, args=args, kwargs=kwargs, output=output)

    def renamed(self, names: Mapping[str, str]) -> "Frame":
        """Return the frame where other nodes carry some of the values."""
        args, kwargs, output = (
            exchange(part, names) for part in (self.args, self.kwargs, self.output)
        )
        return replace(self, args=args, kwargs=kwargs, output=output)


def names_of(value: Any) -> Any:
    """Return a nest with a `Name` for each node in it."""
    if isinstance(value, fx.Node):
        return Name(value.name)
    if type(value) in (tuple, list):
        return type(value)(names_of(item) for item in value)
    if type(value) is dict:
        return {key: names_of(item) for key, item in value.items()}
    return value


def exchange(value: Any, names: Mapping[str, str]) -> Any:
    """Return a nest with other names for some of its nodes."""
    if isinstance(value, Name):
        return Name(names.get(value, value))
    if type(value) in (tuple, list):
        return type(value)(exchange(item, names) for item in value)
    if type(value) is dict:
        return {key: exchange(item, names) for key, item in value.items()}
    return value


def names_in(value: Any) -> list[Name]:
    """Return the names of nodes in a nest, in order."""
    if isinstance(value, Name):
        return [value]
    if type(value) in (tuple, list):
        return [name for item in value for name in names_in(item)]
    if type(value) is dict:
        return [name for item in value.values() for name in names_in(item)]
    return []
