"""The leading singular triple of a matrix."""

from typing import NamedTuple

import torch
from torch import Tensor

from topograph.sensitivity.products import Product

SMALL = 48  # below this a full decomposition is the faster one
MOST_STEPS = 64
TOLERANCE = 1e-5


class Triple(NamedTuple):
    """A singular triple: ``left`` [rows] and ``right`` [columns] of unit length, ``value``."""

    left: Tensor
    value: float
    right: Tensor


def leading_triple(matrix: Product) -> Triple:
    r"""Return the leading singular triple of a matrix that may be a product.

    A small one is decomposed. Otherwise Golub-Kahan bidiagonalisation, with every vector made
    orthogonal to all earlier ones, from a fixed start: :math:`M V = U B`, until the leading value
    of the small :math:`B` stands still. The random state is not touched, and the value is
    :math:`u^T M v` of the pair that is returned, hence exact for it.

    References:
        Golub, Kahan, Calculating the singular values and pseudo-inverse of a matrix, 1965.
    """
    if min(matrix.shape) <= SMALL:
        u, s, vh = torch.linalg.svd(matrix.dense(), full_matrices=False)
        return Triple(u[:, 0], s[0].item(), vh[0])
    start = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    right = start.to(matrix.factors[0]) / start.norm().item()
    rights: list[Tensor] = [right]
    lefts: list[Tensor] = []
    diagonal: list[float] = []
    above: list[float] = []
    value, tiny = 0.0, torch.finfo(right.dtype).tiny
    for _ in range(min(MOST_STEPS, *matrix.shape)):
        left = _orthogonal(matrix.times(rights[-1]), lefts)
        diagonal.append(left.norm().item())
        lefts.append(left / max(diagonal[-1], tiny))
        before, (value, small_left, small_right) = value, _bidiagonal(diagonal, above)
        right = _orthogonal(matrix.transposed_times(lefts[-1]), rights)
        length = right.norm().item()
        if abs(value - before) <= TOLERANCE * value or length <= tiny:
            break
        above.append(length)
        rights.append(right / length)
    u = torch.stack(lefts, 1) @ small_left.to(right)
    v = torch.stack(rights[: len(lefts)], 1) @ small_right.to(right)
    u, v = u / u.norm().clamp_min(tiny), v / v.norm().clamp_min(tiny)
    return Triple(u, torch.dot(u, matrix.times(v)).item(), v)


def _orthogonal(vector: Tensor, others: list[Tensor]) -> Tensor:
    """Return a vector without its parts along others; twice is enough."""
    if others:
        basis = torch.stack(others)
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
    return vector


def _bidiagonal(diagonal: list[float], above: list[float]) -> tuple[float, Tensor, Tensor]:
    """Return the leading triple of an upper bidiagonal matrix, in float64."""
    size = len(diagonal)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if size > 1:
        small += torch.diag(torch.tensor(above[: size - 1], dtype=torch.float64), 1)
    u, s, vh = torch.linalg.svd(small)
    return s[0].item(), u[:, 0], vh[0]
