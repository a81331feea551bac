r"""The best map of a low rank on an edge, to second order in the loss.

The map :math:`A` changes the loss by :math:`-\langle A, M \rangle + \frac12
\operatorname{tr}(A C A^T G)`. With :math:`C = L_C L_C^T`, :math:`G = L_G L_G^T` and
:math:`L_G^{-1} M L_C^{-T} = U S V^T` the best of rank m is :math:`A = L_G^{-T} U_m S_m V_m^T
L_C^{-1}`, and lowers it by :math:`\frac12 \sum_{i \le m} S_i^2`.

That is so of the batches that M is from. What A is worth on others is heard from two halves of
them: the map that is best for one half has a slope on the other that noise does not inflate.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from topograph.sensitivity.leading import Triples, leading_triples
from topograph.sensitivity.products import Product

RIDGE = 1e-2  # of the mean of a diagonal, added to it


class Factors(NamedTuple):
    """What the quadratic model of a loss at an edge is made of.

    Attributes:
        correlation: M ``[out, in]``.
        states: C ``[in, in]``.
        noise: G ``[out, out]``.
    """

    correlation: Tensor
    states: Tensor
    noise: Tensor


class Step(NamedTuple):
    """A map as a product; the rows of ``right`` have variance 1 over states.

    Attributes:
        left: ``[out, m]``.
        right: ``[m, in]``.
    """

    left: Tensor
    right: Tensor


class Crossed(NamedTuple):
    """The best map for two halves, and what each of them says of the other's.

    Attributes:
        step: The map.
        slope: Of the best map for one half on the other half, the mean of both ways.
        curvature: What the model says of that of the map.
    """

    step: Step
    slope: float
    curvature: float


def newton_step(factors: Factors, rank: int) -> Step:
    """Return the best map of a rank, damped; of a lower one where there are no more directions.

    Raises:
        torch.linalg.LinAlgError: A factor is not finite.
    """
    inner, outer = _root(factors.states), _root(factors.noise)
    found = _leading(_whitened(factors.correlation, inner, outer), rank)
    return _map(found, factors.states, inner, outer)


def crossed_step(
    halves: tuple[Tensor, Tensor], states: Tensor, noise: Tensor, rank: int
) -> Crossed:
    """Return the best map of a rank for the mean of two correlations, and its worth across them.

    Args:
        halves: M of each half, ``[out, in]``.
        states: C of both.
        noise: G of both, times any number: it drops out of what a step brings.
        rank: At most that of M.

    Raises:
        torch.linalg.LinAlgError: A factor is not finite.
    """
    inner, outer = _root(states), _root(noise)
    first, second = (_whitened(half, inner, outer) for half in halves)
    found = _leading((first + second) / 2, rank)
    slope = (_across(first, second, rank) + _across(second, first, rank)) / 2
    curvature = found.values.square().sum().item()
    return Crossed(_map(found, states, inner, outer), slope, curvature)


def _whitened(matrix: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Return the matrix in white coordinates; solving from the right is twice as fast."""
    half = torch.linalg.solve_triangular(outer.T, matrix.T, upper=True, left=False).T
    return torch.linalg.solve_triangular(inner.T, half, upper=True, left=False)


def _leading(matrix: Tensor, rank: int) -> Triples:
    return leading_triples(Product((matrix,)), rank)


def _across(first: Tensor, second: Tensor, rank: int) -> float:
    """Return the product of the part of a rank of one matrix with another."""
    if rank >= min(first.shape):
        return (first * second).sum().item()
    found = _leading(first, rank)
    return (found.values @ ((found.left.T @ second) * found.right).sum(1)).item()


def _map(found: Triples, states: Tensor, inner: Tensor, outer: Tensor) -> Step:
    left = torch.linalg.solve_triangular(outer.T, found.left * found.values, upper=True)
    right = torch.linalg.solve_triangular(inner.T, found.right.T, upper=True).T
    scale = ((right @ states) * right).sum(1).sqrt()  # 1, but for the ridge
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Step(left * scale, right / scale[:, None])


def _root(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a matrix with its ridge."""
    level = matrix.diagonal().mean()
    ridge = RIDGE * level + torch.finfo(matrix.dtype).tiny ** 0.5
    return torch.linalg.cholesky(matrix + ridge * torch.eye(len(matrix)).to(matrix))
