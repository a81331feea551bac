r"""What a map on an edge brings, from two halves of the batches that are each other's test.

The best map :math:`A` of its rank by the quadratic model (`newton`) of all batches is what a layer
starts with. With :math:`A_1, A_2` those of the two halves, and their correlations :math:`M_1, M_2`,

.. math:: c = \tfrac12 (\langle A_1, M_2 \rangle + \langle A_2, M_1 \rangle)

is a slope that noise in the targets does not inflate: its mean is 0 where there is nothing but
noise. Covariances and curvature do not depend on what the targets happened to be, so that one
estimate of each serves both halves. The model says of A a curvature :math:`\kappa_0`, for which it
takes state and adjoint, and the positions of a sample, for independent: on images it can be a
hundred times too small. Along A alone it is measured again, on every fourth batch of each half and
on at least two of them: with the noise :math:`\tilde p` of `fisher`, and the sum
:math:`a = \sum_s \tilde p_s^T A \tilde g_s` over the positions of a sample, it is
:math:`\kappa = \sum a^2`. The value is

.. math:: \frac{c^2}{2 \kappa} \cdot \frac{\kappa_0}{c} = \frac c2\, \frac{\kappa_0}{\kappa},

the Newton decrement of the map that endless batches would give, whose curvature by the model is its
slope: twice the value is the slope at 0 along the start on the batches themselves. A, from few of
them, bends more: the best step along it brings :math:`c / \kappa_0` of the value. That product,
as a score, would rank places by how much noise each was fitted to. The standard error is that of c,
from the slopes along A in single batches; it leaves out what :math:`\kappa` is uncertain by.

The value is that of the linear map, so that candidates of one place compare whatever their
activation; units with a curve bring less than it predicts (0.5 to 0.93 of it where it was
measured). The units that a layer starts with, with their activation, give b for a:
:math:`\sum a b / \kappa` of c is left of the slope, the curvature is :math:`\sum b^2`, and the
length of the step is the one over the other.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topograph.errors import ShapeError
from topograph.sensitivity.batches import pairs
from topograph.sensitivity.newton import Crossed

PART = 4  # one of so many batches is enough for a curvature
FEWEST = 2  # batches of a half that it is heard in, if there are as many
Batches = Sequence[tuple[Any, Any]]


def halves(batches: Iterable[tuple[Any, Any]], scorer: str) -> tuple[Batches, Batches]:
    """Return the two halves of the batches.

    Raises:
        ShapeError: There are not two, or one is no pair.
    """
    found = list(pairs(batches))
    if len(found) < 2:
        raise ShapeError(
            f"{scorer} fits on each half of the batches and measures on the other; there are "
            f"{len(found)}: give at least 2"
        )
    middle = len(found) // 2
    return found[:middle], found[middle:]


def every_of(half: Batches) -> int:
    """Return one of how many batches of a half curvature is heard in."""
    return max(1, min(PART, len(half) // FEWEST))


def part_of(first: Batches, second: Batches) -> Batches:
    """Return the batches of both halves in which curvature is heard."""
    return [*first[:: every_of(first)], *second[:: every_of(second)]]


class Course:
    """Hears slope and curvature of the loss along a map, and along the units that it becomes.

    Attributes:
        total: Sums over batches of the slope, its square, and over samples of
            :math:`a^2, ab, b^2`.
    """

    def __init__(
        self,
        seen: Callable[[Tensor], Tensor],
        arrived: Callable[[Tensor], Tensor],
        answered: Callable[[Tensor], Tensor],
        like: Tensor,
    ) -> None:
        self._of_state, self._of_adjoint, self._answered = seen, arrived, answered
        self._seen: Tensor | None = None  # of the batch that is heard
        self.total: Tensor | None = torch.zeros(5).to(like)

    def listen(self, state: Tensor, adjoint: Tensor) -> None:
        """Hear a batch's states and adjoints."""
        self._seen = self._of_state(state)
        slope = (self._seen * self._of_adjoint(adjoint)).sum()
        self._add(0, slope, slope.square())

    def feel(self, _: Tensor, noise: Tensor) -> None:
        """Hear what the noise leaves at the place, once the loss's own adjoint has been heard."""
        assert self._seen is not None
        seen, arrived = self._seen, self._of_adjoint(noise)
        self._seen = None
        straight = (seen * arrived).flatten(1).sum(1)
        bent = (self._answered(seen) * arrived).flatten(1).sum(1)
        self._add(2, straight @ straight, straight @ bent, bent @ bent)

    def _add(self, first: int, *found: Tensor) -> None:
        assert self.total is not None  # it is there from the start
        self.total[first : first + len(found)] += torch.stack(found)


class Gain(NamedTuple):
    """What a map brings.

    Attributes:
        value: The Newton decrement, with the sign of the slope; at most the loss.
        length: The best step along the map's units, without its sign.
        error: Standard error of the value.
    """

    value: float
    length: float
    error: float | None


def gain(crossed: Crossed, course: Course, part: int, count: int, loss: float) -> Gain:
    """Return what a map brings.

    Args:
        crossed: The map.
        course: What was heard along it.
        part: In how many batches.
        count: From how many batches the map is.
        loss: Mean over those in which it was heard.
    """
    assert course.total is not None  # it is there from the start
    slope, square, straight, both, bent = (course.total / part).tolist()
    if not (straight > 0 and bent > 0):  # no curvature: no step
        return Gain(0.0, 0.0, 0.0)
    true = crossed.curvature / straight  # of the two curvatures
    spread = max(square - slope**2, 0.0) * part / (part - 1)
    length = abs(crossed.slope * both) / (straight * bent)
    return Gain(min(crossed.slope * true / 2, loss), length, true * math.sqrt(spread / count))
