"""`race`: candidates train for a few steps each, on copies, and the best is told."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from topograph.errors import RefusedError, ShapeError
from topograph.growth.checks import check_batches, check_gear
from topograph.growth.course import Gear
from topograph.growth.fit import Failed, attempt
from topograph.growth.halving import Raced, hold, pick
from topograph.growth.propose import finite
from topograph.growth.runners import Track
from topograph.sensitivity import Score, mean_loss
from topograph.sensitivity.batches import Loss
from topograph.spec import Budget, Fixed, LineSearch, Race, Zero
from topograph.tracing import TracedModel
from topograph.training.ranks import Ranks


def race(
    traced: TracedModel,
    scores: Sequence[Score],
    batches: Iterable[tuple[Any, Any]],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    rules: Race | None = None,
    *,
    step: LineSearch | Fixed | Zero | None = None,
) -> Raced:
    r"""Train the best candidates and one at random for a few steps each; tell which did best.

    Successive halving: all begin with the same weights, optimizer and random numbers; after each
    round the worse half leaves, and the others go on from where they stopped. The last one wins if
    its loss is below that of the unchanged network after as many steps. `Race` has the numbers.

    Everything is as before afterwards, bit by bit: weights, buffers, gradients, optimizer, random
    numbers. While it lasts there are up to ``of + random + 2`` copies of the weights and of the
    optimizer's state: one for each network that goes on to another round, and one to put back.

    Args:
        traced: The network.
        scores: The candidates, best first, as `score` gives them.
        batches: Pairs of inputs and target; all are kept, trained on in turn, and measured on.
        loss: From output and target to a scalar that is a mean over the batch.
        optimizer: Holds the network's parameters, and trains all of them; any but LBFGS.
        rules: How many take part, and for how many steps; `Race` has the defaults.
        step: How large the start of each is; 0 unless it is given.

    Returns:
        Every entrant with its loss, best first, and the winner.

    Raises:
        MigrationError: The optimizer holds none of the parameters, or cannot be carried along.
        NonFiniteError: The loss is not finite, or becomes so where the network is left as it is.
        RefusedError: No candidate can be carried out.
        ShapeError: There are no batches, or they do not go through the network.

    Example:
        >>> import topograph as tg, torch
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(),
        ...     torch.nn.Linear(8, 2))
        >>> x = torch.randn(64, 2)
        >>> batches, loss = [(x, (x[:, 0] * x[:, 1] > 0).long())], torch.nn.functional.cross_entropy
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        >>> traced = tg.trace(model, (x,))
        >>> change = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=4))
        >>> scores = tg.score(traced, batches, loss, [change])
        >>> raced = tg.race(traced, scores, batches, loss, optimizer, tg.Race(of=3, budget=60))
        >>> len(raced.entrants), raced.spent <= 60, raced.winner.loss < raced.unchanged
        (4, True, True)
        >>> best = raced.winner
        >>> plan = tg.plan(traced, [best.score.mutation])
        >>> grown = tg.apply(traced, plan, directions=[best.score], step=best.step)

    References:
        Jamieson, Talwalkar: Non-stochastic Best Arm Identification, arXiv:1502.07943.
    """
    gear, rules, step = Gear(optimizer, {}), rules or Race(), step or Zero()
    check_gear(traced, gear)
    probe = list(batches)
    if not probe:
        raise ShapeError("there are no batches to race on; give at least one (inputs, target)")
    track = Track(traced, check_batches(probe, "a race"), loss, gear, Ranks())
    before = finite(mean_loss(traced, track.batches, loss), "of the batches")
    raced = hold(track, pick(track, scores, rules, 1, Budget(), {}), step, before, rules, 1)
    if raced is None:
        raise RefusedError(f"no candidate can race: {_why(traced, scores)}")
    return raced


def _why(traced: TracedModel, scores: Sequence[Score]) -> str:
    """Return why not even the best candidate can be carried out."""
    tried = attempt(traced, scores[:1], Budget(), {}) if scores else None
    return tried.why.reason if isinstance(tried, Failed) else "there are none; give scores"
