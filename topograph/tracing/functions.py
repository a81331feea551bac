"""What the recorder knows about torch's functions."""

import operator
from collections.abc import Callable
from typing import Any

import torch

CONSTANTS = (type(None), bool, int, float, str, complex, torch.dtype, torch.device, torch.layout)
CONSTANT_TYPES = frozenset((*CONSTANTS, torch.memory_format, type(Ellipsis)))
VALUE_READS = frozenset(
    "item tolist numpy __bool__ __int__ __float__ __index__ __complex__ __array__ "
    "__contains__ is_nonzero equal allclose".split()
)
CHECKED_READS = frozenset("item __bool__ __int__ __float__ __index__".split())
UNSEEN = frozenset(
    "register_hook backward retain_grad requires_grad_ __repr__ __format__ __hash__ dim "
    "is_floating_point is_complex is_contiguous data_ptr element_size stride storage_offset "
    "get_device has_names is_signed is_inference is_conj is_neg result_type promote_types".split()
)
DERIVED = frozenset(("T", "mT", "H", "mH", "real", "imag"))
REFLECTED = frozenset("add sub mul truediv div floordiv pow matmul mod and or xor".split())
_PYTHON = {"and": "and_", "or": "or_", "div": "truediv"}
OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(torch.Tensor, f"__{name}__"): getattr(operator, _PYTHON.get(name, name))
    for name in (
        "add sub mul truediv floordiv mod pow matmul and or xor lt le gt ge eq ne neg "
        "invert getitem setitem iadd isub imul itruediv ifloordiv iand ior ixor"
    ).split()
}


def reflected(name: str) -> Callable[..., Any] | None:
    """Return the operator behind ``__radd__`` and its like, whose arguments are exchanged."""
    inner = name.strip("_")
    if not name.startswith("__r") or inner[1:] not in REFLECTED:
        return None
    found: Callable[..., Any] = getattr(operator, _PYTHON.get(inner[1:], inner[1:]))
    return found


def writes(name: str, kwargs: dict[str, Any]) -> bool:
    """Return whether a function gives back the tensor that it wrote to."""
    private = name.startswith("__")
    in_place = name.startswith("__i") and name != "__invert__" if private else name.endswith("_")
    return in_place or bool(kwargs.get("inplace", False))
