"""From words on the command line to objects: factories, inputs, losses, selectors."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from topograph.errors import SpecError, TopographError
from topograph.spec import Bottleneck, ConvBottleneck, Linear
from topograph.spec.select import AnySelector
from topograph.spec.selectors import after, all_, at, between, named

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LOSSES = (
    "cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss "
    "binary_cross_entropy binary_cross_entropy_with_logits"
)
BLOCKS: dict[str, Callable[[int], Any]] = {
    "bottleneck": lambda units: Bottleneck(units=units),
    "conv_bottleneck": lambda units: ConvBottleneck(units=units),
    "linear": lambda _: Linear(),
}
SIZE = re.compile(r"(\d+(?:,\d+)*)(?::([a-z0-9]+))?")
LARGEST_INPUT = 2**28  # elements


def load(reference: str) -> Any:
    """Return the object that ``pkg.mod:name`` names; the working directory is searched first.

    Raises:
        SpecError: It is not of that form, cannot be imported, or is not there.
    """
    if not REFERENCE.fullmatch(reference):
        raise SpecError(f"{reference!r} is not of the form pkg.mod:name, e.g. mymodels.resnet:make")
    home, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{reference}: no module {error.name!r}; run from the folder that has it, or install it"
        ) from None
    except Exception as error:
        raise SpecError(f"{reference}: importing it fails: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        near = ", ".join(n for n in vars(module) if not n.startswith("_"))[:120]
        raise SpecError(f"{reference}: {home} has no {name!r}; it has {near}")
    return getattr(module, name)


def call(reference: str) -> Any:
    """Return what the function that a reference names returns; its errors are shown as its own."""
    function = load(reference)
    if not callable(function):
        raise SpecError(f"{reference} is a {type(function).__name__}; name a function without arguments")
    try:
        return function()
    except TopographError:
        raise
    except Exception as error:
        raise SpecError(f"{reference}() fails: {type(error).__name__}: {error}") from error


def load_model(reference: str) -> nn.Module:
    """Return the model that a factory makes, in the mode it gives it."""
    model = call(reference)
    if not isinstance(model, nn.Module):
        raise SpecError(f"{reference}() returns a {type(model).__name__}; it must return an nn.Module")
    return model


def load_inputs(shapes: Iterable[str], data: str | None) -> tuple[Any, ...]:
    """Return example inputs: of given shapes, or those of the first batch of the data."""
    if data is not None:
        inputs = load_batches(data)[0][0]
        return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    return tuple(_input(shape) for shape in shapes)


def load_batches(reference: str) -> list[tuple[Any, Any]]:
    """Return the batches that a function makes, as pairs of inputs and target."""
    try:
        batches = [(inputs, target) for inputs, target in call(reference)]
    except (TypeError, ValueError):
        raise SpecError(f"{reference}() must return batches, each (inputs, target)") from None
    if not batches:
        raise SpecError(f"{reference}() returns no batches; give at least one (inputs, target)")
    return batches


def load_loss(name: str) -> Callable[[Any, Any], Any]:
    """Return a loss of ``torch.nn.functional`` by name, or what ``pkg.mod:loss`` names."""
    if name in LOSSES.split():
        return getattr(F, name)
    if ":" in name:
        return load(name)
    raise SpecError(f"no loss is called {name!r}; give pkg.mod:loss or one of {LOSSES}")


def load_selector(text: str) -> AnySelector:
    """Return the selector that ``after:relu``, ``between:a,b`` and so on stand for."""
    kind, _, rest = text.partition(":")
    try:
        match kind, rest.split(",") if rest else []:
            case "all", []:
                return all_()
            case "after", [op]:
                return after(op=op)
            case "named", [glob]:
                return named(glob)
            case "at", [node]:
                return at(node)
            case "between", [source, target]:
                return between(source, target)
    except ValidationError as error:
        raise SpecError(f"--where {text}: {error.errors()[0]['msg']}") from None
    raise SpecError(
        f"--where {text}: give all, after:OP, named:GLOB, at:NODE or between:SOURCE,TARGET"
    )


def load_block(kind: str, units: int) -> Any:
    """Return a block of this kind and width, the rest as by default."""
    if kind not in BLOCKS:
        raise SpecError(f"no block is called {kind!r}; there are {', '.join(BLOCKS)}")
    try:
        return BLOCKS[kind](units)
    except ValidationError as error:
        raise SpecError(f"--units {units}: {error.errors()[0]['msg']}") from None


def _input(text: str) -> torch.Tensor:
    found = SIZE.fullmatch(text)
    if found is None:
        raise SpecError(f"--input {text}: give sizes, e.g. 2,3,32,32, or 2,16:int64 for integers")
    shape = [int(size) for size in found[1].split(",")]
    dtype = getattr(torch, found[2] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise SpecError(f"--input {text}: torch has no dtype {found[2]!r}")
    elements = 1
    for size in shape:
        elements *= size
    if elements > LARGEST_INPUT:
        raise SpecError(f"--input {text}: more than {LARGEST_INPUT:,} elements; give a smaller one")
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(shape, dtype=dtype)
