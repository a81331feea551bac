"""Probe batches: how their inputs reach a model, which one does not, and their mean loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from topograph.errors import ShapeError, SpecError
from topograph.sensitivity.over_ranks import Reduce, batch_count
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.short import is_short

Loss = Callable[[Any, Any], Tensor]
HALVES = (torch.bfloat16, torch.float16)


def pairs(batches: Any, first: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield batches as pairs of inputs and target, read one at a time.

    Args:
        batches: What a caller gave.
        first: The number of the first one.

    Raises:
        ShapeError: They cannot be read one by one, or one is no pair.
    """
    listed = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if isinstance(batches, Tensor) or not listed:
        kind = type(batches).__name__
        raise ShapeError(f"batches is a {kind}; give pairs (inputs, target)")
    for number, batch in enumerate(batches, first):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = type(batch).__name__
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise ShapeError(f"probe batch {number} is a {kind}{size}; give pairs (inputs, target)")
        yield batch[0], batch[1]


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


def value_of(loss: Loss, output: Any, target: Any) -> Tensor:
    """Return the loss of an output, with half precision made float32.

    Raises:
        ShapeError: It is not one number.
        SpecError: The loss is no function.
    """
    if not callable(loss):
        raise SpecError(
            f"loss is a {type(loss).__name__}; give a function of output and target, e.g. "
            "torch.nn.functional.cross_entropy"
        )
    value = loss(widened(output), widened(target))
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"loss(output, target) returns a {type(value).__name__}; return a tensor of one "
            "number, without .item()"
        )
    if value.numel() != 1:
        raise ShapeError(
            f"loss(output, target) must be one number, got {list(value.shape)}; take the mean"
        )
    return value


@contextmanager
def through(batch: int, what: str) -> Iterator[None]:
    """Say which batch it was that does not go through something."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
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
        ShapeError: A rank has no batches, one is no pair or does not go through the model or the
            loss, or the loss is not one number.
        SpecError: The loss is no function.
    """
    values: list[float] = []
    with preserved(traced.module), torch.no_grad():
        set_mode(traced.module, training=False)
        for inputs, target in pairs(batches):
            with through(len(values), "the model or the loss"):
                output = traced.module(*arguments(traced, inputs))
                values.append(value_of(loss, output, target).item())
    like = next(traced.module.parameters(), None)
    count = batch_count(len(values), reduce, like)
    if reduce is None:
        return sum(values) / count
    device = like.device if like is not None else None
    summed = reduce(torch.tensor(sum(values), dtype=torch.float64, device=device))
    return summed.item() / count
