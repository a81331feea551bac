r"""The loss along one change of an edge's value, to second order, on batches of its own.

A change :math:`t\, d(x)` of the value at a place moves the loss by :math:`-t c + t^2 \kappa / 2`,
with the slope :math:`c = \sum_s \langle p_s, d_s \rangle` and, from noise with the covariance of
the loss's curvature (`fisher`), :math:`\kappa = \sum_{samples} (\sum_s \tilde p_s^T d_s)^2`. The
best step :math:`c / \kappa` lowers it by the Newton decrement :math:`c^2 / 2 \kappa`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topograph.sensitivity.asked import Asked
from topograph.sensitivity.over_ranks import Sum, add_up
from topograph.sensitivity.statistics import wide
from topograph.sensitivity.tape import Noise, Probe, sweep

Batches = Sequence[tuple[Any, Any]]


class Line:
    """Hears slope and curvature of the loss along one change of a place's value.

    Attributes:
        total: Sums over batches of the slope, its square, and the curvature.
    """

    def __init__(self, change: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self._change = change
        self.total: Tensor | None = torch.zeros(3).to(like)

    def listen(self, state: Tensor, adjoint: Tensor) -> None:
        """Hear a batch's states and adjoints."""
        slope = (wide(adjoint) * self._change(state)).sum()
        self._add(slope, slope.square(), torch.zeros_like(slope))

    def feel(self, state: Tensor, noise: Tensor) -> None:
        """Hear what the noise leaves at the place."""
        bent = (wide(noise) * self._change(state)).flatten(1).sum(1).square().sum()
        self._add(torch.zeros_like(bent), torch.zeros_like(bent), bent)

    def _add(self, *found: Tensor) -> None:
        assert self.total is not None  # it is there from the start
        self.total += torch.stack(found)


def hear(
    asked: Asked,
    batches: Batches,
    probes: Sequence[Probe],
    sums: Sequence[Sum],
    noise: Noise | None = None,
    every: int = 1,
) -> tuple[int, float]:
    """Let probes listen to some batches; return how many there are on all ranks, and their loss.

    Args:
        asked: The model and the loss.
        batches: What to run.
        probes: Who listens.
        sums: What they add to, which becomes that of all ranks.
        noise: For curvature.
        every: In one of so many batches, from the first.
    """
    losses: list[float] = []

    def done(loss: float) -> None:
        losses.append(loss)
        asked.done(loss)

    run = asked.loss, probes, done, asked.reduce, noise, every, asked.first
    count = sweep(asked.traced, batches, *run)
    if asked.reduce is None:
        return count, sum(losses) / count
    add_up(sums, asked.reduce)
    like = next(asked.traced.module.parameters(), torch.empty(0))
    total = asked.reduce(torch.tensor(sum(losses), dtype=torch.float64, device=like.device))
    return count, total.item() / count
