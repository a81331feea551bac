"""`edge_transport`: how far each layer moves the distribution of what it reads."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from topograph.errors import ShapeError
from topograph.rewrite import candidates
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.points import Value, draw
from topograph.sensitivity.replaceable import Pair, replaceable
from topograph.sensitivity.transport import couple, squared_distances
from topograph.spec import Refusal
from topograph.tracing import TracedModel


@dataclass(frozen=True)
class EdgeMove:
    """How far the layers from one value to another of the same shape move its distribution.

    Args:
        source: The node whose value is read.
        target: The node whose value comes out.
        transport: ``W_2`` between the cloud of values before and that after.
        displacement: ``sqrt(E |y - x|^2)``, the same where each value is held to its own image;
            never less than `transport`.
        spread: ``sqrt(E |x - E x|^2)`` of the values before.
        removal: What would take the layers away; None where nothing can.
        refusal: Why nothing can; None where something can.

    Raises:
        TypeError: A field is missing; `edge_transport` makes these.

    Example:
        >>> EdgeMove("relu", "fc", transport=0.1, displacement=0.5, spread=2.0).share
        0.05

    References:
        Peyré, Cuturi: Computational Optimal Transport, arXiv:1803.00567.
    """

    source: str
    target: str
    transport: float
    displacement: float
    spread: float
    removal: AnyMutation | None = field(default=None, repr=False)
    refusal: Refusal | None = field(default=None, repr=False)

    @property
    def share(self) -> float | None:
        """Transport over spread; None where all values before are the same, but not after."""
        return _share(self.transport, self.spread)

    @property
    def displaced(self) -> float | None:
        """Displacement over spread; None likewise."""
        return _share(self.displacement, self.spread)

    def __str__(self) -> str:
        shares = " and ".join(
            "?" if share is None else f"{share:.3g}" for share in (self.share, self.displaced)
        )
        what = "cannot be removed" if self.removal is None else self.removal.kind
        return f"{self.source} -> {self.target}  {shares} of the spread  {what}"


def edge_transport(
    traced: TracedModel,
    batches: Iterable[tuple[Any, Any]],
    nodes: Collection[str] | None = None,
    *,
    points: int = 512,
) -> tuple[EdgeMove, ...]:
    r"""Return how far each layer moves the distribution of activations, the most idle first.

    For every value that is made of one value of the same shape (a layer that keeps the width, a
    chain that returns to it, a sum of a stream and its branch), the exact :math:`W_2` between the
    clouds of both, in units of the spread of the first. A nearly idle layer is a candidate for
    removal, and `removal` is the mutation that does it. Beside it stands the displacement of each
    point from its own image: where the cloud stays but points change places, as under a
    permutation, the layer is not idle. With few points in many dimensions the two are alike.

    A point is the vector of channels at one position of one sample. The model is looked at in eval
    mode; its buffers, modes and random state are as before the call. Dropout is left out unless
    it is named.

    Args:
        traced: The model, traced with example inputs.
        batches: Pairs of inputs and target, read once; targets are not looked at.
        nodes: Names of the nodes whose values come out; by default all that can be compared.
        points: How many positions to draw at random, the same ones before and after.

    Returns:
        One record for each pair, least transport per spread first, ties in topological order.

    Raises:
        NonFiniteError: A value is infinite or not a number; names the node and the batch.
        SelectorError: A node does not exist, or the model was traced without example inputs.
        ShapeError: A node has no value to be compared with, none has, there are fewer than two
            points, or a batch is no pair or does not go through the model.

    Example:
        >>> import topograph as tg, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
        >>> batch = torch.randn(32, 4), torch.zeros(32)
        >>> found = tg.edge_transport(tg.trace(net, batch[:1]), [batch])[0]
        >>> found.target, found.share, found.removal.kind
        ('identity_1', 0.0, 'remove_layer')

    References:
        Peyré, Cuturi: Computational Optimal Transport, arXiv:1803.00567; Veit, Wilber, Belongie:
        Residual Networks Behave Like Ensembles, arXiv:1605.06431.
    """
    if points < 2:
        raise ShapeError(f"points = {points}: a cloud has at least 2; 512 is usual")
    candidates(traced, [])  # says so where no shapes are known
    pairs = replaceable(traced.topology, nodes)
    axes = [_axis(pair) for pair in pairs]
    befores = [Value(pair.source.name, axis) for pair, axis in zip(pairs, axes, strict=True)]
    afters = [Value(pair.target.name, axis) for pair, axis in zip(pairs, axes, strict=True)]
    drawn = draw(traced, batches, {*befores, *afters}, points)
    possible = _possible(traced, pairs)
    moves = [
        _move(pair, drawn[before].double(), drawn[after].double(), answer)
        for pair, before, after, answer in zip(pairs, befores, afters, possible, strict=True)
    ]
    return tuple(sorted(moves, key=lambda m: math.inf if m.share is None else m.share))


def _axis(pair: Pair) -> int | None:
    """Return the channel axis of both values; None where a point is a whole sample."""
    if pair.source.channels is None or pair.source.axes != pair.target.axes:
        return None
    return pair.source.axes.index("channel")


def _possible(traced: TracedModel, pairs: Sequence[Pair]) -> list[AnyMutation | Refusal]:
    """Return for each pair the mutation that takes its layers away, or why none does."""
    asked = [pair.removal for pair in pairs if pair.removal is not None]
    answers = iter(candidates(traced, asked))
    return [_read_by_several(pair) if pair.removal is None else next(answers) for pair in pairs]


def _read_by_several(pair: Pair) -> Refusal:
    source, target = pair.source.name, pair.target.name
    reason = f"several layers read it, and no one edit lets all of them read {source}"
    return Refusal(node=target, reason=reason, fix=f"rewire each of them to {source}")


def _move(pair: Pair, before: Tensor, after: Tensor, answer: AnyMutation | Refusal) -> EdgeMove:
    if len(before) < 2:
        raise ShapeError(
            f"{pair.source.name} has {len(before)} points in these batches; give 2 samples or more"
        )
    way = couple(squared_distances(before, after))
    paired = _mean_square(after - before)
    return EdgeMove(
        pair.source.name,
        pair.target.name,
        transport=min(_mean_square(after[way.columns] - before[way.rows]), paired) ** 0.5,
        displacement=paired**0.5,
        spread=_mean_square(before - before.mean(0)) ** 0.5,
        removal=None if isinstance(answer, Refusal) else answer,
        refusal=answer if isinstance(answer, Refusal) else None,
    )


def _mean_square(rows: Tensor) -> float:
    return float(rows.square().sum(1).mean())


def _share(distance: float, spread: float) -> float | None:
    if distance == 0:
        return 0.0
    return distance / spread if spread else None
