"""What is kept of the states and adjoints of an edge: their correlation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

from topograph.sensitivity.products import Product

WEIGHT_GRADIENTS: dict[int, Callable[..., Tensor]] = {
    1: grad.conv1d_weight,
    2: grad.conv2d_weight,
    3: grad.conv3d_weight,
}

EPSILON = 1e-5  # of a LayerNorm
CACHED = 2**21  # bytes; a weight gradient is fastest in parts of this size


@dataclass
class Matrix:
    r"""Accumulates :math:`M = \sum_s p_s \tilde g(x_s)^T` with :math:`\tilde g = [g; 1]`.

    It is :math:`-\partial J / \partial A` of the virtual map :math:`x + A \tilde g(x)` at 0. While
    there are so few positions that they take less room than M, they are kept as they are.

    Attributes:
        norm: Whether :math:`g` is a LayerNorm without affine part instead of the identity.
        forgets: Whether more positions than that are forgotten instead of summed, all of them,
            because others tell M as well.
    """

    norm: bool
    forgets: bool = False
    _rows: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)
    _folded: Tensor | None = field(default=None, repr=False)
    _forgotten: bool = field(default=False, repr=False)

    def __call__(self, state: Tensor, adjoint: Tensor) -> None:
        """Add one batch: ``[..., in]`` and ``[..., out]``, all but the last axis are positions."""
        if self._forgotten:
            return
        x, p = rows_of(state), rows_of(adjoint)
        if self.norm:
            x = F.layer_norm(x, x.shape[-1:])
        self._rows.append((p, x))
        self._reduce()

    def make_room(self) -> None:
        """Keep no positions that another batch like the last would make too many."""
        if self._rows:
            self._reduce(more=len(self._rows[-1][0]))

    def product(self) -> Product | None:
        """Return M ``[out, in + 1]``, in units of loss; None before the first batch."""
        if self._folded is not None:
            self._fold()
            return Product((self._folded,))
        if not self._rows:
            return None
        p, x = (r[0] if len(r) == 1 else torch.cat(r) for r in zip(*self._rows, strict=True))
        return Product((p.T, x), ones=True)

    @property
    def total(self) -> Tensor | None:
        """M as one tensor, for sums over ranks; None before the first batch."""
        self._forget() if self.forgets else self._fold()
        return self._folded

    @total.setter
    def total(self, total: Tensor | None) -> None:
        self._folded = total
        self._rows.clear()

    def _reduce(self, more: int = 0) -> None:
        p, x = self._rows[-1]
        if 2 * (sum(len(rows) for rows, _ in self._rows) + more) > min(p.shape[1], x.shape[1]):
            self._forget() if self.forgets else self._fold()

    def _forget(self) -> None:
        self._rows.clear()
        self._forgotten = True

    def _fold(self) -> None:
        for p, x in self._rows:
            if self._folded is None:
                self._folded = x.new_zeros(p.shape[1], x.shape[1] + 1)
            self._folded[:, :-1].addmm_(p.T, x)
            self._folded[:, -1] += p.sum(0)
        self._rows.clear()


class Normed:
    r"""Accumulates what makes the M of :math:`y = \tilde W \tilde x` with :math:`g` a LayerNorm.

    With the weights :math:`C \tilde W` less their mean over outputs, :math:`g(y_s) = r_s\, C \tilde
    W \tilde x_s` for one number :math:`r_s` a position, so that :math:`M = (\sum_s p_s r_s
    \tilde x_s^T) (C \tilde W)^T` beside the constant column :math:`\sum_s p_s`: no wide
    :math:`y` meets a wide p.

    Attributes:
        weight: :math:`\tilde W`, ``[out, in + 1]``.
        beside: The node that makes y.
        total: The two sums, ``[out, in + 2]``; None before the first batch.
    """

    def __init__(self, weight: Tensor, node: str) -> None:
        self.weight = weight - weight.mean(0)
        self.beside = (node,)
        self.total: Tensor | None = None

    def __call__(self, state: Tensor, adjoint: Tensor, made: Tensor) -> None:
        """Add one batch of x, p and y: all but the last axis are positions."""
        x, p, y = rows_of(state), rows_of(adjoint), rows_of(made)
        r = torch.native_layer_norm(y, y.shape[1:], None, None, EPSILON)[2]
        if self.total is None:
            self.total = x.new_zeros(p.shape[1], x.shape[1] + 2)
        self.total[:, :-2].addmm_(p.T, x * r)
        self.total[:, -2:] += p.T @ torch.cat([r, torch.ones_like(r)], 1)

    def product(self, total: Tensor) -> Product:
        """Return M from a sum or mean of `total`."""
        inputs, outputs = self.weight.shape[1], self.weight.shape[0]
        lifted = total.new_zeros(inputs + 1, outputs + 1)
        lifted[:-1, :-1], lifted[-1, -1] = self.weight.T, 1
        return Product((total, lifted))


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
        x, p = wide(state), wide(adjoint)
        spatial, outputs = x.ndim - 2, p.shape[1]
        if self.kernel == 1:
            found = torch.bmm(p.flatten(2), x.flatten(2).mT).sum(0)
            constant = p.flatten(2).sum((0, 2))[:, None]
            found = torch.cat([found, constant], 1).reshape(outputs, -1, *[1] * spatial)
        else:
            weight, kernel = WEIGHT_GRADIENTS[spatial], [self.kernel] * spatial
            padding = self.kernel // 2
            size = (outputs, x.shape[1], *kernel)
            rows = max(1, CACHED // (x[0].numel() * x.element_size()))
            parts = zip(x.split(rows), p.split(rows), strict=True)
            found = torch.stack([weight(a, size, b, padding=padding) for a, b in parts]).sum(0)
            found = torch.cat([found, _of_ones(p.sum(0), self.kernel)[:, None]], 1)
        self.total = found if self.total is None else self.total + found


def _of_ones(adjoint: Tensor, kernel: int) -> Tensor:
    """Return ``[out, kernel, …]``, the sums over where a constant 1 is read at each offset."""
    offsets = kernel // 2 - torch.arange(kernel, device=adjoint.device)
    inside: dict[int, Tensor] = {}
    for size in reversed(adjoint.shape[1:]):
        if size not in inside:
            read = torch.arange(size, device=adjoint.device)[:, None] - offsets
            inside[size] = ((read >= 0) & (read < size)).to(adjoint)
        adjoint = (adjoint @ inside[size]).movedim(-1, 1)  # the axis before is then the last
    return adjoint


@dataclass
class Inner:
    r"""Accumulates :math:`\sum_s \langle p_s, x_s \rangle`: the derivative by a gate at 0."""

    total: Tensor | None = field(default=None)

    def __call__(self, state: Tensor, adjoint: Tensor) -> None:
        """Add one batch of states and adjoints of one shape."""
        found = (wide(state) * wide(adjoint)).sum()
        self.total = found if self.total is None else self.total + found


class Statistic(Protocol):
    """Whatever is kept of the states and adjoints of an edge."""

    total: Tensor | None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Add one batch: state, adjoint, and what else it listens to."""


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least: sums of half precision lose what matters."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def rows_of(value: Tensor) -> Tensor:
    """Return ``[..., channels]`` as rows, one for each position."""
    return wide(value).reshape(-1, value.shape[-1])
