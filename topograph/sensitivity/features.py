r"""Random features: what new units bring before they have learnt what to read.

Units of a block :math:`x + W_2\,\sigma(V \tilde g(x))` read with random rows V of finite size. The
loss then depends on :math:`W_2` to first order,

.. math:: -\langle W_2, N \rangle, \qquad N = \sum_s p_s \Phi_s^T, \quad
          \Phi_s = \sigma(V \tilde g_s),

and since :math:`\Phi` is not linear in the state, N does not vanish where a layer next to the edge
has a gradient of 0, as the correlation with the state itself does; nor needs :math:`\sigma` a slope
at 0. V is drawn in whitened coordinates: random directions times the symmetric inverse root of the
second moment of :math:`\tilde g` in the first batch (with the ridge of `natural`), scaled so that
what each unit reads has a root mean square of 0.7 there, or less for one that reads hardly more
than directions in which the states do not vary. It is one fixed draw.

The best :math:`W_2` by the quadratic model of `newton`, with the second moment of :math:`\Phi` in
the place of that of the states, is found for all batches and for each half of them; the score is
its Newton decrement, from the halves across and from the curvature along it (`crossed`), as that of
`natural` is, and never above the loss. A layer starts with V and with `step` times the best length
of :math:`W_2`: 0 keeps the function, 1 is the Newton step. Each rank gives its first batch and
draws the same V from the sum.

References:
    Zozoulenko, Cass, Gonon, Random Feature Representation Boosting, arXiv:2501.18283; Rahimi and
    Recht, Random Features for Large-Scale Kernel Machines, 2007; Martens, Grosse, arXiv:1503.05671.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from topograph.rewrite.blocks import ACTIVATIONS
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.closed_forms import statistic
from topograph.sensitivity.cost import cost_of
from topograph.sensitivity.crossed import Batches, Course, Gain, every_of, gain, halves, part_of
from topograph.sensitivity.factored import (
    TwoLayers,
    crossing,
    indecomposable,
    matrix_of,
    probe_of,
    reading,
    refusal_of,
    two_layers,
    writing,
)
from topograph.sensitivity.fisher import Covariance, noise_like
from topograph.sensitivity.newton import RIDGE, Crossed, Step
from topograph.sensitivity.over_ranks import add_up
from topograph.sensitivity.parabola import hear
from topograph.sensitivity.scored import Score
from topograph.sensitivity.statistics import Matrix, Statistic, wide
from topograph.sensitivity.tape import Noise
from topograph.sensitivity.virtual import CONVOLUTIONS, DEVIATION, arrived, read, seen, written
from topograph.spec import Bottleneck, ConvBottleneck, InsertLayer, Refusal


def refusal(mutation: AnyMutation) -> Refusal | None:
    """Return why a mutation adds no units; None if it does."""
    return refusal_of("features", mutation)


def measure(asked: Asked) -> list[Score]:
    """Return what a Newton step of every candidate's random units would bring.

    Raises:
        NonFiniteError: A loss, an adjoint or a covariance is not finite.
        ShapeError: There is one batch only, or the loss's curvature cannot be had.
    """
    first, second = halves(asked.batches, "features")
    noise, quiet = noise_like(torch.Generator().manual_seed(0)), asked._replace(done=lambda _: None)
    seen = [States(m) for m in asked.wanted if isinstance(m, InsertLayer)]
    hear(quiet, first[:1], [probe_of(s.mutation, s.listen) for s in seen], seen)
    part = part_of(first, second)
    fits = [Fit(_drawn(s), len(part)) for s in seen if s.total is not None]
    behind = asked._replace(first=len(first))
    counts = [
        _correlated(asked, fits, 0, first, noise),
        _correlated(behind, fits, 1, second, noise),
    ]
    if asked.reduce is not None:
        add_up([total for fit in fits for total in (fit.states, fit.noise)], asked.reduce)
    found = [fit.best(counts) for fit in fits]
    courses = [fit.course(best.step) for fit, best in zip(fits, found, strict=True)]
    heard_by = zip(fits, courses, strict=True)
    probes = [probe_of(fit.units.mutation, one.listen, one.feel) for fit, one in heard_by]
    heard_in, loss = hear(quiet, part, probes, courses, noise)
    return [
        _score(asked, fit.units, best.step, gain(best, one, heard_in, sum(counts), loss))
        for fit, best, one in zip(fits, found, courses, strict=True)
    ]


@dataclass(frozen=True)
class Units:
    """A candidate's units as they read.

    Attributes:
        mutation: The candidate.
        rows: V ``[units, read + 1]``.
        space: How many axes of its states are neither samples nor channels.
    """

    mutation: InsertLayer
    rows: Tensor
    space: int

    @property
    def block(self) -> TwoLayers:
        """The two layers."""
        return two_layers(self.mutation)

    @property
    def behind(self) -> InsertLayer:
        """The candidate's second layer alone, as a block that reads what the units give."""
        block = self.block
        if isinstance(block, ConvBottleneck):
            kernel = block.kernel if block.spatial == "out" else 1
            alone = block.model_copy(update={"spatial": "out", "kernel": kernel})
            return self.mutation.model_copy(update={"block": alone})
        return self.mutation.model_copy(update={"block": Bottleneck(units=block.units)})

    def of(self, state: Tensor) -> Tensor:
        """Return the features of a state, laid out as the state is."""
        block, x = self.block, wide(state)
        weight, bias = reading(block, self.rows, self.space).values()
        if isinstance(block, ConvBottleneck):
            seen = CONVOLUTIONS[self.space](x, weight, bias, padding=weight.shape[-1] // 2)
        else:
            seen = F.linear(F.layer_norm(x, x.shape[-1:]) if block.norm else x, weight, bias)
        return ACTIVATIONS[block.activation]()(seen)


@dataclass
class States:
    """Hears the states that a candidate's units will read.

    Attributes:
        mutation: The candidate.
        total: Second moment of what it reads, summed; None before the first batch.
        space: How many axes of the states are neither samples nor channels.
    """

    mutation: InsertLayer
    total: Tensor | None = None
    space: int = 0

    def listen(self, state: Tensor, _: Tensor) -> None:
        """Hear the states of the one batch."""
        self.space = state.ndim - 2
        moment = Covariance()
        moment.add(read(self.mutation, state))
        self.total = moment.total


def _drawn(seen: States) -> Units:
    """Return units that read in random directions, each with the same root mean square."""
    assert seen.total is not None  # it has heard a batch
    moment = seen.total / seen.total[-1, -1]  # the ones have counted the rows
    try:  # of many that are almost 0 float32 does not converge
        found = torch.linalg.eigh(moment.double())
    except torch.linalg.LinAlgError as error:
        raise indecomposable(seen.mutation, error) from None
    sizes, axes = (part.to(moment) for part in found)
    ridge = RIDGE * sizes.mean() + torch.finfo(sizes.dtype).tiny ** 0.5
    count, generator = two_layers(seen.mutation).units, torch.Generator().manual_seed(0)
    drawn = torch.randn(count, len(sizes), generator=generator, dtype=torch.float64).to(sizes)
    rows = drawn @ axes / (sizes.clamp_min(0) + ridge).sqrt() @ axes.T  # the symmetric root
    spread = ((rows @ moment) * rows).sum(1, keepdim=True).clamp_min(RIDGE).sqrt()
    return Units(seen.mutation, DEVIATION * rows / spread, seen.space)


class Fit:
    """Hears how the loss depends on what units write.

    Attributes:
        units: The units.
        correlations: N of each half.
        states: Second moment of the features, summed over positions.
        noise: G, summed over batches.
    """

    def __init__(self, units: Units, batches: int) -> None:
        self.units = units
        self.correlations = statistic(units.behind), statistic(units.behind)
        self.states, self.noise = Covariance(batches), Covariance(batches)

    def correlate(self, half: int, state: Tensor, adjoint: Tensor) -> None:
        """Hear states and adjoints of a batch of a half."""
        self.correlations[half](self.units.of(state), adjoint)

    def feel(self, state: Tensor, noise: Tensor) -> None:
        """Hear the states, and what the noise leaves at the place."""
        self.states.add(read(self.units.behind, self.units.of(state)))
        self.noise.add(written(self.units.behind, state, noise))

    def best(self, counts: Sequence[int]) -> Crossed:
        """Return the best map of the features for what was heard in so many batches of each."""
        behind, states, noise = self.units.behind, self.states.total, self.noise.total
        assert states is not None  # the place has adjoints
        assert noise is not None
        first, second = (
            self._matrix(half) / count
            for half, count in zip(self.correlations, counts, strict=True)
        )
        moment = states[:-1, :-1] / states[-1, -1]  # the ones have counted the rows
        found = crossing(behind, (first, second), moment, noise / sum(counts), len(moment))
        step = found.step
        return found._replace(step=step._replace(right=F.pad(step.right, (0, 1))))  # no constant

    def _matrix(self, half: Statistic) -> Tensor:
        total = half.product() if isinstance(half, Matrix) else half.total
        assert total is not None  # the place has adjoints
        return matrix_of(two_layers(self.units.behind), total)[:, :-1]

    def course(self, step: Step) -> Course:
        """Return what hears the loss along a map of the features."""
        units, behind = self.units, partial(arrived, self.units.behind, step)

        def ahead(state: Tensor) -> Tensor:
            return seen(units.behind, step, units.of(state))

        return Course(ahead, behind, lambda found: found, step.left)


def _correlated(asked: Asked, fits: Sequence[Fit], index: int, half: Batches, noise: Noise) -> int:
    """Hear N in a half of the batches, the rest in some; return how many all ranks have."""
    probes = [probe_of(fit.units.mutation, partial(fit.correlate, index), fit.feel) for fit in fits]
    sums = [fit.correlations[index] for fit in fits]
    return hear(asked, half, probes, sums, noise, every_of(half))[0]


def _score(asked: Asked, units: Units, step: Step, found: Gain) -> Score:
    start = reading(units.block, units.rows, units.space)
    columns = step.left @ step.right[:, :-1] * found.length
    direction = writing(units.block, columns, units.space)
    cost = cost_of(asked.traced, units.mutation)
    return Score(units.mutation, found.value, 0, direction, cost, error=found.error, start=start)
