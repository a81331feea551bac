"""Example inputs, bound to the names that a model's forward gives them."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


def bind_inputs(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Return example inputs bound to the signature of a model's forward, defaults filled in."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


def own_inputs(arguments: inspect.BoundArguments) -> inspect.BoundArguments:
    """Return the same inputs with a copy of every tensor.

    A model may write to its inputs; and a tensor that is given twice is two inputs of the graph.
    """

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone()

    given = pytree.tree_map_only(torch.Tensor, copied, dict(arguments.arguments))
    return inspect.BoundArguments(arguments.signature, given)


def named_inputs(arguments: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Yield every input with the name that the graph gives it: one for each of ``*args``."""
    for name, value in arguments.arguments.items():
        kind = arguments.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{name}_{index}", item) for index, item in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value
