"""Run a model without leaving a trace in it."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore a model's buffers, attributes and the random number generators afterwards.

    Parameters and gradients are not copied: whatever runs inside must not write to them.
    """
    modules = list(model.modules())
    attributes = [(module, dict(module.__dict__)) for module in modules]
    holders = [(module, dict(module._buffers)) for module in modules if module._buffers]
    values = [
        (b, b.detach().clone()) for _, held in holders for b in held.values() if b is not None
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, held in holders:
            module._buffers.update(held)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for module, held in attributes:  # the mode, and what a forward leaves on the module
            if _changed(module.__dict__, held):
                module.__dict__.clear()
                module.__dict__.update(held)


def set_mode(model: nn.Module, training: bool) -> None:
    """Set every module's mode directly, without calling an overridden ``train``."""
    for module in model.modules():
        module.training = training


def seed() -> None:
    """Set all random number generators that a model may use to one state."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def dice() -> tuple[object, ...]:
    """Return the state of Python's and NumPy's generators, to be compared."""
    numpy_state: Any = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    return random.getstate(), inner["key"].tobytes(), inner["pos"]


def _changed(now: Mapping[str, object], then: Mapping[str, object]) -> bool:
    return len(now) != len(then) or any(now.get(name) is not then[name] for name in then)
