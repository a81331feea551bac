"""Leading singular triples of many matrices at once."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

SMALL = 48  # below this a full decomposition is the faster one
EXTRA = 6
ROUNDS = 12
TOLERANCE = 1e-4


class Triple(NamedTuple):
    """A singular triple: ``left`` [rows] and ``right`` [columns] of unit length, ``value``."""

    left: Tensor
    value: float
    right: Tensor


def leading_triples(matrices: Mapping[str, Tensor]) -> dict[str, Triple]:
    r"""Return the leading singular triple of every matrix.

    Matrices of one shape are stacked. Small ones are decomposed; for the others a subspace of a
    few vectors is iterated, :math:`V \leftarrow \mathrm{qr}(M^T \mathrm{qr}(M V))`, from a fixed
    start until the leading values stand still, so the random state is not touched. The value is
    :math:`u^T M v` for the pair that is returned, hence exact for it.

    Args:
        matrices: ``[rows, columns]`` each, by any name.

    References:
        Halko, Martinsson, Tropp, arXiv:0909.4061.
    """
    by_shape: dict[tuple[int, int], list[str]] = {}
    for name, matrix in matrices.items():
        by_shape.setdefault((matrix.shape[0], matrix.shape[1]), []).append(name)
    found: dict[str, Triple] = {}
    for (rows, columns), names in by_shape.items():
        stack = torch.stack([matrices[name] for name in names])
        if min(rows, columns) <= SMALL:
            u, s, vh = torch.linalg.svd(stack, full_matrices=False)
            left, values, right = u[:, :, 0], s[:, 0], vh[:, 0]
        else:
            left, values, right = _iterate(stack)
        for index, name in enumerate(names):
            found[name] = Triple(left[index].clone(), values[index].item(), right[index].clone())
    return {name: found[name] for name in matrices}


def _iterate(stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(stack.shape[2], 1 + EXTRA, generator=generator)
    right = start.to(stack).expand(len(stack), -1, -1)
    before = stack.new_zeros(len(stack))
    for _ in range(ROUNDS):
        left = torch.linalg.qr(stack @ right)[0]
        right, small = torch.linalg.qr(stack.mT @ left)
        values = torch.linalg.matrix_norm(small, 2)
        if bool(((values - before).abs() <= TOLERANCE * values).all()):
            break
        before = values
    u, s, vh = torch.linalg.svd(small.mT, full_matrices=False)
    return (left @ u[:, :, :1]).squeeze(-1), s[:, 0], (right @ vh.mT[:, :, :1]).squeeze(-1)
