"""What a tensor looked like when it was seen: everything but its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from topograph.tracing.structure import tensors_in


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor's looks; `storage` tells which tensors share memory."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    storage: int | None

    def is_floating_point(self) -> bool:
        """Return whether it holds floating-point numbers."""
        return self.dtype.is_floating_point

    def like(self) -> torch.Tensor:
        """Return an empty tensor that looks the same; inside a fake mode, a fake one."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


class Result(NamedTuple):
    """What one call gave, which memory it wrote to, and what it cost."""

    value: Any
    written: frozenset[int]
    flops: int


NOTHING = Result(None, frozenset(), 0)


def look(value: Any, names: Mapping[int, int] | None = None) -> Any:
    """Return a value with `Seen` in place of every tensor in it.

    Args:
        value: Tensors in tuples, lists and dicts.
        names: For a storage, the one that it stands for; by default itself.
    """
    if isinstance(value, torch.Tensor):
        memory = storage(value)
        known = names.get(memory, memory) if names is not None and memory is not None else memory
        strided = value.layout == torch.strided
        return Seen(
            value.shape,
            value.stride() if strided else (),
            value.dtype,
            value.device,
            known,
        )
    if isinstance(value, tuple | list):
        return tuple(look(item, names) for item in value)
    if isinstance(value, Mapping):
        return {key: look(item, names) for key, item in value.items()}
    return value


def storage(tensor: torch.Tensor) -> int | None:
    """Return the identity of a tensor's memory; it is an identity only while the tensor lives."""
    if tensor.layout != torch.strided:
        return None
    return int(tensor.untyped_storage()._cdata)


def storages(value: Any) -> set[int]:
    """Return the identities of all memory inside a value."""
    return {memory for tensor in tensors_in(value) if (memory := storage(tensor)) is not None}
