"""Probe batches: how their inputs reach a model, which one does not, and their mean loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from topograph.errors import ShapeError
from topograph.sensitivity.over_ranks import Reduce, batch_count
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.short import is_short

Loss = Callable[[Any, Any], Tensor]
HALVES = (torch.bfloat16, torch.float16)


def arguments(traced: TracedModel, inputs: Any) -> tuple[Any, ...]:
    """Return a batch's inputs in the order of the graph's inputs.

    Raises:
        ShapeError: A dict names an input that the model does not have.
    """
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, Mapping):
        nodes = traced.module.graph.find_nodes(op="placeholder")
        names = [str(node.target) for node in nodes]
        if unknown := set(inputs) - set(names):
            raise ShapeError(
                f"the batch gives {sorted(unknown)}; the model's inputs are {', '.join(names)}"
            )
        if missing := [str(n.target) for n in nodes if not n.args and n.target not in inputs]:
            raise ShapeError(f"the batch lacks the input {missing[0]!r}; give it by that name")
        return tuple(inputs.get(str(n.target), n.args[0] if n.args else None) for n in nodes)
    return tuple(inputs)


def widened(value: Any) -> Any:
    """Return outputs or targets with half precision made float32, so that losses can be compared.

    A loss of three digits neither falls in a line search nor tells candidates apart.
    """

    def wide(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in HALVES else tensor

    return pytree.tree_map_only(Tensor, wide, value)


@contextmanager
def through(batch: int, what: str) -> Iterator[None]:
    """Say which batch it was that does not go through something."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if is_short(error):
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        raise ShapeError(
            f"probe batch {batch} does not go through {what} ({type(error).__name__}: {said}); "
            "check its shapes, dtypes and device"
        ) from error


def mean_loss(
    traced: TracedModel,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss,
    reduce: Reduce | None = None,
) -> float:
    """Return the mean of the loss over batches in eval mode, without gradients.

    Args:
        traced: The model.
        batches: Pairs of inputs and target.
        loss: From output and target to a scalar.
        reduce: Sums a tensor over all ranks; the mean is then that over the batches of all.

    Raises:
        ShapeError: A rank has no batches, or one does not go through the model or the loss.
    """
    values: list[float] = []
    with preserved(traced.module), torch.no_grad():
        set_mode(traced.module, training=False)
        for inputs, target in batches:
            with through(len(values), "the model or the loss"):
                output = widened(traced.module(*arguments(traced, inputs)))
                values.append(loss(output, widened(target)).item())
    like = next(traced.module.parameters(), None)
    count = batch_count(len(values), reduce, like)
    if reduce is None:
        return sum(values) / count
    device = like.device if like is not None else None
    summed = reduce(torch.tensor(sum(values), dtype=torch.float64, device=device))
    return summed.item() / count
