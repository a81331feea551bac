"""What is kept of the states and adjoints of an edge: their correlation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

WEIGHT_GRADIENTS: dict[int, Callable[..., Tensor]] = {
    1: grad.conv1d_weight,
    2: grad.conv2d_weight,
    3: grad.conv3d_weight,
}


@dataclass
class Matrix:
    r"""Accumulates :math:`M = \sum_s p_s \tilde g(x_s)^T` with :math:`\tilde g = [g; 1]`.

    It is :math:`-\partial J / \partial A` of the virtual map :math:`x + A \tilde g(x)` at 0.

    Attributes:
        norm: Whether :math:`g` is a LayerNorm without affine part instead of the identity.
        total: ``[out, in + 1]``, in units of loss; None before the first batch.
    """

    norm: bool
    total: Tensor | None = field(default=None)

    def __call__(self, state: Tensor, adjoint: Tensor) -> None:
        """Add one batch: ``[..., in]`` and ``[..., out]``, all but the last axis are positions."""
        x = wide(state).flatten(0, -2)
        p = wide(adjoint).flatten(0, -2)
        if self.norm:
            x = F.layer_norm(x, x.shape[-1:])
        if self.total is None:
            self.total = x.new_zeros(p.shape[1], x.shape[1] + 1)
        self.total[:, :-1].addmm_(p.T, x)
        self.total[:, -1] += p.sum(0)


@dataclass
class Convolution:
    r"""Accumulates :math:`M_{c c' \delta} = \sum_{s,r} p_c(r)\, \tilde x_{c'}(r + \delta)`.

    It is the negative weight gradient of a virtual convolution of stride 1 with zero padding; the
    last input channel is constant 1.

    Attributes:
        kernel: Odd size of the kernel.
        total: ``[out, in + 1, kernel, …]``; None before the first batch.
    """

    kernel: int
    total: Tensor | None = field(default=None)

    def __call__(self, state: Tensor, adjoint: Tensor) -> None:
        """Add one batch: ``[N, in, space…]`` and ``[N, out, space…]``."""
        x = torch.cat([wide(state), wide(state).new_ones(len(state), 1, *state.shape[2:])], 1)
        p = wide(adjoint)
        spatial = x.ndim - 2
        if self.kernel == 1:
            found = torch.tensordot(p, x, [[0, *range(2, p.ndim)]] * 2)
            found = found.reshape(*found.shape, *[1] * spatial)
        else:
            size = (p.shape[1], x.shape[1], *[self.kernel] * spatial)
            found = WEIGHT_GRADIENTS[spatial](x, size, p, padding=self.kernel // 2)
        self.total = found if self.total is None else self.total + found


@dataclass
class Inner:
    r"""Accumulates :math:`\sum_s \langle p_s, x_s \rangle`: the derivative by a gate at 0."""

    total: Tensor | None = field(default=None)

    def __call__(self, state: Tensor, adjoint: Tensor) -> None:
        """Add one batch of states and adjoints of one shape."""
        found = (wide(state) * wide(adjoint)).sum()
        self.total = found if self.total is None else self.total + found


Statistic = Matrix | Convolution | Inner


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least: sums of half precision lose what matters."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
