"""Modules of the user's own: Python code registers a factory, a document only names it."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from topograph.errors import SpecError
from topograph.spec import Module
from topograph.tracing.seen import Seen, storage

Factory = Callable[..., nn.Module]
FACTORIES: dict[str, Factory] = {}
NAME = re.compile(r"[a-z][a-z0-9_]{0,127}")


def register_block(name: str, factory: Factory) -> None:
    """Make a module known by a name, so that `Module` and JSON documents can ask for it.

    Args:
        name: Lower case letters, digits and underscores.
        factory: From the keyword arguments of `Module` to a module that keeps shape and type; a
            class will do. It must give the same layers for the same arguments.

    Raises:
        SpecError: The name is no identifier or belongs to another factory, or the factory cannot
            be called.

    Returns:
        Nothing.

    Example:
        >>> import torch, topograph as tg
        >>> tg.register_block("swish", torch.nn.SiLU)
        >>> tg.Module(factory="swish").factory
        'swish'

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SpecError(f"{name!r} is no name of a block; use lower case letters, digits and _")
    if not callable(factory):
        raise SpecError(f"the factory of {name!r} is a {type(factory).__name__}; give a callable")
    if FACTORIES.setdefault(name, factory) is not factory:
        raise SpecError(f"{name!r} is registered already, for {FACTORIES[name]!r}; rename one")


def made(block: Module, like: Seen, seed: int) -> nn.Module:
    """Return a new module of a registered factory, with the type and device of a value.

    Raises:
        SpecError: No factory has the name, or it fails, or makes something else.
    """
    factory = FACTORIES.get(block.factory)
    if factory is None:
        near = difflib.get_close_matches(block.factory, FACTORIES, n=3) or sorted(FACTORIES)[:6]
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise SpecError(
            f"no block is registered as {block.factory!r}{hint}; call register_block first"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(**block.arguments)
        except Exception as error:
            raise SpecError(
                f"the factory {block.factory!r} fails with {type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, nn.Module):
        raise SpecError(
            f"the factory {block.factory!r} made a {type(module).__name__}, expected an nn.Module"
        )
    dtype = like.dtype if like.dtype.is_floating_point else None
    return module.to(device=like.device, dtype=dtype)


def trouble(module: nn.Module, given: Seen, wanted: Seen, mode: Any, training: bool) -> str | None:
    """Return what a module does to a value that it must not do, tried on a fake tensor."""
    module.train(training)
    with mode, torch.no_grad():
        value = given.like()
        version = value._version
        try:
            result = module(value)
        except Exception as error:
            return f"fails on {list(given.shape)} with {type(error).__name__}: {error}"
        if not isinstance(result, torch.Tensor):
            return f"gives a {type(result).__name__}, not a tensor"
        if (result.shape, result.dtype) != (wanted.shape, wanted.dtype):
            return (
                f"makes {list(result.shape)} {result.dtype} of {list(given.shape)}, where "
                f"{list(wanted.shape)} {wanted.dtype} is expected"
            )
        if value._version != version:
            return "writes in place to its input"
        if result is not value and storage(result) == storage(value):
            return "gives back a view of its input"
    return None
