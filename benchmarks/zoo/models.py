"""What a model of the zoo is, and whether the packages that the models come from are installed."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from benchmarks.zoo.operators import declare_torchvision_operators

PACKAGES = ("timm", "transformers")
FAINT = 1e-3  # parameters that start below it hide what they multiply
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Inputs(Protocol):
    """Draws example arguments and keyword arguments; their first dimension is the batch."""

    def __call__(self, batch: int = 2) -> Arguments:
        """Return the arguments for one call."""
        ...


@dataclass(frozen=True)
class Specimen:
    """A public architecture with random weights, and what it is called with.

    `build` draws its weights from the global generator; `inputs` draws from its own, so that it
    returns the same values each time.
    """

    name: str
    family: str
    kind: str
    build: Callable[[], nn.Module]
    inputs: Inputs


def missing() -> str | None:
    """Return a line that says which packages to install, or None when all are there."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not installed: pip install -e '.[zoo]'"


@contextmanager
def quiet() -> Iterator[None]:
    """Let timm and transformers be imported and used offline, without warnings or log lines."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            declare_torchvision_operators()
            yield
    finally:
        logging.disable(level)


@torch.no_grad()
def wake(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Make a new model's outputs depend on all of it, as those of a trained model do.

    Many architectures start with heads, residual scales or biases at (almost) zero, some even
    return exactly zero: these are drawn again. And without statistics a deep net with BatchNorm
    fades to a constant in evaluation mode: it sees one batch of eight in training mode.
    """
    for parameter in model.parameters():
        if parameter.numel() and parameter.abs().max() < FAINT:
            nn.init.normal_(parameter, std=0.1)
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    training = model.training
    args, kwargs = inputs(8)
    model.train()(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.train(training)
