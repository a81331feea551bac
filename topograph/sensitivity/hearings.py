"""Where each candidate's statistic is taken; candidates of one place and kind share it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from topograph.errors import NonFiniteError
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.batches import pairs
from topograph.sensitivity.contexts import Context
from topograph.sensitivity.curved import Squares
from topograph.sensitivity.over_ranks import add_up
from topograph.sensitivity.products import Product, summed
from topograph.sensitivity.shortcuts import Hearing, Value, hearing, of_linear, of_readers
from topograph.sensitivity.statistics import Matrix, Normed, Statistic
from topograph.sensitivity.tape import Noise, Probe, sweep
from topograph.sensitivity.taps import Taps
from topograph.spec import AddBranch, At, Between, InsertLayer, Place
from topograph.tracing import TracedModel

# What tells statistics of one type apart.
WAYS = ("norm", "kernel", "inner", "outer", "causal", "heads", "units", "beside")
T = TypeVar("T")
Edge = Statistic | Context  # of an edge's own state and adjoint
Accumulator = Edge | Normed | Taps


class Source(NamedTuple):
    """Where a statistic is taken and of what kind it is."""

    place: Place
    state: str
    kind: tuple[object, ...]


Part = tuple[Source, Callable[[Any], Any]]  # and what makes a part of the wanted one of it


class Beside(NamedTuple):
    """Who else listens in the same pass, and feels noise in some of its batches.

    Attributes:
        probes: Who.
        noise: What goes backward a second time.
        every: In one of so many batches, from the first.
    """

    probes: Sequence[Probe] = ()
    noise: Noise | None = None
    every: int = 1


ALONE = Beside()


class Heard(NamedTuple):
    """Where a candidate listens, with what, and how that becomes its own.

    Attributes:
        source: Where.
        statistic: With what.
        lift: How.
        name: What tells lifts of one source apart.
    """

    source: Source
    statistic: Accumulator
    lift: Callable[[Any], Value]
    name: tuple[object, ...] = ()


def means(
    asked: Asked, fresh: Callable[[InsertLayer | AddBranch], Edge], beside: Beside = ALONE
) -> Iterable[tuple[InsertLayer | AddBranch, Value]]:
    """Yield each candidate with the mean over all batches of its statistic.

    All batches are read in one pass forward and backward each. A candidate on an edge that the
    loss does not depend on has no adjoint and is left out.

    Args:
        asked: The candidates, each an `InsertLayer` or an `AddBranch`.
        fresh: Makes a candidate's accumulator.
        beside: Who else listens.
    """
    nodes = {node.name: node for node in asked.traced.module.graph.nodes}
    heard = [_heard(asked.traced, nodes, m, fresh) for m in asked.wanted]
    return averages(asked, heard, beside)


def averages(
    asked: Asked, heard: Sequence[tuple[T, Heard]], beside: Beside = ALONE
) -> Iterable[tuple[T, Value]]:
    """Yield each thing with the mean over all batches of what is heard for it.

    All batches are read in one pass forward and backward each; what the loss does not depend on
    is left out.

    Args:
        asked: The batches.
        heard: Each thing with where it listens.
        beside: Who else listens.
    """
    statistics = {found.source: found.statistic for _, found in heard}
    parts = _told(asked.traced, statistics)
    probes = [
        Probe(source.place, source.state, s, beside=getattr(s, "beside", ()))
        for source, s in statistics.items()
    ]
    batches = _with_room(pairs(asked.batches, asked.first), statistics.values())
    probes += beside.probes
    run = asked.loss, probes, asked.done, asked.reduce, beside.noise, beside.every, asked.first
    count = sweep(asked.traced, batches, *run)
    if asked.reduce is not None:
        add_up(list(statistics.values()), asked.reduce)
    means: dict[object, Value | None] = {}
    for thing, found in heard:
        key = found.source, found.name
        if key not in means:
            means[key] = _lifted(found, statistics, parts.get(found.source, []), count)
            _check(means[key], found.source.state)
        if (mean := means[key]) is not None:
            yield thing, mean


def _check(mean: Value | None, state: str) -> None:
    """Raise an error if the values of a node have made what was heard infinite."""
    parts = mean.factors if isinstance(mean, Product) else pytree.tree_leaves(mean)
    sums = [part.sum() for part in parts if isinstance(part, Tensor)]  # read once: no masks
    if not all(torch.isfinite(total) for total in sums):
        raise NonFiniteError(
            f"the values of {state} are not finite in the probe batches, or too large to be "
            "multiplied; nothing was changed"
        )


def _with_room(
    batches: Iterable[tuple[Any, Any]], statistics: Iterable[Accumulator]
) -> Iterable[tuple[Any, Any]]:
    """Yield batches, each after what is kept of those before has been made small."""
    for batch in batches:
        for found in statistics:
            if isinstance(found, Matrix):
                found.make_room()
        yield batch


def _lifted(
    heard: Heard, statistics: Mapping[Source, Accumulator], parts: Sequence[Part], count: int
) -> Value | None:
    """Return the mean of what was heard, by way of its parts where it was forgotten itself."""
    mean = _mean(statistics[heard.source], count)
    if mean is None:
        found = [(lift, _mean(statistics[source], count)) for source, lift in parts]
        told = [lift(value) for lift, value in found if value is not None]
        mean = summed(told) if told else None
    return None if mean is None else heard.lift(mean)


def _told(
    traced: TracedModel, statistics: dict[Source, Accumulator]
) -> dict[Source, Sequence[Part]]:
    """Return the plain correlations that those beside Linear layers tell, and their parts.

    What a Linear makes is told by a correlation of what it reads with what arrives behind it, which
    is added; what Linear layers alone read by those of all of them.
    """
    found: dict[Source, Sequence[Part]] = {}
    plain, channels = _kind(Matrix(norm=False)), traced.topology.by_name
    nodes = {node.name: node for node in traced.module.graph.nodes}
    alone = [s for s in statistics if s.kind == plain and s.place == At(node=s.state)]
    behind = {s: of_linear(traced, nodes[s.state]) for s in alone}
    for source, way in behind.items():
        if way and channels[way.state].channels == channels[source.state].channels:
            statistics.setdefault(_plain(way), Matrix(norm=False))
    for source in alone:
        for ways in ([behind[source]], of_readers(traced, nodes[source.state])):
            parts = [(_plain(way), way.lift) for way in ways if way is not None]
            if parts and all(part in statistics for part, _ in parts):
                statistics[source].forgets = True  # type: ignore[union-attr]
                found[source] = parts
    return found


def _plain(way: Hearing) -> Source:
    return Source(At(node=way.adjoint), way.state, _kind(Matrix(norm=False)))


def on_edge(traced: TracedModel, nodes: Mapping[str, fx.Node], place: Place, found: Edge) -> Heard:
    """Return how a statistic of an edge's own state and adjoint is taken."""
    if isinstance(place, At) and isinstance(found, Context):
        return between(place.node, place.node, found)
    if isinstance(place, At):
        way = hearing(traced, nodes[place.node], found)
        taken: Accumulator = way.statistic or found
        source = Source(At(node=way.adjoint), way.state, _kind(taken))
        return Heard(source, taken, way.lift, (place.node,))
    assert isinstance(place, Between)
    return Heard(Source(place, place.source, _kind(found)), found, _as_it_is)


def between(state: str, adjoint: str, found: Accumulator) -> Heard:
    """Return how a statistic of one node's state and another's adjoint is taken."""
    return Heard(Source(At(node=adjoint), state, _kind(found)), found, _as_it_is)


def _heard(
    traced: TracedModel,
    nodes: Mapping[str, fx.Node],
    mutation: AnyMutation,
    fresh: Callable[[InsertLayer | AddBranch], Edge],
) -> tuple[InsertLayer | AddBranch, Heard]:
    assert isinstance(mutation, InsertLayer | AddBranch)  # the scorer's refusal has seen to it
    if isinstance(mutation, AddBranch):
        return mutation, between(*mutation.pair, fresh(mutation))
    assert isinstance(mutation.where, At | Between)  # candidates are at single places
    return mutation, on_edge(traced, nodes, mutation.where, fresh(mutation))


def _kind(found: Accumulator) -> tuple[object, ...]:
    return type(found), *(getattr(found, way, None) for way in WAYS)


def _as_it_is(value: Value) -> Value:
    return value


def _mean(found: Accumulator, count: int) -> Value | None:
    if isinstance(found, Matrix):
        product = found.product()
        return None if product is None else product.scaled(1 / count)
    if isinstance(found, Squares):
        return found.mean(count)
    return None if found.total is None else found.total / count
