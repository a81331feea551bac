"""From words on the command line to objects: factories, inputs, losses, selectors."""

import difflib
import functools
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from topograph.errors import SpecError, TopographError
from topograph.spec import Bottleneck, ConvBottleneck, Linear, SelfAttention
from topograph.spec.select import AnySelector
from topograph.spec.selectors import after, all_, at, between, named

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
LOSSES = (
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss",
    "l1_loss", "mse_loss", "nll_loss", "smooth_l1_loss",
)  # fmt: skip
BLOCKS: dict[str, Callable[[int], Any]] = {
    "bottleneck": lambda units: Bottleneck(units=units),
    "conv_bottleneck": lambda units: ConvBottleneck(units=units),
    "linear": lambda _: Linear(),
    "self_attention": lambda units: SelfAttention(units=units),
}
DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    "bool", "complex64", "complex128",
)  # fmt: skip
SIZE = re.compile(r"([0-9]{1,9}(?:,[0-9]{1,9})*)(?::([a-z0-9]+))?")
LARGEST_INPUT = 2**28  # elements
MOST_BATCHES = 10_000  # a probe that never ends is a mistake


def load(reference: str) -> Any:
    """Return the object that ``pkg.mod:name`` names; the working directory is searched first.

    Raises:
        SpecError: It is not of that form, cannot be imported, or is not there.
    """
    if not REFERENCE.fullmatch(reference):
        raise SpecError(f"{reference!r} is not of the form pkg.mod:name, e.g. mymodels:make_model")
    home, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{reference}: no module {error.name!r}; run from the folder that has it, or install it"
        ) from None
    except SystemExit:
        raise SpecError(
            f"{reference}: importing {home} ends the program; put what it runs below "
            "`if __name__ == '__main__':`"
        ) from None
    except Exception as error:
        _fails(f"{reference}: importing {home}", error)
    if not hasattr(module, name):
        home_made = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == home]
        known = [known for known in home_made or vars(module) if not known.startswith("_")]
        near = difflib.get_close_matches(name, known, n=3) or known[:6]
        raise SpecError(
            f"{reference}: {home} has no {name!r}; nearest: {', '.join(near) or 'nothing'}"
        )
    return getattr(module, name)


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's function whose errors become one message that says where it failed."""

    @functools.wraps(function, updated=())
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TopographError:
            raise
        except Exception as error:
            _fails(name, error)

    return called


def call(reference: str) -> Any:
    """Return what the function that a reference names returns."""
    function = load(reference)
    if not callable(function):
        raise SpecError(
            f"{reference} is a {type(function).__name__}; name a function without arguments"
        )
    return guarded(f"{reference}()", function)()


def load_model(reference: str) -> nn.Module:
    """Return the model that a factory makes, in the mode it gives it."""
    found = load(reference)
    model = found if isinstance(found, nn.Module) else call(reference)
    if not isinstance(model, nn.Module):
        raise SpecError(f"{reference}() returns {kind_of(model)}; it must return an nn.Module")
    return model


def load_inputs(shapes: Iterable[str], data: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs by position and by name: of given shapes, or of the first batch."""
    given = tuple(_input(shape) for shape in shapes)
    if data is None:
        return given, {}
    if given:
        raise SpecError("give --input or --data, not both")
    inputs = load_batches(data)[0][0]
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def load_batches(reference: str) -> list[tuple[Any, Any]]:
    """Return the batches that a function makes, as pairs of inputs and target."""
    return batches_of(f"{reference}()", call(reference))


def batches_of(name: str, made: Any) -> list[tuple[Any, Any]]:
    """Return what a function made as a list of pairs, or say what it made instead."""
    form = "it must return a list of batches, each (inputs, target)"
    if isinstance(made, Tensor | Mapping) or not isinstance(made, Iterable):
        raise SpecError(f"{name} returns {kind_of(made)}; {form}")
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Tensor):
        raise SpecError(f"{name} returns one (inputs, target); {form}: put it in a list")
    batches = guarded(name, list)(islice(made, MOST_BATCHES + 1))
    if not batches:
        raise SpecError(f"{name} returns no batches; give at least one (inputs, target)")
    if len(batches) > MOST_BATCHES:
        raise SpecError(f"{name} returns more than {MOST_BATCHES:,} batches; does it end?")
    for index, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise SpecError(f"{name}: batch {index} is {kind_of(batch)}; {form}")
    return [(inputs, target) for inputs, target in batches]


def load_loss(name: str) -> Callable[[Any, Any], Any]:
    """Return a loss of ``torch.nn.functional`` by name, or what ``pkg.mod:loss`` names."""
    if name in LOSSES:
        return guarded(f"the loss {name}", getattr(F, name))
    if ":" not in name:
        near = difflib.get_close_matches(name, LOSSES, n=3, cutoff=0.5) or LOSSES
        raise SpecError(
            f"--loss {name}: there is no such loss; give pkg.mod:loss, or a name such as "
            f"{', '.join(near)}"
        )
    loss = load(name)
    if not callable(loss):
        raise SpecError(f"{name} is {kind_of(loss)}; name a function of output and target")
    return guarded(f"the loss {name}", loss)


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
        wrong = error.errors()[0]
        raise SpecError(
            f"--where {text}: {wrong['input']!r} is no name of a node or operation; "
            "`topograph inspect` lists them"
        ) from None
    raise SpecError(
        f"--where {text}: give all, after:OP, named:GLOB, at:NODE or between:SOURCE,TARGET"
    )


def load_block(kind: str, units: int | None) -> Any:
    """Return a block of this kind and width, or of 16 units; the rest is as by default."""
    if kind not in BLOCKS:
        raise SpecError(f"--block {kind}: there is no such block; give {', '.join(BLOCKS)}")
    if kind == "linear" and units is not None:
        raise SpecError("--units: a linear block has no hidden layer; leave it out")
    try:
        return BLOCKS[kind](16 if units is None else units)
    except ValidationError as error:
        raise SpecError(f"--units {units}: {error.errors()[0]['msg']}") from None


def _input(text: str) -> Tensor:
    found = SIZE.fullmatch(text)
    if found is None:
        raise SpecError(f"--input {text}: give sizes, e.g. 2,3,32,32, or 2,16:int64 for integers")
    shape = [int(size) for size in found[1].split(",")]
    if (found[2] or "float32") not in DTYPES:
        raise SpecError(f"--input {text}: no dtype {found[2]!r}; give one of {', '.join(DTYPES)}")
    dtype = getattr(torch, found[2] or "float32")
    elements = 1
    for size in shape:
        elements *= size
    if not 0 < elements <= LARGEST_INPUT:
        raise SpecError(f"--input {text}: {elements:,} elements; give 1 to {LARGEST_INPUT:,}")
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def kind_of(value: object) -> str:
    """Return what a value is, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def _fails(what: str, error: Exception) -> NoReturn:
    """Raise the one message for an error in a user's code, with the last line that is theirs."""
    ours = (sys.prefix, str(Path(__file__).parents[1]))
    here = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(os.getcwd()) and not frame.filename.startswith(ours)
    ]
    place = f" ({here[-1]})" if here else ""
    raise SpecError(f"{what} fails: {type(error).__name__}: {error}{place}") from error
