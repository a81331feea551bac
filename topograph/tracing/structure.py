"""Values of the user's own types: taken apart into tuples, lists and dicts, and made again.

A graph holds tensors in tuples, lists and dicts. Named tuples, dataclasses, a library's output
classes and other objects with tensors in them are taken apart before a graph sees them; a `Mould`
makes them again from the parts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

MOST_LEVELS = 6


@dataclass(frozen=True)
class Mould:
    """How a value is put together again.

    Attributes:
        kind: The class of the value; None where it is no container.
        parts: For each part that has a mould of its own, its key and mould.
        rest: What the value holds besides its parts, e.g. counters of a cache.
    """

    kind: type | None = None
    parts: tuple[tuple[Any, "Mould"], ...] = ()
    rest: tuple[tuple[str, Any], ...] = ()

    def pour(self, value: Any) -> Any:
        """Return a value of the original class, from its parts."""
        if self.kind is None:
            return value
        inner = dict(self.parts)
        if isinstance(value, Mapping):
            made = {k: inner[k].pour(v) if k in inner else v for k, v in value.items()}
            return _with_fields(self.kind, made, self.rest)
        items = [inner[i].pour(v) if i in inner else v for i, v in enumerate(value)]
        return self.kind(*items) if hasattr(self.kind, "_fields") else self.kind(items)


AS_IT_IS = Mould()


def take_apart(value: Any, level: int = 0) -> tuple[Any, Mould]:
    """Return a value in plain tuples, lists and dicts, and how to make it again.

    Args:
        value: Anything. What holds no tensors inside an object stays with the mould.
        level: How deep inside another value this is; objects nested deeper stay whole.
    """
    if value is None or isinstance(value, torch.Tensor | int | float | str):
        return value, AS_IT_IS
    kind = type(value)
    if isinstance(value, tuple | list):
        taken = [take_apart(item, level + 1) for item in value]
        parts = tuple((i, m) for i, (_, m) in enumerate(taken) if m.kind is not None)
        plain: Any = (tuple if isinstance(value, tuple) else list)(item for item, _ in taken)
        ordinary = kind in (tuple, list, torch.Size) and not parts
        return plain, AS_IT_IS if ordinary else Mould(
            kind if kind is not torch.Size else tuple, parts
        )
    fields, rest = _fields(value, level)
    if fields is None:
        return value, AS_IT_IS
    inside = {key: take_apart(item, level + 1) for key, item in fields.items()}
    parts = tuple((key, m) for key, (_, m) in inside.items() if m.kind is not None)
    plain = {key: item for key, (item, _) in inside.items()}
    return plain, AS_IT_IS if kind is dict and not parts else Mould(kind, parts, rest)


def has_tensors(value: Any, level: int = 0) -> bool:
    """Return whether a tensor is inside a value."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, tuple | list):
        return any(has_tensors(item, level + 1) for item in value)
    if value is None or isinstance(value, int | float | str) or level > MOST_LEVELS:
        return False
    fields, _ = _fields(value, level)
    return any(has_tensors(item, level + 1) for item in (fields or {}).values())


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))


def anew(output: Any, inputs: Any) -> Any:
    """Give an output that is one of the inputs (Identity, dropout in eval) its own object."""
    given = {id(tensor) for tensor in tensors_in(inputs)}
    if isinstance(output, torch.Tensor):
        return output.view_as(output) if id(output) in given else output

    def own(value: Any) -> Any:
        return value.view_as(value) if id(value) in given else value

    return pytree.tree_map_only(torch.Tensor, own, output)


def _fields(value: Any, level: int) -> tuple[dict[Any, Any] | None, tuple[tuple[str, Any], ...]]:
    """Return the parts of an object that hold tensors, and what else it holds."""
    if isinstance(value, Mapping):
        return dict(value), ()
    if isinstance(value, type | torch.nn.Module) or level > MOST_LEVELS:
        return None, ()
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return {name: getattr(value, name) for name in names}, ()
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict):
        return None, ()
    parts = {name: item for name, item in held.items() if has_tensors(item, level + 1)}
    rest = tuple((name, item) for name, item in held.items() if name not in parts)
    return (parts or None), rest


def _with_fields(kind: type, fields: dict[Any, Any], rest: tuple[tuple[str, Any], ...]) -> Any:
    if kind is dict:
        return fields
    if issubclass(kind, Mapping) and not dataclasses.is_dataclass(kind):
        made: Any = kind(fields)  # type: ignore[call-arg]
        return made
    if issubclass(kind, Mapping):
        return kind(**fields)
    made = object.__new__(kind)
    for name, value in (*rest, *fields.items()):
        object.__setattr__(made, name, value)
    return made
