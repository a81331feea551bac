"""What an optimizer keeps of one parameter, when the parameter gets another size."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from topograph.errors import MigrationError
from topograph.rewrite.resize import carried
from topograph.widths.indices import Index

Places = tuple[Index | None, ...]


def resized_state(state: Mapping[str, Any], old: Tensor, places: Places) -> dict[str, Any]:
    """Return a state with its entries where those of its parameter are; new ones are 0."""
    made = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim == old.ndim and value.ndim:
            own = zip(places, value.shape, old.shape, strict=True)
            value = carried(value, tuple(p if size == all_ else None for p, size, all_ in own))
        made[key] = value
    return made


def check_state(name: str, path: str, old: Tensor, state: Mapping[str, Any]) -> None:
    """Refuse a state that cannot be carried: neither scalars nor tensors along the parameter."""
    for key, value in state.items():
        fits = not isinstance(value, Tensor) or value.numel() == 1 or _lies_along(value, old)
        if not fits or isinstance(value, list | tuple | dict):
            kind = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise MigrationError(
                f"{name} keeps {key!r} of {kind} for {path} {list(old.shape)}; only tensors of the "
                "parameter's shape, its sums and scalars can be carried to another size"
            )


def _lies_along(value: Tensor, old: Tensor) -> bool:
    """Return whether each axis of a state is the parameter's, or has been summed over."""
    pairs = zip(value.shape, old.shape, strict=False)
    return value.ndim == old.ndim and all(size in (1, whole) for size, whole in pairs)
