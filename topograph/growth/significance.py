"""Whether the best change's derivative is above its noise, on batches it was not chosen on."""

import json
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import nn

from topograph.errors import ShapeError, SpecError
from topograph.rewrite import Revision, set_step
from topograph.sensitivity import Score
from topograph.sensitivity.batches import Loss, arguments
from topograph.sensitivity.scored import REFERENCE_STEP
from topograph.spec import digest
from topograph.spec.scorers import DIRECTED
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode
from topograph.training.ranks import Ranks

FEWEST = 4  # probe batches: two to score on, two held out
NEAR = 1e-3  # step at which the derivative is taken; the error is of its order


class HeldOut(NamedTuple):
    """Predicted decreases of the loss at a step of 0.1, batch by batch: mean, error, batches."""

    mean: float
    error: float
    batches: int

    def significant(self, deviations: float) -> bool:
        """Return whether the mean is that many standard errors above 0."""
        return self.mean > deviations * self.error

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.error:.2g} on {self.batches} held-out batches"


def halves(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the batches to score on, and those that are held out.

    Raises:
        ShapeError: There are too few.
    """
    if len(batches) < FEWEST:
        raise ShapeError(
            f"significance needs at least {FEWEST} probe batches, 2 to score on and 2 held out; "
            f"the probe has {len(batches)}"
        )
    return batches[: len(batches) // 2], batches[len(batches) // 2 :]


def held_out(
    revision: Revision,
    chosen: Sequence[Score],
    batches: Sequence[tuple[Any, Any]],
    loss: Loss,
    ranks: Ranks | None = None,
) -> HeldOut:
    r"""Return the derivative along the chosen directions on batches they were not made from.

    With the new parameters at :math:`\theta = \varepsilon \phi` the loss falls by
    :math:`D \varepsilon^o`, so that :math:`D = -\langle \nabla J, \theta \rangle / (o\,
    \varepsilon^o)`.

    Args:
        revision: The applied candidates; their new layers are put back afterwards.
        chosen: Their scores, with directions.
        batches: At least two.
        loss: From output and target to a scalar.
        ranks: The processes that measure together, each on its own batches.

    Raises:
        SpecError: The scorer gives no directions.
    """
    known = {digest(score.mutation): score for score in chosen if score.direction}
    layers = [
        (revision.after.module.get_submodule(change.path), known[digest(change.mutation)])
        for change in revision.plan.changes
        if change.path is not None and digest(change.mutation) in known
    ]
    new = [
        (parameter, score.order)
        for layer, score in layers
        for name, parameter in layer.named_parameters()
        if name in score.direction
    ]
    if not new:
        raise SpecError(
            "significance measures along the directions of scores, and the rule's scorer gives "
            f"none; use {' or '.join(DIRECTED)}, or another trigger"
        )
    touched = [parameter for layer, _ in layers for parameter in layer.parameters()]
    begun = [parameter.detach().clone() for parameter in touched]
    set_step(revision, chosen, NEAR)
    try:
        found = _decreases(revision.after, new, batches, loss)
        if ranks is not None:
            told = ranks.gather(json.dumps(found), "measuring what was held out")
            found = [value for each in told for value in json.loads(each)]
    finally:
        with torch.no_grad():
            for parameter, value in zip(touched, begun, strict=True):
                parameter.copy_(value)
    return HeldOut(fmean(found), stdev(found) / math.sqrt(len(found)), len(found))


def _reach(order: int) -> float:
    """Return what a slope along a start of length NEAR is to be multiplied by.

    A power of the step is taken to the reference step; a parabola to its best, half of what its
    slope promises there.
    """
    return (REFERENCE_STEP / NEAR) ** order / order if order else 0.5 / NEAR


def _decreases(
    traced: TracedModel,
    new: Sequence[tuple[nn.Parameter, int]],
    batches: Sequence[tuple[Any, Any]],
    loss: Loss,
) -> list[float]:
    """Return the predicted decrease at the reference step, by batch, from new parameters."""
    found = []
    with preserved(traced.module), torch.enable_grad():
        set_mode(traced.module, training=False)
        for inputs, target in batches:
            value = loss(traced.module(*arguments(traced, inputs)), target)
            slopes = torch.autograd.grad(value, [p for p, _ in new], allow_unused=True)
            found.append(
                sum(
                    -float((slope * parameter.detach()).sum()) * _reach(order)
                    for slope, (parameter, order) in zip(slopes, new, strict=True)
                    if slope is not None
                )
            )
    return found
