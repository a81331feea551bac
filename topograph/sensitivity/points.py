"""Points drawn from the values of a network: the channels at random positions of all batches."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topograph.embedding.activations import Ear
from topograph.errors import ShapeError
from topograph.sensitivity.batches import arguments, pairs, through
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode


class Value(NamedTuple):
    """A node's value as a cloud.

    Attributes:
        node: The node's name.
        axis: The axis of the channels; None where a point is a whole sample.
    """

    node: str
    axis: int | None


def draw(
    traced: TracedModel, batches: Iterable[tuple[Any, Any]], values: Collection[Value], most: int
) -> dict[Value, Tensor]:
    """Return points of some values, from one pass over all batches in eval mode.

    Values with equally many positions give their points at the same positions, so that row by row
    they belong together.

    Args:
        traced: The model; its buffers, modes and random state stay as they are.
        batches: Pairs of inputs and target; targets are not looked at.
        values: Which; all of them tensors.
        most: Points of each.

    Returns:
        ``[points, channels]`` of each value, in its dtype on the CPU.

    Raises:
        NonFiniteError: A value is infinite or not a number; names the node and the batch.
        ShapeError: There are no batches, or one is no pair or does not go through the model.
    """
    samples = {value: _Sample(most) for value in values}
    at: dict[str, list[tuple[int | None, _Sample]]] = {}
    for value, sample in samples.items():
        at.setdefault(value.node, []).append((value.axis, sample))
    count = 0
    with preserved(traced.module), torch.no_grad():
        set_mode(traced.module, training=False)
        for inputs, _ in pairs(batches):
            ear = Ear(traced, at, partial(_take, at, count), f" in batch {count}")
            with through(count, "the model"):
                ear.run(*arguments(traced, inputs))
            count += 1
    if not count:
        raise ShapeError("there are no batches to look at; give at least one")
    return {value: sample.rows for value, sample in samples.items()}


class _Sample:
    """Rows drawn at random from all batches, without replacement.

    Each row gets a number from a generator that knows the batch alone, and the rows with the least
    numbers stay.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers = torch.empty(0)
        self.rows = torch.empty(0)

    def add(self, rows: Tensor, batch: int) -> None:
        """Take part of the rows of a batch."""
        numbers = torch.rand(len(rows), generator=torch.Generator().manual_seed(batch))
        drawn = self._least(numbers)
        taken = rows[drawn.to(rows.device)].cpu()
        if len(self.rows):
            numbers = torch.cat([self._numbers, numbers[drawn]])
            kept, drawn = torch.cat([self.rows, taken]), self._least(numbers)
            taken = kept[drawn]
        self._numbers, self.rows = numbers[drawn], taken

    def _least(self, numbers: Tensor) -> Tensor:
        return numbers.topk(min(self._most, len(numbers)), largest=False).indices


def _take(
    at: Mapping[str, list[tuple[int | None, _Sample]]], batch: int, node: str, found: Tensor
) -> None:
    """Take points of a node's value in a batch, for all that asked for it."""
    for axis, sample in at[node]:
        rows = found if axis is None else found.movedim(axis, -1).flatten(0, -2)
        sample.add(rows.reshape(len(rows), -1), batch)
