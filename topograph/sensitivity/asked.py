"""`Asked`: what a scorer is given."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.batches import Loss
from topograph.sensitivity.over_ranks import Reduce
from topograph.tracing import TracedModel


class Asked(NamedTuple):
    """The model, the data and the candidates that a scorer compares.

    Attributes:
        traced: The model; it stays as it is.
        batches: Pairs of inputs and target; they are gone through once, one at a time. A scorer
            that hears them several times keeps them all.
        loss: From output and target to a scalar that is a mean over the batch.
        wanted: Candidates at single places, each of which the scorer knows.
        reduce: Sums a tensor over all ranks of a distributed run; None in one process.
        done: Called after every batch, for a bar.
        directions: How many distinct directions units start along.
        first: The number of the first batch among those that the caller gave.
    """

    traced: TracedModel
    batches: Iterable[tuple[Any, Any]]
    loss: Loss
    wanted: tuple[AnyMutation, ...]
    reduce: Reduce | None
    done: Callable[[float], None]
    directions: int = 1
    first: int = 0
