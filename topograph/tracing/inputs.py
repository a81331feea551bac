"""Example inputs, bound to the names that a model's forward gives them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Inputs:
    """Inputs as a model is called with them, and by the names that its forward gives them.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        signature: Of the model's forward.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    signature: inspect.Signature

    def named(self) -> Iterator[tuple[str, Any]]:
        """Yield every input, defaults too, by the name that a graph gives it."""
        bound = self.signature.bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                yield from ((f"{name}_{index}", item) for index, item in enumerate(value))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                yield from value.items()
            else:
                yield name, value

    def copied(self) -> "Inputs":
        """Return the same inputs with a copy of every tensor.

        A model may write to its inputs; and a tensor that is given twice is two inputs of a graph.
        """
        args, kwargs = pytree.tree_map_only(
            torch.Tensor, lambda tensor: tensor.detach().clone(), (self.args, self.kwargs)
        )
        return Inputs(args, kwargs, self.signature)

    def with_rows(self, size: int) -> "Inputs":
        """Return the inputs with another number of rows."""
        batch = batch_size((self.args, self.kwargs))
        args, kwargs = with_batch((self.args, self.kwargs), batch, size)
        return Inputs(args, kwargs, self.signature)


def inputs_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """Return example inputs for a model.

    Raises:
        TypeError: They do not fit its forward's signature.
    """
    signature = inspect.signature(model.forward)
    signature.bind(*args, **kwargs)
    return Inputs(args, dict(kwargs), signature)


def batch_size(inputs: Any) -> int:
    """Return the size of axis 0 of the first tensor among the inputs, 1 where there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), 1)


def with_batch(inputs: Any, batch: int, size: int) -> Any:
    """Return inputs with tensors of `batch` rows cut to `size` rows, or repeated from the top."""

    def resize(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != batch or batch == size:
            return tensor
        rows = torch.arange(size, device=tensor.device) % batch
        return tensor[rows]

    return pytree.tree_map_only(torch.Tensor, resize, inputs)
