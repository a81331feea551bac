"""`score`: what each candidate change would bring, from one pass per batch for all together."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from rich.progress import Progress

from topograph.errors import NonFiniteError, RefusedError, SpecError
from topograph.rewrite import candidates as resolve
from topograph.rewrite.plan import TAKES_AWAY
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.batches import Loss
from topograph.sensitivity.over_ranks import Reduce
from topograph.sensitivity.plugins import plugin_scores
from topograph.sensitivity.room import in_parts
from topograph.sensitivity.scored import Score, place_name
from topograph.sensitivity.scorers import SCORERS, refused_by
from topograph.spec import Refusal, digest
from topograph.spec.scorers import USUAL
from topograph.tracing import TracedModel


def score(
    traced: TracedModel,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss,
    candidates: Sequence[AnyMutation],
    *,
    scorer: str = USUAL,
    directions: int = 1,
    progress: bool = False,
    reduce: Reduce | None = None,
) -> tuple[Score, ...]:
    r"""Return what every candidate would bring, best first.

    Each scorer is a file of this room and says there what it measures. For the usual one,
    ``topological_derivative``: with the adjoint :math:`p = -\partial J / \partial x` of the edge a
    block is put on, the loss changes by :math:`-\varepsilon^2\, s_1 \sigma_1(\sum_s p_s \tilde
    x_s^T) / 2` at a step :math:`\varepsilon` along the best unit direction. The model is scored in
    eval mode; its buffers, modes, gradients and random state are as before the call.

    Args:
        traced: The model, traced with example inputs.
        batches: Pairs of inputs and target, read one at a time. Most scorers read them once;
            ``natural``, ``features`` and ``wasserstein`` keep them all and read them again.
            Inputs are a tensor, a tuple in order, or a dict by name.
        loss: From output and target to a scalar that is a mean over the batch.
        candidates: Mutations; selectors stand for all their places, refused ones are left out.
        scorer: Name of the scorer; plugins add more.
        directions: Along how many leading singular pairs the units of a block with two layers
            start, each along its own; at most as many as it has, for ``topological_derivative``.
            The value is then the mean of theirs: all units along the first one would bring more
            at once, but stay alike in training.
        progress: Whether to show a bar.
        reduce: Sums a tensor over all ranks of a distributed run; the scores are then those of
            the batches of all ranks, each of which counts alike.

    Returns:
        One `Score` for each place, best at a step of 0.1 first, ties in topological order.

    Raises:
        MemoryShortError: Memory is short for a single candidate; several are scored in parts.
        NonFiniteError: A loss, an adjoint or a score is not finite; names batch and node.
        RefusedError: There are no candidates, or no place is left; carries the reasons.
        SelectorError: A selector matches nothing.
        ShapeError: A rank has no batches, one is no pair, or the loss is not one number.
        SpecError: There is no such scorer, it cannot add up over ranks, it has no such number of
            directions, or the loss is no function.

    Example:
        >>> import topograph as tg, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batch = torch.randn(16, 4), torch.randint(0, 2, (16,))
        >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
        >>> traced = tg.trace(model, batch[:1])
        >>> tg.score(traced, [batch], nn.functional.cross_entropy, [change])[0].order
        2

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """
    whole = isinstance(directions, Integral)
    if not whole or directions < 1 or (directions > 1 and scorer != USUAL):
        raise SpecError(
            f"directions = {directions!r} with {scorer}: give 1, or with {USUAL} a larger whole "
            "number; the other scorers choose their own"
        )
    if not candidates:
        raise RefusedError("no candidate can be scored: the list is empty; give at least one")
    places = scorable(traced, candidates, scorer)
    wanted = tuple({digest(p): p for p in places if not isinstance(p, Refusal)}.values())
    if not wanted:
        refusals = tuple(p for p in places if isinstance(p, Refusal))
        why = "" if refusals else " the model has all of them already; give others"
        raise RefusedError(f"no candidate can be scored:{why}", refusals)
    with Progress(disable=not progress, transient=True) as bar:
        total = len(batches) if isinstance(batches, Sequence) else None
        task = bar.add_task("scoring", total=total)
        asked = Asked(
            traced, batches, loss, wanted, reduce, lambda _: bar.advance(task), directions
        )
        known = SCORERS.get(scorer)
        scores = plugin_scores(scorer, asked) if known is None else in_parts(known.measure, asked)
    for found in scores:
        if not math.isfinite(found.value):
            raise NonFiniteError(
                f"the score of {place_name(found.mutation)} is {found.value}; look for infinities "
                "in the probe batches; nothing was changed"
            )
    return tuple(sorted(scores, key=lambda found: -found.worth))


def scorable(
    traced: TracedModel, candidates: Sequence[AnyMutation], scorer: str = USUAL
) -> list[AnyMutation | Refusal]:
    """Return the single places that requests mean, and why one of them cannot be scored.

    What is applied already is left out, as a plan would leave it out. A plugin's scorer is asked
    about all that can be done.
    """
    found = [_asked_of(traced, scorer, item) for item in resolve(traced, candidates)]
    known = traced.topology.contains
    return [p for p in found if isinstance(p, (Refusal, *TAKES_AWAY)) or not known(digest(p))]


def _asked_of(
    traced: TracedModel, scorer: str, item: AnyMutation | Refusal
) -> AnyMutation | Refusal:
    """Return a candidate, or why a scorer cannot compare it."""
    if isinstance(item, Refusal) or scorer not in SCORERS:
        return item
    return refused_by(scorer, traced, item) or item
