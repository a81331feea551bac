r"""Whether the topology of the maps has stopped simplifying at a place.

With :math:`\ell(n)` the total persistence of pieces and holes in the maps of node n (their Betti
numbers summed over all levels; mean over channels, sum over images) and :math:`\ell_0(n)` that of
the same maps with permuted pixels, the value is

.. math:: v(n) = \log \frac{\ell(n)}{\ell_0(n)} - \log \frac{\ell(m)}{\ell_0(m)},

where m is the nearest earlier node with n's operation, so that a ReLU is compared with a ReLU; of
several as near, the last. Below 0, n's maps are simpler than m's: what lies between simplifies.
From 0 on it does not: 0 is the value of layers that leave the maps as they are, and above it they
become less simple. A selection takes what is above its minimum, so that 0 grows only where the
topology has stopped simplifying. Where the sizes of the maps differ, the larger ones are averaged
down first. No loss and no gradient is needed. Where it was measured, growth did not help more
there: ``benchmarks/results/betti_stall.md``.

The standard error is that of a function of means over images. Each rank takes its first images
and standardises their channels on its own; the sums are those of all ranks.

References:
    Suresh, Das, Abrol, Dutta Roy, https://arxiv.org/abs/2311.04592.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topograph.errors import RefusedError, ShapeError, SpecError
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.batches import arguments, pairs
from topograph.sensitivity.cost import cost_of, place_node
from topograph.sensitivity.over_ranks import batch_count
from topograph.sensitivity.scored import Score, node_of
from topograph.spec import Bottleneck, ConvBottleneck, InsertLayer, Linear, Refusal
from topograph.topology import Node, Topology
from topograph.tracing import TracedModel

MOST = 50  # images of a rank; their persistence takes far longer than running them
MAPS = ("batch", "channel", "space", "space")
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)  # of the logarithms in v


class Sums(NamedTuple):
    """Sums over images: of 1, of their totals ``[4]``, and of the products of these ``[4, 4]``.

    The totals are those of the place, of its null, of the earlier node, and of its null.
    """

    images: Tensor
    totals: Tensor
    products: Tensor


def refusal(mutation: AnyMutation) -> Refusal | None:
    """Return why a mutation cannot be compared; None if it can."""
    match mutation:
        case InsertLayer(block=Bottleneck() | ConvBottleneck() | Linear()):
            return None
    return Refusal(
        node=node_of(mutation),
        reason="betti_stall knows no such block",
        fix="score a bottleneck, conv_bottleneck or linear",
    )


def measure(asked: Asked) -> list[Score]:
    """Return how far each place is from simplifying; one whose maps are constant is left out.

    Raises:
        NonFiniteError: A value is infinite or not a number; names the node.
        RefusedError: No place has maps and an earlier node to compare them with.
        ShapeError: There are no batches, or other than images of one size for one input.
        SpecError: GUDHI is not installed.
    """
    try:
        stall = import_module("topograph.embedding.stall")  # needs GUDHI
    except ModuleNotFoundError as error:
        raise SpecError(str(error)) from None
    compared = {mutation: _compared(asked.traced, mutation) for mutation in asked.wanted}
    pairs = {m: stall.Pair(*names) for m, names in compared.items() if isinstance(names, tuple)}
    if not pairs:
        raise RefusedError("betti_stall can compare no place:", tuple(compared.values()))
    distinct = list(dict.fromkeys(pairs.values()))
    found = stall.totals(asked.traced, _images(asked), distinct)
    sums = dict(zip(distinct, _sums([found.get(pair) for pair in distinct], asked), strict=True))
    return [
        _score(asked.traced, mutation, sums[pair])
        for mutation, pair in pairs.items()
        if min(sums[pair].totals) > 0
    ]


def _logarithm(sums: Sums) -> tuple[float, float | None]:
    r"""Return the value and its standard error; None for one image.

    With :math:`n` images, their totals :math:`t_{ik}`, the means :math:`\bar t_k` and the signs
    :math:`s = (1, -1, -1, 1)`, the value is :math:`\sum_k s_k \log \bar t_k`. To first order an
    image adds :math:`g_i = \sum_k s_k t_{ik} / \bar t_k` to n times the value, with mean 0, so
    that the squared error is :math:`\sum_i g_i^2 / (n (n - 1))`.
    """
    here, null, earlier, earlier_null = sums.totals.tolist()
    value = math.log(here / null) - math.log(earlier / earlier_null)
    images = int(sums.images)
    if images < 2:
        return value, None
    slope = images * SIGNS / sums.totals
    variance = (slope @ sums.products @ slope).item() / (images * (images - 1))
    return value, math.sqrt(max(variance, 0.0))


def _score(traced: TracedModel, mutation: AnyMutation, sums: Sums) -> Score:
    value, error = _logarithm(sums)
    cost = cost_of(traced, mutation)
    return Score(mutation, value, 0, {}, cost, unit="log ratio", error=error)


def _compared(traced: TracedModel, mutation: AnyMutation) -> tuple[str, str] | Refusal:
    """Return the earlier node that a place is compared with, and the node it is at."""
    assert isinstance(mutation, InsertLayer)  # `refusal` has seen to it
    here = place_node(mutation, traced.topology)
    if here.axes != MAPS:
        axes = ", ".join(here.axes) or "not known"
        return Refusal(
            node=here.name,
            reason=f"its axes are {axes}, not those of maps",
            fix="choose places whose values are images [N, C, H, W]",
        )
    earlier = _earlier(traced.topology, here)
    if earlier is None:
        return Refusal(
            node=here.name,
            reason=f"no earlier node with maps is a {here.op}",
            fix="choose a later place: betti_stall compares nodes of one operation",
        )
    return earlier.name, here.name


def _earlier(topology: Topology, here: Node) -> Node | None:
    """Return the nearest node of the same operation that a node is computed from."""
    known = topology.by_name
    order = {name: place for place, name in enumerate(known)}
    front, seen = {here.name}, {here.name}
    while front := {source for name in front for source in known[name].inputs} - seen:
        alike = [n for n in front if (known[n].op, known[n].axes) == (here.op, MAPS)]
        if alike:
            return known[max(alike, key=order.__getitem__)]
        seen |= front
    return None


def _images(asked: Asked) -> Tensor:
    """Return the first images of this rank; no more batches are read than they take."""
    inputs = [n for n in asked.traced.module.graph.find_nodes(op="placeholder") if not n.args]
    if len(inputs) != 1:
        names = ", ".join(str(node.target) for node in inputs) or "none"
        raise ShapeError(
            f"betti_stall looks at models of one input of images; this one has {names}"
        )
    kept: list[Tensor] = []
    count = 0
    for batch, _ in pairs(asked.batches):
        kept.append(_checked(asked.traced, batch, kept)[: MOST - count])
        count += len(kept[-1])
        asked.done(0.0)
        if count == MOST:
            break
    batch_count(count, asked.reduce, _like(asked.traced))
    return torch.cat(kept)


def _checked(traced: TracedModel, batch: Any, before: Sequence[Tensor]) -> Tensor:
    """Return the images of a batch."""
    images = arguments(traced, batch)[0] if isinstance(batch, Tensor) or len(batch) == 1 else None
    if not isinstance(images, Tensor) or images.ndim < 2:
        kind = f"shape {list(images.shape)}" if isinstance(images, Tensor) else type(batch).__name__
        raise ShapeError(
            f"the inputs of probe batch {len(before)} are {kind}; betti_stall expects one tensor "
            "of images [N, C, H, W]"
        )
    if before and images.shape[1:] != before[0].shape[1:]:
        sizes = [list(some.shape[1:]) for some in (images, before[0])]
        raise ShapeError(
            f"the images of probe batch {len(before)} are {sizes[0]}, those before {sizes[1]}; "
            "betti_stall compares images of one size"
        )
    return images


def _sums(totals: Sequence[NDArray[np.float64] | None], asked: Asked) -> list[Sums]:
    """Return the sums over the images of all ranks; 0 where there are none."""
    none = np.zeros((0, len(SIGNS)))
    like = _like(asked.traced)
    each = [torch.from_numpy(none if found is None else found) for found in totals]
    rows = [torch.cat([x.new_tensor([len(x)]), x.sum(0), (x.T @ x).flatten()]) for x in each]
    packed = torch.stack(rows).to(None if like is None else like.device)
    packed = packed if asked.reduce is None else asked.reduce(packed)
    sizes = [1, len(SIGNS), len(SIGNS) ** 2]
    return [
        Sums(count, found, products.view(len(SIGNS), len(SIGNS)))
        for count, found, products in (row.cpu().split(sizes) for row in packed)
    ]


def _like(traced: TracedModel) -> Tensor | None:
    return next(traced.module.parameters(), None)
