r"""Noise with the covariance of the loss's curvature, and what it leaves at an edge.

With the Hessian :math:`H` of the loss by the model's output and a random :math:`u` of mean 0 and
:math:`E[u u^T] = H`, the gradient :math:`\tilde p = \mathrm{Jac}^T u` that arrives at an edge has
:math:`E[\tilde p \tilde p^T] = \mathrm{Jac}^T H\, \mathrm{Jac}`: the Gauss-Newton matrix, from one
more pass backward. The gradients of the targets as they are do not have it.

References:
    Martens, Grosse, arXiv:1503.05671; Kunstner, Balles, Hennig, arXiv:1905.12558.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from topograph.errors import ShapeError
from topograph.sensitivity.batches import Loss
from topograph.sensitivity.patches import Rows

ROWS = 4  # times the number of columns: so many rows are enough for a covariance
FEWEST = 1024  # rows that are always taken of one batch
MANY = 2048  # rows that are always taken of several batches
BLOCK = 128  # columns of a symmetric product that are made at once


def noise_like(generator: torch.Generator) -> Callable[[Loss, Any, Any], tuple[Tensor, Tensor]]:
    r"""Return what draws noise for an output from a generator.

    Whole-numbered targets are classes of a softmax: :math:`u = \sqrt n\, \nabla J(o, \tilde y)`
    with :math:`\tilde y` drawn from the softmax for each of the n targets. For others the loss is
    taken as a sum over entries of the output, such as a squared error, and
    :math:`u_i = \pm\sqrt{H_{ii}}`.
    """

    def noise(loss: Loss, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        made = _only_output(output)
        cut = made.detach().requires_grad_()
        again = pytree.tree_map(lambda leaf: cut if leaf is made else leaf, output)
        if (
            isinstance(target, Tensor)
            and not target.is_floating_point()
            and not target.is_complex()
        ):
            drawn, count = _drawn(cut, target, generator)
            (gradient,) = torch.autograd.grad(loss(again, drawn), cut)
            return made, gradient * count**0.5
        (slope,) = torch.autograd.grad(loss(again, target), cut, create_graph=True)
        if not slope.requires_grad:  # linear in the output: no curvature
            return made, torch.zeros_like(cut)
        (diagonal,) = torch.autograd.grad(slope.sum(), cut)
        signs = torch.randint(0, 2, cut.shape, generator=generator).to(cut) * 2 - 1
        return made, diagonal.clamp_min(0).sqrt() * signs

    return noise


def _only_output(output: Any) -> Tensor:
    """Return the one tensor of an output that has a gradient."""
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    live = [leaf for leaf in leaves if leaf.requires_grad]
    if len(live) != 1:
        raise ShapeError(
            f"the model has {len(live)} outputs with a gradient; this scorer needs the "
            "curvature of the loss by one: take another scorer, or return one"
        )
    return live[0]


def _drawn(output: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    """Return targets drawn from the softmax of an output, and how many there are."""
    axes = [a for a in (1, -1) if target.shape == output.movedim(a, -1).shape[:-1]]
    if output.ndim < 2 or not axes:
        raise ShapeError(
            f"whole-numbered targets {list(target.shape)} for an output {list(output.shape)}; "
            "this scorer expects one class for each row of scores"
        )
    chances = output.detach().double().movedim(axes[0], -1).softmax(-1)
    rows = chances.flatten(0, -2).cpu()
    drawn = torch.multinomial(rows, 1, generator=generator).reshape(target.shape).to(target)
    real = target >= 0  # the others are left out by the loss
    return torch.where(real, drawn, target), int(real.sum())


@dataclass
class Covariance:
    r"""Accumulates :math:`\sum_s r_s r_s^T` of rows at picked positions, or of all.

    Attributes:
        batches: How many will come, which share the rows that are picked.
        total: ``[columns, columns]``, as if all positions had been summed; None before the first.
    """

    batches: int = 1
    total: Tensor | None = None
    generator: torch.Generator = field(
        default_factory=lambda: torch.Generator().manual_seed(0), repr=False
    )

    def add(self, rows: Rows) -> None:
        """Add a batch: all its rows, or its random share.

        One batch gives 1,024 rows, several together 2,048, or four times as many as columns.
        """
        fewest = FEWEST if self.batches == 1 else MANY
        share = -(-max(ROWS * rows.columns, fewest) // self.batches)
        picked = min(rows.positions, share)
        places = torch.arange(picked)
        if picked < rows.positions:  # one of each of so many equal runs
            drawn = torch.rand(picked, generator=self.generator, dtype=torch.float64)
            places = ((places + drawn) * (rows.positions / picked)).long()
        found = rows.pick(places)
        made = _squared(found) * (rows.positions / picked)
        self.total = made if self.total is None else self.total + made


def _squared(rows: Tensor) -> Tensor:
    """Return the product of the transposed rows with themselves, half of it made by symmetry."""
    parts = rows.split(BLOCK, 1)
    if len(parts) == 1:
        return rows.T @ rows
    whole, at = rows.new_empty(rows.shape[1], rows.shape[1]), 0
    for part in parts:
        end = at + part.shape[1]
        whole[at:end, at:] = part.T @ rows[:, at:]
        whole[end:, at:end] = whole[at:end, end:].T
        at = end
    return whole
