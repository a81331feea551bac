r"""The natural gradient of a new layer: how far one Newton step of it would lower the loss.

A virtual map :math:`x + A \tilde g(x)` on an edge changes the loss, to second order, by

.. math:: -\langle A, M \rangle + \tfrac12 \operatorname{tr}(A\, C A^T G),

with the correlation :math:`M = \sum_s p_s \tilde g_s^T`, the mean :math:`C` of
:math:`\tilde g \tilde g^T`, and the sum :math:`G` over positions of :math:`\tilde p \tilde p^T`
from sampled targets (Kronecker factors). The best A of the block's rank by this model (`newton`)
is found for all batches and for each half of them; what it is worth is told by the halves across,
and by the curvature that is measured along it (`crossed`). The score is this Newton decrement:
negative where nothing reliable is to be gained, and never above the loss itself.
A layer starts with :math:`W_1`, the rows of A scaled so that what a unit reads has a root mean
square of 0.7, and with `step` times the best length of the :math:`W_2` that makes A of them at the
activation's slope: 0 keeps the function, 1 is the Newton step.

M is of every position of every batch. C and G are of 2,048 positions, or of four times as many as
they have columns if these are more, drawn at random from every fourth batch of each half (from two
at least), in the pass that hears M. These batches alone are read once more, for the curvature.

References:
    Martens, Grosse, arXiv:1503.05671 (Kronecker factors); Verbockhaven et al., arXiv:2405.19816
    (whitened new units); Mitchell et al., arXiv:2307.04526 (natural gradient of new units).
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.closed_forms import signs_of, statistic
from topograph.sensitivity.cost import cost_of
from topograph.sensitivity.crossed import Batches, Course, Gain, every_of, gain, halves, part_of
from topograph.sensitivity.factored import TwoLayers, crossing, ends_of, matrix_of, probe_of
from topograph.sensitivity.fisher import Covariance, noise_like
from topograph.sensitivity.hearings import Beside, means
from topograph.sensitivity.newton import Crossed, Step
from topograph.sensitivity.over_ranks import add_up, batch_count
from topograph.sensitivity.parabola import hear
from topograph.sensitivity.products import Product
from topograph.sensitivity.scored import Score, node_of
from topograph.sensitivity.shortcuts import Value
from topograph.sensitivity.tape import Noise, Probe
from topograph.sensitivity.virtual import Edge, answered, arrived, layers, read, seen, written
from topograph.spec import (
    AddBranch,
    Bottleneck,
    ConvBottleneck,
    Linear,
    Place,
    Refusal,
)

Key = tuple[Place, str, str]


def refusal(mutation: AnyMutation) -> Refusal | None:
    """Return why a mutation is no map on an edge; None if it is."""
    match mutation:
        case AddBranch(projection="none", gate=0.0, path=None):
            return None
        case AddBranch():
            what = "add_branch of this form"
        case _:
            block = getattr(mutation, "block", None)
            if isinstance(block, Bottleneck | ConvBottleneck | Linear):
                return None
            what = mutation.kind if block is None else f"block {block.kind}"
    return Refusal(
        node=node_of(mutation),
        reason=f"natural knows no {what}",
        fix="score insert_layer with a bottleneck, conv_bottleneck or linear, or add_branch "
        "without projection and path, with gate 0",
    )


def measure(asked: Asked) -> list[Score]:
    """Return what a Newton step of every candidate would bring.

    Args:
        asked: The candidates; some of the batches are read twice.

    Raises:
        NonFiniteError: A loss, an adjoint or what is made of them is not finite.
        ShapeError: There is one batch only, or the loss's curvature cannot be had.
    """
    first, second = halves(asked.batches, "natural")
    noise = noise_like(torch.Generator().manual_seed(0))
    part, quiet = part_of(first, second), asked._replace(done=lambda _: None)
    moments = {_key(m): Moments(m, len(part)) for m in asked.wanted if isinstance(m, Edge)}
    one = _means(asked, first, moments, noise)
    other = _means(asked._replace(first=len(first)), second, moments, noise)
    if asked.reduce is not None:
        add_up([total for m in moments.values() for total in (m.states, m.noise)], asked.reduce)
    found = {m: _best(m, (one[m], other[m]), moments[_key(m)]) for m in one}
    courses = {m: _course(m, best.step) for m, best in found.items()}
    probes = [probe_of(m, course.listen, course.feel) for m, course in courses.items()]
    heard_in, loss = hear(quiet, part, probes, list(courses.values()), noise)
    like = next(asked.traced.module.parameters(), None)
    count = batch_count(len(first) + len(second), asked.reduce, like)
    return [
        _score(asked, m, best.step, moments[_key(m)], gain(best, courses[m], heard_in, count, loss))
        for m, best in found.items()
    ]


class Moments:
    """Hears the second moments of what candidates of one place and form read and write.

    Attributes:
        states: C, summed over positions.
        noise: G, summed over batches.
        space: How many axes of the states are neither samples nor channels.
    """

    def __init__(self, mutation: Edge, batches: int) -> None:
        self._mutation, self.space = mutation, 0
        self.states, self.noise = Covariance(batches), Covariance(batches)

    def feel(self, state: Tensor, noise: Tensor) -> None:
        """Hear a batch's states, and what the noise leaves at the place."""
        self.space = state.ndim - 2
        self.states.add(read(self._mutation, state))
        self.noise.add(written(self._mutation, state, noise))


def _key(mutation: Edge) -> Key:
    """Return place, state and form of what a candidate reads; equal keys read the same."""
    place, state = ends_of(mutation)
    block = getattr(mutation, "block", None)
    form = "" if block is None else block.model_dump_json(exclude={"units", "activation", "bias"})
    return place, state, form


def _means(
    asked: Asked, half: Batches, moments: Mapping[Key, Moments], noise: Noise
) -> dict[Edge, Value]:
    """Return M of every candidate in a half of the batches; hear C and G in some of them."""
    probes = [Probe(*key[:2], None, moment.feel) for key, moment in moments.items()]
    beside = Beside(probes, noise, every_of(half))
    return dict(means(asked._replace(batches=half), statistic, beside))


def _best(mutation: Edge, halves: tuple[Value, Value], moments: Moments) -> Crossed:
    """Return the best map for the means of M over both halves."""
    states, noise = moments.states.total, moments.noise.total
    assert states is not None  # the loss depends on the place
    assert noise is not None
    states = states / states[-1, -1]  # the ones have counted the rows
    block = getattr(mutation, "block", None)
    first, second = (_matrix(block, half) for half in halves)
    if not getattr(block, "bias", True):
        first, second, states = first[:, :-1], second[:, :-1], states[:-1, :-1]
    rank = len(first)
    if isinstance(block, TwoLayers):
        rank = block.units // len(signs_of(block))
    return crossing(mutation, (first, second), states, noise, rank)


def _matrix(block: object, mean: Value) -> Tensor:
    if isinstance(block, TwoLayers):
        return matrix_of(block, mean)
    return mean.dense() if isinstance(mean, Product) else mean.reshape(1, 1)


def _course(mutation: Edge, step: Step) -> Course:
    along = partial(seen, mutation, step), partial(arrived, mutation, step)
    return Course(*along, answered(mutation), step.left)


def _score(asked: Asked, mutation: Edge, step: Step, moments: Moments, found: Gain) -> Score:
    whole = step._replace(left=step.left * found.length)
    start, direction = layers(mutation, whole, moments.space)
    cost = cost_of(asked.traced, mutation)
    return Score(mutation, found.value, 0, direction, cost, error=found.error, start=start)
