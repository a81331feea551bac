"""A race finds the winner that a loop by hand finds, and leaves nothing behind."""

import math
from itertools import cycle, islice

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import topograph as tg
from tests.growth.growth_parts import (
    INSERT,
    PROBE,
    X,
    Y,
    moments,
    picture,
    policy_of,
    train,
    training,
)
from tests.nets import same

STEPS = 6


def raced(of=4, k=1, steps=STEPS):
    return tg.Selection(k=k, race=tg.Race(of=of, steps=steps))


def prepared(policy, seed=3, **others):
    """A training some steps under way, always the same."""
    parts = training(policy, **others)
    torch.manual_seed(seed)
    train(parts, 3)
    return parts


def loop(module, optimizer, numbers):
    """Train on the probe batches in turn, from a state of the random numbers; return the loss."""
    torch.set_rng_state(numbers)
    module.train()
    for x, y in islice(cycle(PROBE), STEPS):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        return sum(F.cross_entropy(module(x), y).item() for x, y in PROBE) / len(PROBE)


def by_hand(policy, mutation, score, size):
    """Return the loss that a candidate ends with, from a training of its own."""
    parts = prepared(policy)
    numbers, traced = torch.get_rng_state(), parts.grower.traced
    if mutation is None:
        return loop(traced.module, parts.optimizer, numbers)
    revision = tg.apply(traced, tg.plan(traced, [mutation]), directions=[score], step=size)
    tg.migrate(revision, optimizer=parts.optimizer)
    return loop(revision.after.module, parts.optimizer, numbers)


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_the_winner_is_that_of_a_loop_by_hand(size):
    blocks = [tg.Bottleneck(units=2), tg.Bottleneck(units=6, activation="tanh"), tg.Linear()]
    candidates = tuple(tg.InsertLayer(where=tg.after(op="tanh"), block=b) for b in blocks)
    policy = policy_of(candidates=candidates, selection=raced(of=4), step=tg.Fixed(size=size))
    parts = prepared(policy)
    scores = tg.score(parts.grower.traced, PROBE, F.cross_entropy, candidates)
    assert len(scores) == 6
    revision = parts.grower.step(batches=PROBE)
    expected = {s.mutation: by_hand(policy, s.mutation, s, size) for s in scores[:4]}
    unchanged = by_hand(policy, None, None, size)
    found = {r.mutation: r.raced for r in parts.grower.growth.ranking if r.raced is not None}
    assert found == {k: pytest.approx(v, abs=1e-6) for k, v in expected.items()}
    winner = min(expected, key=expected.get)
    assert expected[winner] < unchanged
    assert winner != scores[0].mutation  # by the scores alone another would have grown
    assert [c.mutation for c in revision.plan.changes] == [winner]
    told = f"won the race of 4: {expected[winner]:.4g} after 6 steps, {unchanged:.4g} unchanged, "
    assert parts.grower.growth.reason == f"step 1 of every 1; {told}30 steps in all"


def test_several_winners_grow_together():
    parts = prepared(policy_of(selection=raced(of=2, k=2)))
    revision = parts.grower.step(batches=PROBE)
    assert len(revision.plan.changes) == 2


BAD = tuple(
    tg.InsertLayer(where=tg.at("tanh_5"), block=tg.Bottleneck(units=n, activation="tanh"))
    for n in (2, 4)
)


@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD, optim.Adafactor])
def test_a_race_that_nobody_wins_leaves_everything_as_it_was(kind):
    """At this start every candidate is worse than no change at all."""
    policy = policy_of(candidates=BAD, selection=raced(), step=tg.Fixed(size=1e3))
    parts = prepared(policy, kind=kind, without="0.weight")  # its gradient is in nobody's step
    parts.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.5})
    before = picture(parts)
    assert before["gradients"]["0.weight"] is not None
    assert parts.grower.step(batches=PROBE) is None
    decision = parts.grower.decision
    assert decision.outcome == "nothing"
    assert "none of 2 won the race: " in decision.reason
    assert " after 6 steps, " in decision.reason
    after = picture(parts)
    for key in before.keys() - {"course", "watches"}:
        assert same(before[key], after[key]), key


def test_the_random_numbers_go_on_as_if_there_had_been_no_race():
    numbers = []
    for selection in (raced(), tg.Selection()):
        parts = prepared(policy_of(selection=selection))
        assert parts.grower.step(batches=PROBE) is not None
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


def test_a_warm_up_that_is_under_way_is_not_used_up():
    """A second growth races while the first one's layers are warmed up and the rest is held."""
    policy = policy_of(selection=raced(), after=tg.Afterwards(warmup=20, hold=9))
    parts = prepared(policy)
    assert parts.grower.step(batches=PROBE) is not None
    train(parts, 3)
    parts.optimizer.zero_grad()
    pace = parts.grower._growing.gear.pace
    before = pace.state()
    assert {entry["done"] for entry in before["warmup"].values()} == {3}
    assert set(before["hold"].values()) == {6}
    first = parts.grower.traced.topology
    parts.grower.step(batches=PROBE)
    after = pace.state()
    for path, entry in before["warmup"].items():
        assert after["warmup"][path] == entry
    grown = parts.grower.traced.topology is not first
    assert set(after["hold"].values()) == ({6} if not grown else {9})


def steep(output, target):
    """Infinite as soon as an output is large."""
    large = output.detach().abs().amax() > 0.85
    return F.cross_entropy(output, target) + torch.where(large, math.inf, 0.0)


def test_a_candidate_that_diverges_loses():
    """At this start two have outputs above 0.85, and one has not."""
    block = tg.Bottleneck(units=6, activation="tanh")
    bounded = tg.InsertLayer(where=tg.at("tanh_2"), block=block)
    for candidates, others in (((*BAD, bounded), 1), (BAD, 0)):
        policy = policy_of(candidates=candidates, selection=raced(), step=tg.Fixed(size=1.75))
        parts = prepared(policy, loss=steep)
        before = moments(parts.grower.model, parts.optimizer)
        revision = parts.grower.step(batches=PROBE)
        if others:
            assert [c.mutation for c in revision.plan.changes] == [bounded]
            ranking = parts.grower.growth.ranking
            assert [r.mutation for r in ranking if r.raced is not None] == [bounded]
            assert "won the race of 3: " in parts.grower.growth.reason
        else:
            assert revision is None
            reason = parts.grower.decision.reason
            assert "none of 2 won the race: inf after 6 steps, 0." in reason
        assert same(before, moments(parts.grower.model, parts.optimizer))


def test_a_network_that_diverges_unchanged_is_an_error_that_changes_nothing():
    parts = prepared(policy_of(selection=raced(steps=30)), kind=optim.SGD)
    for group in parts.optimizer.param_groups:
        group["lr"] = 1e38
    before = picture(parts)
    with pytest.raises(tg.NonFiniteError, match="the unchanged network is trained for the race"):
        parts.grower.step(batches=PROBE)
    assert same(before, picture(parts))


def test_an_optimizer_that_cannot_be_carried_is_refused_before_anything_moves():
    parts = training(policy_of(selection=raced()), kind=optim.LBFGS)
    before = picture(parts)
    with pytest.raises(tg.MigrationError, match="LBFGS keeps one state for all parameters"):
        parts.grower.step(batches=PROBE)
    assert same(before, picture(parts))


def test_a_loss_that_fails_in_the_race_leaves_everything_as_it_was():
    calls = []

    def failing(output, target):
        calls.append(output.requires_grad)
        if calls.count(True) > len(PROBE) + 3:  # after the scoring, in the middle of the race
            raise ValueError("the loss fails")
        return F.cross_entropy(output, target)

    parts = prepared(policy_of(selection=raced()), loss=failing)
    before = picture(parts)
    with pytest.raises(ValueError, match="the loss fails"):
        parts.grower.step(batches=PROBE)
    assert same(before, picture(parts))


def test_gradients_left_by_an_earlier_growth_are_still_known():
    """The second growth before `zero_grad` is refused, race or not."""
    parts = prepared(policy_of(selection=raced()))
    assert parts.grower.step(batches=PROBE) is not None
    with pytest.raises(tg.MigrationError, match="gradients of before the last growth are still"):
        parts.grower.step(batches=PROBE)


def test_the_probe_is_what_the_race_trains_on():
    """Candidates that only help on other data do not win."""
    parts = prepared(policy_of(selection=raced(of=2, steps=1)))
    assert parts.grower.step(batches=[(X, 1 - Y)]) is not None
    assert "after 1 step, " in parts.grower.growth.reason


@pytest.mark.parametrize(("steps", "told"), [(1, "1 step"), (6, "6 steps")])
def test_one_step_is_told_as_one(steps, told):
    score = tg.Score(INSERT, 1.0, 2, {}, cost=(1, 0))
    entrant = tg.Entrant(score, loss=0.5, unchanged=0.75, steps=steps)
    said = str(tg.Raced(entrants=(entrant,), steps=steps, unchanged=0.75, spent=steps))
    assert said.endswith(f": 0.5 after {told}, 0.75 unchanged\n{told} in all")
