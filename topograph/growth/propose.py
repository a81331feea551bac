"""What a rule that is due would do: score, race, plan, start; nothing is changed yet."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from topograph.errors import NonFiniteError, RefusedError, SelectorError
from topograph.growth.course import Gear
from topograph.growth.fit import Failed, Nothing, attempt, fit, too_large
from topograph.growth.halving import hold, pick
from topograph.growth.runners import Track
from topograph.growth.select import affordable, rank, start
from topograph.growth.shrink import final, shrink
from topograph.growth.significance import halves, held_out
from topograph.growth.until import reach, within
from topograph.rewrite import Revision
from topograph.sensitivity import Score, mean_loss, scorable, score
from topograph.sensitivity.batches import Loss
from topograph.sensitivity.cost import Cost
from topograph.spec import (
    Budget,
    Growth,
    Plan,
    Race,
    Ranked,
    Refusal,
    Rule,
    Selection,
    Significance,
    digest,
)
from topograph.spec.scorers import UNSCORED
from topograph.tracing import TracedModel
from topograph.training.ranks import Ranks
from topograph.training.sharing import share_scores


class Proposal(NamedTuple):
    """An applied plan that waits to be taken, and what is known of it."""

    revision: Revision
    growth: Growth


@dataclass
class Question:
    """What a rule that is due is asked, and what was found out on the way.

    Attributes:
        traced: The network; it is not changed.
        rule: What may be done and how it is chosen.
        name: What the rule is called.
        budget: Where growth ends.
        batches: To score, race and measure on.
        loss: From output and target to a scalar.
        gear: A race trains with its optimizer and puts it back.
        ranks: The processes that ask this together.
        before: The mean loss.
        plans: Plans of single candidates, by the identity of their score.
        raced: Losses after the race, by the identity of the score.
    """

    traced: TracedModel
    rule: Rule
    name: str
    budget: Budget
    batches: Sequence[tuple[Any, Any]]
    loss: Loss
    gear: Gear
    ranks: Ranks
    before: float = math.nan
    plans: dict[int, Plan] = field(default_factory=dict)
    raced: dict[int, float] = field(default_factory=dict)


def propose(asked: Question, reason: str, *, progress: bool = False) -> Proposal | Nothing:
    """Return the growth that a rule asks for, or why there is none.

    Args:
        asked: The rule, the network and what to measure with; a rule that waits for significance
            scores on the first half of the batches.
        reason: Why it is due.
        progress: Whether to show a bar while scoring.

    Raises:
        NonFiniteError: The loss or a score is not finite.
        ShapeError: There are too few batches.
    """
    began, traced, rule, loss = time.perf_counter(), asked.traced, asked.rule, asked.loss
    done = within(traced.topology, rule.selection)
    if done is not None:
        return done
    held: Sequence[tuple[Any, Any]] = ()
    if isinstance(rule.trigger, Significance):
        asked.batches, held = halves(asked.batches)
    scores = _gather(asked, progress)
    if isinstance(scores, Nothing):
        return scores
    ranked = _rank(asked, scores)
    if isinstance(ranked, Nothing):
        return ranked
    reduce = asked.ranks.reduce
    before = mean_loss(traced, asked.batches, loss, reduce)
    asked.before = finite(before, "of the probe batches")
    if rule.selection.race is not None:
        won = _race(asked, ranked, rule.selection.race)
        if isinstance(won, Nothing):
            return won
        ranked, reason = won[0], f"{reason}; {won[1]}"
    fitted = _how(rule.selection)(traced, ranked, rule.selection, asked.budget, asked.plans)
    if isinstance(fitted, Nothing):
        return fitted
    revision, chosen = fitted
    if isinstance(rule.trigger, Significance):
        outcome = held_out(revision, chosen, held, loss, asked.ranks)
        told = f"the held-out decrease is {outcome}"
        if not outcome.significant(rule.trigger.deviations):
            return Nothing("nothing", f"{told}, not {rule.trigger.deviations:g} errors above 0")
        reason = f"{reason}; {told}"
    length, after = start(revision, chosen, rule.step, asked.batches, loss, asked.before, reduce)
    growth = Growth(
        reason=reason,
        step=length,
        loss_before=asked.before,
        loss_after=finite(after, "after the growth"),
        predicted=sum(score.predicted(length) for score in chosen) + 0.0,
        ranking=_told(asked, scores, chosen, revision, length),
        seconds=time.perf_counter() - began,
        rule=asked.name,
    )
    return Proposal(revision, growth)


def _how(selection: Selection) -> Callable[..., tuple[Revision, list[Score]] | Nothing]:
    """Return what finds the candidates that are carried out together."""
    if selection.until is None:
        return fit
    return shrink if selection.until.each == "unit" else reach


def used_up(
    rule: Rule,
    budget: Budget,
    grown: Sequence[int],
    index: int,
    growing: float,
    elapsed: float,
) -> str | None:
    """Return which limit on growths or time has been reached, in words; None if none has.

    Args:
        rule: The rule that is due.
        budget: The policy's.
        grown: Growths so far, by rule.
        index: Which rule it is.
        growing: Seconds spent on growth.
        elapsed: Seconds in all.
    """
    if budget.revisions is not None and sum(grown) >= budget.revisions:
        return f"the budget of {budget.revisions} revisions is used up"
    if rule.most is not None and grown[index] >= rule.most:
        return f"the rule's {rule.most} growths are used up"
    if budget.share is not None and growing > budget.share * elapsed:
        return (
            f"growth took {growing / elapsed:.1%} of the time, more than the budget's "
            f"{budget.share:.1%}"
        )
    return None


def offered(traced: TracedModel, rule: Rule) -> list[Any]:
    """Return all places of a rule's candidates; some may match only after the first growth.

    Raises:
        SelectorError: No selector matches anything.
    """
    found: list[Any] = []
    misses: list[SelectorError] = []
    for mutation in rule.candidates:
        try:
            found += scorable(traced, [mutation], rule.scorer)
        except SelectorError as error:
            misses.append(error)
    if len(misses) == len(rule.candidates):
        raise misses[0]
    return found


def _gather(asked: Question, progress: bool) -> tuple[Score, ...] | Nothing:
    """Return the scores of all places that are not taken yet."""
    traced, rule = asked.traced, asked.rule
    try:
        found = offered(traced, rule)
    except SelectorError as error:
        return Nothing("nothing", f"nothing matches any more: {str(error).splitlines()[0]}")
    wanted = list({digest(m): m for m in found if not isinstance(m, Refusal)}.values())
    refused = [item for item in found if isinstance(item, Refusal)]
    if not wanted:
        every = f"all {len(refused)} places are refused, the first: {refused[0]}" if refused else ""
        return Nothing("nothing", every or "every place of its candidates is taken")
    if rule.scorer == UNSCORED:
        return tuple(Score(mutation, 0.0, 1, {}, Cost(0, 0)) for mutation in wanted)
    how: Any = {"scorer": rule.scorer, "progress": progress, "reduce": asked.ranks.reduce}
    try:
        scores = score(traced, asked.batches, asked.loss, wanted, **how)
    except RefusedError as error:
        return Nothing("nothing", f"{rule.scorer}: {' '.join(str(error).split())}")
    scores = share_scores(asked.ranks, scores)
    return scores or Nothing("nothing", f"{rule.scorer} gives none of {len(wanted)} places a score")


def _rank(asked: Question, scores: tuple[Score, ...]) -> list[Score] | Nothing:
    """Return the candidates that may be chosen, best first; at least one."""
    rule, measured = asked.rule, asked.rule.scorer != UNSCORED
    fitting = affordable(scores, asked.traced.topology, asked.budget)
    if not fitting:
        return too_large(scores, asked.traced.topology, asked.budget)
    ranked = rank(fitting, rule.selection, measured=measured)
    if not ranked:
        best = max(score.value for score in fitting)
        least = rule.selection.minimum
        return Nothing(
            "nothing", f"the best of {len(fitting)} scores is {best:.4g}, not above {least:g}"
        )
    return ranked


def _race(
    asked: Question, ranked: Sequence[Score], rules: Race
) -> tuple[list[Score], str] | Nothing:
    """Return those that did better than no change, best first, and how the race went."""
    rule, k = asked.rule, asked.rule.selection.k
    track = Track(asked.traced, asked.batches, asked.loss, asked.gear, asked.ranks)
    picked = pick(track, ranked, rules, k, asked.budget, asked.plans)
    raced = hold(track, picked, rule.step, asked.before, rules, k)
    if raced is None:
        first = attempt(asked.traced, ranked[:1], asked.budget, asked.plans)
        assert isinstance(first, Failed)  # or it would have raced
        return first.why
    asked.raced = {id(entrant.score): entrant.loss for entrant in raced.entrants}
    count, told = len(raced.entrants), raced.told()
    if not raced.winners:
        return Nothing("nothing", f"none of {count} won the race: {told}")
    return [entrant.score for entrant in raced.winners], f"won the race of {count}: {told}"


def _told(
    asked: Question,
    scores: Sequence[Score],
    chosen: Sequence[Score],
    revision: Revision,
    step: float,
) -> tuple[Ranked, ...]:
    """Return every candidate with its fate; what was not scored costs what its plan says."""
    taken, effects = {id(score) for score in chosen}, revision.plan.effects
    alone = asked.rule.scorer == UNSCORED and len(chosen) == 1
    grown = Cost(
        effects.parameters_after - effects.parameters_before,
        effects.flops_after - effects.flops_before,
    )
    told = []
    for item in final(scores, chosen):
        cost = grown if alone and id(item) in taken else item.cost
        told.append(
            Ranked(
                mutation=item.mutation,
                value=item.value,
                order=item.order,
                predicted=item.predicted(step) + 0.0,
                parameters=cost.parameters,
                flops=cost.flops,
                chosen=id(item) in taken,
                raced=_known(asked.raced.get(id(item))),
                error=_known(item.error),
            )
        )
    return tuple(told)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def finite(value: float, where: str) -> float:
    """Return a loss.

    Raises:
        NonFiniteError: It is infinite or not a number.
    """
    if not math.isfinite(value):
        raise NonFiniteError(f"the loss {where} is {value}; nothing was changed")
    return value
