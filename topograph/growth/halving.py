"""Successive halving: candidates train in rounds, the worse half leaves after each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import torch

from topograph.errors import NonFiniteError
from topograph.growth.fit import each
from topograph.growth.runners import Runner, Stop, Track, put_back, running, stop, train
from topograph.growth.select import start
from topograph.rewrite import Revision
from topograph.sensitivity import Score
from topograph.sensitivity.scored import place_name
from topograph.spec import Budget, Fixed, LineSearch, Plan, Race, Zero, digest
from topograph.topology.canonical import sha256

NAMED = 3  # of those who left in a round, in words
Pair = tuple["Entrant", Runner]


@dataclass(frozen=True)
class Entrant:
    """A candidate that took part in a race.

    Args:
        score: The candidate.
        step: The size of its start.
        drawn: Whether it took part by lot.
        loss: After its last step; infinite if its training diverged.
        unchanged: That of the unchanged network, trained for as many steps.
        steps: Its optimizer steps.

    Raises:
        TypeError: A field is missing; `race` makes these.

    Example:
        >>> import topograph as tg
        >>> change = tg.InsertLayer(where=tg.at("relu_1"), block=tg.Bottleneck(units=4))
        >>> score = tg.Score(change, value=2.0, order=2, direction={}, cost=(1, 0))
        >>> print(tg.Entrant(score, step=0.5, loss=0.31, unchanged=0.33, steps=25))
        bottleneck after relu_1: 0.31 after 25 steps, 0.33 unchanged

    References:
        Jamieson, Talwalkar: Non-stochastic Best Arm Identification, arXiv:1502.07943.
    """

    score: Score
    step: float = 0.0
    drawn: bool = False
    loss: float = math.inf
    unchanged: float = math.inf
    steps: int = 0

    def __str__(self) -> str:
        drawn = ", drawn by lot" if self.drawn else ""
        return (
            f"{place_name(self.score.mutation)}: {self.loss:.4g} after {_steps(self.steps)}, "
            f"{self.unchanged:.4g} unchanged{drawn}"
        )


@dataclass(frozen=True)
class Raced:
    """How a race went.

    Args:
        entrants: All that took part, best first: those that stayed longest, then by loss.
        steps: Optimizer steps of those that stayed to the end.
        unchanged: The loss of the unchanged network after as many.
        spent: Optimizer steps of all together, the unchanged network's included.

    Raises:
        TypeError: A field is missing; `race` makes these.

    Example:
        >>> import topograph as tg
        >>> tg.Raced(entrants=(), steps=0, unchanged=0.7, spent=0).winner is None
        True

    References:
        Jamieson, Talwalkar: Non-stochastic Best Arm Identification, arXiv:1502.07943.
    """

    entrants: tuple[Entrant, ...]
    steps: int
    unchanged: float
    spent: int

    @property
    def winners(self) -> tuple[Entrant, ...]:
        """Those of the last round that did better than the unchanged network, best first."""
        return tuple(e for e in self.entrants if e.steps == self.steps and e.loss < e.unchanged)

    @property
    def winner(self) -> Entrant | None:
        """The last one standing, if it did better than the unchanged network."""
        return next(iter(self.winners), None)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.entrants), f"{_steps(self.spent)} in all"])

    def told(self) -> str:
        """Return how it went in one line: the best, the unchanged network, and who left when."""
        best = self.entrants[0]
        drawn = ", drawn by lot" if best.drawn else ""
        told = [
            f"{best.loss:.4g} after {_steps(self.steps)}{drawn}, {self.unchanged:.4g} "
            f"unchanged, {_steps(self.spent)} in all"
        ]
        left = [entrant for entrant in self.entrants if entrant.steps < self.steps]
        left.sort(key=lambda entrant: entrant.steps)
        for steps, group in groupby(left, key=lambda entrant: entrant.steps):
            told.append(f"left after {steps}: {_listed(list(group))}")
        return "; ".join(told)


def pick(
    track: Track,
    ranked: Sequence[Score],
    rules: Race,
    k: int,
    budget: Budget,
    plans: dict[int, Plan],
) -> Iterator[tuple[Entrant, Revision]]:
    """Yield who takes part, each applied alone: the best, and some of the others by lot.

    Args:
        track: The network, and the ranks that draw alike.
        ranked: All candidates, best first.
        rules: How many.
        k: How many are to win.
        budget: What would make the network larger than that does not take part.
        plans: Made already, by the identity of their score; more are added.
    """
    best, drawn = seats(rules, k)
    places, last = {id(score): place for place, score in enumerate(ranked)}, len(ranked)
    for score, revision in islice(each(track.traced, ranked, budget, plans), best):
        last = places[id(score)]
        yield Entrant(score), revision
    others = by_lot(track, ranked[last + 1 :]) if drawn else ()
    for score, revision in islice(each(track.traced, others, budget, plans), drawn):
        yield Entrant(score, drawn=True), revision


def seats(rules: Race, k: int) -> tuple[int, int]:
    """Return how many of the best and of the others the steps are enough for."""
    count = rules.of + rules.random
    if rules.budget is not None:
        while (count + 1) * rounds(count, k) > rules.budget:
            count -= 1
    drawn = min(rules.random, count - 1)
    return count - drawn, drawn


def rounds(standing: int, k: int) -> int:
    r"""Return :math:`\lceil \log_2(n / k) \rceil`, at least 1: rounds until `k` are left."""
    return max(1, (-(-standing // k) - 1).bit_length())


def by_lot(track: Track, scores: Sequence[Score]) -> list[Score]:
    """Return candidates in an order that the seed of torch, the network and each of them give."""
    seed = track.ranks.broadcast(str(torch.initial_seed()))
    network = track.traced.topology.fingerprint
    return sorted(scores, key=lambda score: sha256([seed, network, digest(score.mutation)]))


def hold(
    track: Track,
    picked: Iterable[tuple[Entrant, Revision]],
    step: LineSearch | Fixed | Zero,
    before: float,
    rules: Race,
    k: int,
) -> Raced | None:
    """Hold a race; leave everything as it was, bit by bit.

    While it lasts there is a copy of network and optimizer state for each that goes on to another
    round, and one of the network as it is.

    Args:
        track: What the networks are trained with.
        picked: Who takes part, from `pick`.
        step: How large their start is.
        before: The loss of the network as it is.
        rules: How long.
        k: How many are to win.

    Returns:
        How it went; None if nobody took part.

    Raises:
        NonFiniteError: The network as it is diverges.
        MigrationError: The optimizer cannot be carried along.
    """
    batches, loss, reduce = track.batches, track.loss, track.ranks.reduce
    with put_back(track) as begin:
        standing = []
        for entrant, applied in picked:
            size, _ = start(applied, [entrant.score], step, batches, loss, before, reduce)
            standing.append((replace(entrant, step=size), Runner(applied.after, applied)))
        return halve(track, standing, rules, k, begin) if standing else None


def halve(track: Track, standing: list[Pair], rules: Race, k: int, begin: Stop) -> Raced:
    """Train in rounds; after each the worse half leaves, until `k` are left."""
    unchanged, out, spent = Runner(track.traced), list[Entrant](), 0
    k = k if rules.steps is None else len(standing)
    while standing:
        left = rounds(len(standing), k)
        steps = lap(rules, len(standing), left, spent)
        for runner in (*(runner for _, runner in standing), unchanged):
            with running(track, runner, begin):
                spent += train(track, runner, steps)
                if left > 1:
                    runner.stop = stop(runner.network.module, track.gear)
        if not math.isfinite(unchanged.loss):
            raise NonFiniteError(
                f"the loss becomes {unchanged.loss} when the unchanged network is trained for the "
                "race; lower the learning rate; nothing was changed"
            )
        standing, gone = _cut(standing, k, unchanged.loss)
        out += gone
    ordered = sorted(out, key=lambda entrant: (-entrant.steps, entrant.loss))
    return Raced(tuple(ordered), unchanged.steps, unchanged.loss, spent)


def lap(rules: Race, standing: int, left: int, spent: int) -> int:
    """Return for how many more steps each is trained: its share over the rounds that are left."""
    if rules.steps is not None:
        return rules.steps
    assert rules.budget is not None  # one of them is always there
    return (rules.budget - spent) // ((standing + 1) * left)


def _cut(standing: list[Pair], k: int, unchanged: float) -> tuple[list[Pair], list[Entrant]]:
    """Return who goes on to another round, and who does not: nobody, once `k` or fewer would.

    Who diverged leaves; among equals who was better before stays.
    """
    ranked = sorted(standing, key=lambda pair: pair[1].loss)
    better = ranked[: max(-(-len(ranked) // 2), k)]
    stay = [pair for pair in better if math.isfinite(pair[1].loss)]
    stay = stay if len(stay) > k else []
    gone = [
        replace(entrant, loss=runner.loss, unchanged=unchanged, steps=runner.steps)
        for entrant, runner in ranked[len(stay) :]
    ]
    return stay, gone


def _listed(left: list[Entrant]) -> str:
    """Return who left in a round and at which loss, in few words."""
    shown = [f"{place_name(e.score.mutation)} at {e.loss:.4g}" for e in left[:NAMED]]
    more = [f"{len(left) - NAMED} more"] if len(left) > NAMED else []
    return ", ".join([*shown, *more])


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number} steps"
