"""Which candidates are chosen, within which budget, and how large their start is."""

from itertools import permutations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, places_of
from topograph.growth.select import affordable, choose, rank, start
from topograph.sensitivity import mean_loss
from topograph.sensitivity.cost import Cost
from topograph.topology import Parameter, Topology

EMPTY = Topology(name="Net")
NO_LIMIT = tg.Budget()


def scored(name, value, order=2, parameters=1, flops=1):
    where = tg.named(name)
    change = tg.InsertLayer(where=where, block=tg.Linear())
    return tg.Score(change, value, order, {}, Cost(parameters, flops))


def names(scores):
    return [score.mutation.where.pattern for score in scores]


def chosen_of(scores, topology, selection, budget=NO_LIMIT):
    ranked = rank(affordable(scores, topology, budget), selection, measured=True)
    return choose(ranked, topology, selection, budget)


def test_the_best_k_above_the_minimum():
    scores = [scored("a", 3.0), scored("b", 1.0), scored("c", 2.0), scored("d", 0.0)]
    assert names(chosen_of(scores, EMPTY, tg.Selection())) == ["a"]
    assert names(chosen_of(scores, EMPTY, tg.Selection(k=9))) == ["a", "c", "b"]
    assert names(chosen_of(scores, EMPTY, tg.Selection(k=9, minimum=1.0))) == ["a", "c"]
    assert chosen_of(scores, EMPTY, tg.Selection(k=9, minimum=3.0)) == []
    assert chosen_of([], EMPTY, tg.Selection()) == []


def test_what_was_not_scored_keeps_its_order():
    scores = [scored("a", 0.0), scored("b", 0.0), scored("c", 0.0)]
    for selection in (tg.Selection(k=2), tg.Selection(k=2, minimum=1.0, per="flop")):
        ranked = rank(scores, selection, measured=False)
        assert names(choose(ranked, EMPTY, selection, NO_LIMIT)) == ["a", "b"]


def test_scores_of_both_orders_are_compared_at_one_step():
    """At a step of 0.1 a first-order score of 1 promises 0.1, a second-order one of 5 half that."""
    scores = [scored("second", 5.0), scored("first", 1.0, order=1), scored("large", 20.0)]
    assert [-s.predicted(0.1) for s in scores] == pytest.approx([0.05, 0.1, 0.2])
    chosen = chosen_of(scores, EMPTY, tg.Selection(k=3))
    assert names(chosen) == ["large", "first", "second"]


def test_choosing_for_nothing_keeps_the_order_of_score():
    traced, batches = make("vit"), data("vit", 2)
    wanted = [c for b in (tg.Linear(), tg.Bottleneck(units=2)) for c in places_of(traced, b)]
    scores = tg.score(traced, batches, F.cross_entropy, wanted)
    assert {score.order for score in scores} == {1, 2}
    chosen = chosen_of(scores, traced.topology, tg.Selection(k=len(scores)))
    assert chosen == [score for score in scores if score.value > 0]


def test_per_parameter_and_per_flop():
    scores = [
        scored("wide", 4.0, parameters=100, flops=10),
        scored("thin", 3.0, parameters=10, flops=100),
        scored("free", 1.0, parameters=0, flops=0),
    ]
    for per, expected in (
        ("nothing", ["wide", "thin", "free"]),
        ("parameter", ["free", "thin", "wide"]),
        ("flop", ["free", "wide", "thin"]),
    ):
        chosen = chosen_of(scores, EMPTY, tg.Selection(k=3, per=per))
        assert names(chosen) == expected, per


costs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), max_size=6)


@given(costs, st.integers(0, 25) | st.none(), st.integers(0, 25) | st.none(), st.integers(1, 6))
def test_the_budget_holds_for_all_together(items, parameters, flops, k):
    scores = [scored(f"n{i}", v, parameters=p, flops=f) for i, (v, p, f) in enumerate(items)]
    budget = tg.Budget(parameters=parameters, flops=flops)
    chosen = chosen_of(scores, EMPTY, tg.Selection(k=k), budget)
    spent = [sum(score.cost[i] for score in chosen) for i in (0, 1)]
    limits = [10**9 if limit is None else limit for limit in (parameters, flops)]
    assert len(chosen) <= k
    assert all(a <= b for a, b in zip(spent, limits, strict=True))
    left_out = [score for score in scores if score not in chosen]
    if len(chosen) < k:  # greedy: nothing that was left out would still fit
        for score in left_out:
            assert any(a + b > c for a, b, c in zip(spent, score.cost, limits, strict=True))
    fits = [s for s in scores if all(a <= b for a, b in zip(s.cost, limits, strict=True))]
    assert affordable(scores, EMPTY, budget) == fits
    if fits:
        assert chosen[0].value == max(score.value for score in fits)


def test_the_order_of_equal_scores_is_that_of_the_candidates():
    scores = [scored(name, 1.0) for name in "abc"]
    for order in permutations(scores):
        chosen = chosen_of(order, EMPTY, tg.Selection(k=2))
        assert chosen == list(order[:2])


def deep(depth):
    """A chain of relus: node ``relu_n`` is at depth n."""
    model = nn.Sequential(*(nn.ReLU() for _ in range(depth)))
    return tg.trace(model, (torch.zeros(2, 4),)).topology


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 9)), max_size=12, unique_by=lambda x: x),
    st.integers(1, 6),
)
def test_spread_takes_the_best_of_each_part_of_the_depth(items, k):
    chain = deep(12)
    nodes = [node.name for node in chain.nodes]
    scores = []
    for at, value in items:
        change = tg.InsertLayer(where=tg.at(nodes[at]), block=tg.Bottleneck(units=value))
        scores.append(tg.Score(change, float(value), 2, {}, Cost(1, 1)))
    found = chosen_of(scores, chain, tg.Selection(k=k, spread=True))
    parts = {}
    for (at, value), score in zip(items, scores, strict=True):
        part = int(at / len(nodes) * k)
        if part not in parts or value > parts[part].value:
            parts[part] = score
    assert {id(s) for s in found} == {id(s) for s in parts.values()}
    assert [s.value for s in found] == sorted((s.value for s in found), reverse=True)


def test_a_limit_that_is_passed_already_stops_only_what_takes_more():
    scores = [scored("free", 1.0, parameters=0, flops=0), scored("one", 2.0)]
    big = deep(3).model_copy(
        update={"parameters": (Parameter(path="w", shape=(9,), dtype="float32", trainable=True),)}
    )
    assert big.parameter_count == 9
    assert names(chosen_of(scores, big, tg.Selection(k=2), tg.Budget(parameters=5))) == ["free"]


def started(net, block, step, *, k=2, loss=F.cross_entropy, seed=0):
    traced, batches = make(net, seed=seed), data(net, 2, seed=seed)
    scores = tg.score(traced, batches, F.cross_entropy, places_of(traced, block))[:k]
    plan = tg.plan(traced, [score.mutation for score in scores])
    before = mean_loss(traced, batches, loss)
    applied = tg.apply(traced, plan)
    length, after = start(applied, scores, step, batches, loss, before)
    return traced, scores, batches, before, applied, length, after


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("largest", [1e-3, 0.5, 30.0, 1e3])
@pytest.mark.parametrize("block", [tg.Bottleneck(units=2), tg.Linear()])
@pytest.mark.parametrize("net", ["mlp", "vit"])
def test_a_line_search_never_raises_the_loss(net, block, largest, k):
    search = tg.LineSearch(largest=largest, halvings=12)
    _, scores, batches, before, revision, length, after = started(net, block, search, k=k)
    assert mean_loss(revision.after, batches, F.cross_entropy) == pytest.approx(after, abs=1e-13)
    assert after <= before
    if length:
        asked = 0.1 * sum(score.predicted(length) for score in scores)
        assert after <= before + asked < before
        assert length in [largest / 2**n for n in range(13)]


@pytest.mark.parametrize("largest", [1.0, 1e3])
def test_a_search_that_never_succeeds_starts_as_the_identity(largest):
    """The probe loss here falls with nothing: any change raises it."""
    traced, batches = make("residual"), data("residual", 1)
    with torch.no_grad():
        outputs = {id(x): traced.module(x).clone() for x, _ in batches}

    def loss(output, _):
        return (output - outputs[id(batches[0][0])]).abs().mean()

    scores = tg.score(traced, batches, F.cross_entropy, places_of(traced, tg.Bottleneck(units=2)))[
        :1
    ]
    plan = tg.plan(traced, [scores[0].mutation])
    search = tg.LineSearch(largest=largest, halvings=3)
    applied = tg.apply(traced, plan)
    length, after = start(applied, scores, search, batches, loss, 0.0)
    assert (length, after) == (0.0, 0.0)
    x = batches[0][0]
    assert torch.equal(applied.after.module(x), traced.module(x))


@pytest.mark.parametrize("size", [0.0, 0.05])
def test_a_fixed_step_is_taken_as_it_is(size):
    traced, scores, batches, before, revision, length, after = started(
        "residual", tg.Bottleneck(units=2, activation="tanh"), tg.Fixed(size=size), k=1
    )
    assert length == size
    assert after == mean_loss(revision.after, batches, F.cross_entropy)
    predicted = sum(score.predicted(size) for score in scores)
    assert after - before == pytest.approx(predicted, rel=0.05, abs=1e-15)
    if not size:
        x = batches[0][0]
        assert torch.equal(revision.after.module(x), traced.module(x))
