"""Which candidates may be carried out, in which order, and how large their start is."""

from collections.abc import Iterable, Sequence
from typing import Any

from topograph.rewrite import Revision, set_step
from topograph.sensitivity import Score, mean_loss
from topograph.sensitivity.batches import Loss
from topograph.sensitivity.over_ranks import Reduce
from topograph.sensitivity.scored import node_of
from topograph.spec import Budget, Fixed, LineSearch, Selection, Zero
from topograph.topology import Topology

SURE = 2  # standard errors beyond which a value is not above a minimum
SUFFICIENT = 0.1  # share of the predicted decrease that a line search asks for


def affordable(scores: Iterable[Score], topology: Topology, budget: Budget) -> list[Score]:
    """Return the scores whose candidates fit what is left of the budget."""
    return [
        score
        for score in scores
        if _fits(topology.parameter_count, score.cost.parameters, budget.parameters)
        and _fits(topology.flops, score.cost.flops, budget.flops)
    ]


def rank(scores: Sequence[Score], selection: Selection, *, measured: bool) -> list[Score]:
    """Return the candidates that may be chosen, in the order in which they should be.

    Args:
        scores: The candidates.
        selection: What the rule says.
        measured: Whether a scorer made the scores; if not, the order given is kept.
    """
    if not measured:
        return list(scores)
    above = [score for score in scores if _most(score) > selection.minimum]
    return sorted(above, key=lambda score: -_worth(score, selection))


def _most(score: Score) -> float:
    """Return what a value may be within its noise; a scorer without errors has none."""
    return score.value + SURE * (score.error or 0.0)


def choose(
    ranked: Sequence[Score], topology: Topology, selection: Selection, budget: Budget
) -> list[Score]:
    """Return the first `k` candidates that together fit the budget, spread over depth if asked."""
    if selection.spread:
        ranked = _spread(ranked, topology, selection.k)
    chosen: list[Score] = []
    parameters, flops = topology.parameter_count, topology.flops
    for score in ranked:
        fits = _fits(parameters, score.cost.parameters, budget.parameters) and _fits(
            flops, score.cost.flops, budget.flops
        )
        if len(chosen) < selection.k and fits:
            chosen.append(score)
            parameters += score.cost.parameters
            flops += score.cost.flops
    return chosen


def start(
    revision: Revision,
    chosen: Sequence[Score],
    step: LineSearch | Fixed | Zero,
    batches: Sequence[tuple[Any, Any]],
    loss: Loss,
    before: float,
    reduce: Reduce | None = None,
) -> tuple[float, float]:
    r"""Give the new layers of a revision the start that a policy asks for.

    A line search halves the step until the loss falls by a tenth of what was predicted (the
    condition of Armijo), and goes on while that lowers it further; if it never falls enough, the
    layers start as the identity.

    Args:
        revision: Freshly applied, without a start; its new layers are written to.
        chosen: The scores of its changes, with directions where their scorer has them.
        step: What the rule says.
        batches: Batches to measure on.
        loss: From output and target to a scalar.
        before: The loss before.
        reduce: Sums over the ranks, where there are several.

    Returns:
        The step that was taken, and the loss after it.
    """
    if isinstance(step, Zero) or not any(score.direction for score in chosen):
        set_step(revision, chosen, 0)
        return 0.0, mean_loss(revision.after, batches, loss, reduce)
    if isinstance(step, Fixed):
        set_step(revision, chosen, step.size)
        return step.size, mean_loss(revision.after, batches, loss, reduce)
    best_length, best = 0.0, before
    for halving in range(step.halvings + 1):
        length = step.largest / 2**halving
        set_step(revision, chosen, length)
        after = mean_loss(revision.after, batches, loss, reduce)
        enough = before + SUFFICIENT * sum(score.predicted(length) for score in chosen)
        if best_length and not after < best:
            break
        if after <= enough:
            best_length, best = length, after
    set_step(revision, chosen, best_length)
    return best_length, best


def _fits(now: int, more: int, limit: int | None) -> bool:
    """Return whether a limit allows more; what takes nothing more is always allowed."""
    return limit is None or more <= 0 or now + more <= limit


def _worth(score: Score, selection: Selection) -> float:
    """Return the decrease at the step that makes scores of both orders comparable, per cost."""
    cost = {"nothing": 1, "parameter": score.cost.parameters, "flop": score.cost.flops}
    return score.worth / max(cost[selection.per], 1)


def _spread(ranked: Sequence[Score], topology: Topology, parts: int) -> list[Score]:
    """Return the first of each of the parts into which the network's depth is cut, in order."""
    order = {node.name: index for index, node in enumerate(topology.nodes)}
    first: dict[int, Score] = {}
    for score in ranked:
        depth = order.get(node_of(score.mutation), 0)
        first.setdefault(depth * parts // max(len(order), 1), score)
    return list(first.values())
