"""Run a model without leaving a trace in it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore a model's buffers, modes and the random number generators afterwards.

    Parameters and gradients are not copied: whatever runs inside must not write to them.
    """
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    holders = [(module, dict(module._buffers)) for module in modules if module._buffers]
    values = [
        (b, b.detach().clone()) for _, held in holders for b in held.values() if b is not None
    ]
    python_state = random.getstate()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        for module, held in holders:
            module._buffers.update(held)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


def set_mode(model: nn.Module, training: bool) -> None:
    """Set every module's mode directly, without calling an overridden ``train``."""
    for module in model.modules():
        module.training = training
