"""Which scored candidates are carried out, and how large their start is."""

from collections.abc import Iterable, Sequence
from typing import Any

from topograph.rewrite import Revision, apply, set_step
from topograph.sensitivity import Score, mean_loss
from topograph.sensitivity.score import REFERENCE_STEP
from topograph.sensitivity.tape import Loss
from topograph.spec import Budget, Fixed, LineSearch, Plan, Selection
from topograph.topology import Topology
from topograph.tracing import TracedModel

SUFFICIENT = 0.1  # share of the predicted decrease that a line search asks for


def affordable(scores: Iterable[Score], topology: Topology, budget: Budget) -> list[Score]:
    """Return the scores whose candidates fit what is left of the budget."""
    return [
        score
        for score in scores
        if _within(topology.parameter_count + score.cost.parameters, budget.parameters)
        and _within(topology.flops + score.cost.flops, budget.flops)
    ]


def choose(
    scores: Sequence[Score], topology: Topology, selection: Selection, budget: Budget
) -> list[Score]:
    """Return the best candidates that together fit the budget, best first."""
    ranked = sorted(scores, key=lambda score: -_worth(score, selection))
    chosen: list[Score] = []
    parameters, flops = topology.parameter_count, topology.flops
    for score in ranked:
        fits = _within(parameters + score.cost.parameters, budget.parameters) and _within(
            flops + score.cost.flops, budget.flops
        )
        if len(chosen) < selection.k and score.value > selection.minimum and fits:
            chosen.append(score)
            parameters += score.cost.parameters
            flops += score.cost.flops
    return chosen


def start(
    traced: TracedModel,
    plan: Plan,
    chosen: Sequence[Score],
    step: LineSearch | Fixed,
    batches: Sequence[tuple[Any, Any]],
    loss: Loss,
    before: float,
) -> tuple[Revision, float, float]:
    r"""Apply a plan with the start that a policy asks for.

    A line search halves the step until the loss falls by a tenth of what was predicted (the
    condition of Armijo), and goes on while that lowers it further; if it never falls enough, the
    layers start as the identity.

    Returns:
        The revision, the step that was taken, and the loss after it.
    """
    if isinstance(step, Fixed):
        revision = apply(traced, plan, directions=chosen, step=step.size)
        return revision, step.size, mean_loss(revision.after, batches, loss)
    revision = apply(traced, plan, directions=chosen, step=step.largest)
    best_length, best = 0.0, before
    for halving in range(step.halvings + 1):
        length = step.largest / 2**halving
        set_step(revision, chosen, length)
        after = mean_loss(revision.after, batches, loss)
        enough = before + SUFFICIENT * sum(score.predicted(length) for score in chosen)
        if best_length and not after < best:
            break
        if after <= enough:
            best_length, best = length, after
    if not best_length:
        return apply(traced, plan), 0.0, before
    set_step(revision, chosen, best_length)
    return revision, best_length, best


def _within(value: int, limit: int | None) -> bool:
    return limit is None or value <= limit


def _worth(score: Score, selection: Selection) -> float:
    """Return the decrease at the step that makes scores of both orders comparable, per cost."""
    cost = {"nothing": 1, "parameter": score.cost.parameters, "flop": score.cost.flops}
    return -score.predicted(REFERENCE_STEP) / max(cost[selection.per], 1)
