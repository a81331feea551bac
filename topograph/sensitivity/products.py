"""Matrices that are kept as the product of thinner ones."""

from typing import NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """A matrix as ``factors[0] @ factors[1] @ …``, multiplied out only when that is needed."""

    factors: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    def times(self, vector: Tensor) -> Tensor:
        """Return the matrix times a vector [columns]."""
        for factor in reversed(self.factors):
            vector = factor @ vector
        return vector

    def transposed_times(self, vector: Tensor) -> Tensor:
        """Return the transposed matrix times a vector [rows]."""
        for factor in self.factors:
            vector = factor.T @ vector
        return vector

    def dense(self) -> Tensor:
        """Return the matrix itself, [rows, columns]."""
        return self.factors[0] if len(self.factors) == 1 else torch.linalg.multi_dot(self.factors)

    def scaled(self, rows: Tensor | float = 1.0) -> "Product":
        """Return the matrix with its rows scaled by a number, or each by its own [rows]."""
        first = self.factors[0] * (rows[:, None] if isinstance(rows, Tensor) else rows)
        return Product((first, *self.factors[1:]))
