"""Calls that were seen before: the value of a layer is described once, not for every copy of it.

Evaluating a layer on fake tensors takes about a millisecond; most networks, and all plans with many
insertions, call the same few layers on the same few shapes again and again.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Recipe:
    """How to make a tensor like the one that a call gave, and what the call cost."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    flops: int

    def make(self) -> torch.Tensor:
        """Return a new tensor; inside a fake mode, a fake one."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


def call_key(
    node: fx.Node,
    module: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    training: bool,
) -> Hashable | None:
    """Return what a call's value depends on apart from numbers, or None if that is not known."""
    if node.op == "call_module":
        called = _layer_key(module)
        if called is None:
            return None
    elif node.op in ("call_function", "call_method"):
        called = node.target
    else:
        return None
    leaves, layout = pytree.tree_flatten((args, dict(kwargs)))
    described = tuple(_leaf_key(leaf) for leaf in leaves)
    key = (called, training, described, str(layout))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def recipe_for(value: Any, read: list[torch.Tensor], written: bool, flops: int) -> Recipe | None:
    """Return how to make a call's value again, if it is one new tensor and nothing was written."""
    if written or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return None
    memory = value.untyped_storage()._cdata
    if any(tensor.untyped_storage()._cdata == memory for tensor in read) or value.storage_offset():
        return None
    return Recipe(tuple(value.shape), value.stride(), value.dtype, value.device, flops)


def _layer_key(module: nn.Module | None) -> Hashable | None:
    """Return a layer's type and settings; None for one that is not torch's own, or is hooked."""
    if module is None or not type(module).__module__.startswith("torch.nn.modules."):
        return None
    hooked = module._forward_hooks or module._forward_pre_hooks
    norm = isinstance(module, _BatchNorm)  # moves its own buffers only
    if hooked or module._modules or (module._buffers and not norm):
        return None
    state = tuple(
        (name, None if p is None else (tuple(p.shape), p.dtype, p.device))
        for name, p in (*module._parameters.items(), *module._buffers.items())
    )
    return (type(module), module.extra_repr(), state)


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, leaf.storage_offset())
    return (type(leaf), leaf)
