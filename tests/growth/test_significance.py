"""Significance against finite differences, pure noise and a planted signal."""

import math
from statistics import fmean, stdev

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.growth.growth_parts import PROBE, picture, policy_of, training
from tests.nets import data, frozen_copy, make, places_of, same
from topograph.growth.significance import HeldOut, halves, held_out
from topograph.rewrite import set_step
from topograph.sensitivity import mean_loss
from topograph.spec.scorers import DIRECTED, KINDS

LOSS = F.cross_entropy


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("mlp", tg.Bottleneck(units=2, activation="tanh")),
        ("vit", tg.Bottleneck(units=3, activation="tanh")),
        ("residual", tg.Linear()),
    ],
)
def test_the_held_out_value_is_the_finite_difference(name, block):
    """In float64, at +-h along the direction, on batches that the direction was not made from."""
    traced, batches = make(name), data(name, 6)
    best = tg.score(traced, batches[:3], F.cross_entropy, places_of(traced, block))[0]
    revision = tg.apply(traced, tg.plan(traced, [best.mutation]))
    begun = frozen_copy(revision.after.module)
    found = held_out(revision, [best], batches[3:], F.cross_entropy)
    assert same(begun, frozen_copy(revision.after.module))
    expected = []
    for batch in batches[3:]:
        before, both = mean_loss(traced, [batch], F.cross_entropy), []
        for h in (1e-3, -1e-3):
            plan = tg.plan(traced, [best.mutation])
            moved = tg.apply(traced, plan, directions=[best], step=abs(h))
            if h < 0 and best.order == 1:  # the other way along a matrix
                for path in best.direction:
                    new = moved.after.module.get_submodule(moved.plan.changes[0].path)
                    with torch.no_grad():
                        new.get_parameter(path).neg_()
            after = mean_loss(moved.after, [batch], F.cross_entropy)
            both.append((before - after) * (1 if h > 0 or best.order == 2 else -1))
        expected.append(fmean(both) / 1e-3**best.order * 0.1**best.order)
    assert found.mean == pytest.approx(fmean(expected), rel=3e-3)
    assert found.error == pytest.approx(stdev(expected) / math.sqrt(3), rel=1e-2)
    assert found.batches == 3


def test_what_counts_as_significant():
    assert HeldOut(1.0, 0.4, 5).significant(2.0)
    assert not HeldOut(1.0, 0.5, 5).significant(2.0)
    assert not HeldOut(-1.0, 0.1, 5).significant(0.0)
    assert str(HeldOut(0.01234, 0.00567, 5)) == "0.0123 ± 0.0057 on 5 held-out batches"


def test_the_first_half_scores_and_the_rest_is_held_out():
    assert halves([1, 2, 3, 4, 5]) == ([1, 2], [3, 4, 5])
    for batches in ([], [1], [1, 2, 3]):
        with pytest.raises(tg.ShapeError, match=f"at least 4 .* has {len(batches)}$"):
            halves(batches)


def teacher(seed, count, strength):
    """Batches of a net that is already its own teacher, save for noise and a planted change."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * 16, 3, generator=generator, dtype=torch.float64)
    h = torch.tanh(x)
    noise = torch.randn(h.shape, generator=generator, dtype=torch.float64)
    y = h + strength * torch.tanh(h.flip(1)) + noise
    return [(x[i : i + 16], y[i : i + 16]) for i in range(0, count * 16, 16)]


class Student(nn.Module):
    """Two layers that give tanh(x)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False).double()
        self.last = nn.Linear(3, 3, bias=False).double()
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3))
            self.last.weight.copy_(torch.eye(3))

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def alarms(strength, seeds, count=16):
    """Return how often the best place is significant, over data of different seeds."""
    block = tg.Bottleneck(units=2, activation="tanh")
    traced = tg.trace(Student(), (torch.zeros(2, 3, dtype=torch.float64),))
    change = tg.InsertLayer(where=tg.after(op="tanh"), block=block)
    revision = tg.apply(traced, tg.plan(traced, [change]))
    found = 0
    for seed in range(seeds):
        first, rest = halves(teacher(seed, count, strength))
        best = tg.score(traced, first, F.mse_loss, [change])[:1]
        assert best[0].value > 0  # on its own batches it always promises something
        found += held_out(revision, best, rest, F.mse_loss).significant(2.0)
    return found


def test_pure_noise_rarely_raises_an_alarm_and_a_planted_signal_nearly_always():
    """Student's t with 7 degrees of freedom is above 2 in 4.3 % of cases: 6.4 of 150.

    Under the binomial law more than 17 have a chance below 1 in 10,000.
    """
    assert 1 <= alarms(0.0, 150) <= 17
    assert alarms(1.0, 40) >= 39


def test_a_rule_with_this_trigger_grows_on_signal_and_says_what_it_measured():
    policy = policy_of(trigger=tg.Significance(every=2, deviations=0.0))
    parts = training(policy)
    assert parts.grower.step() is None  # not looked yet: no batches are needed
    before = picture(parts)
    with pytest.raises(tg.ShapeError, match="at least 4 probe batches"):
        parts.grower.step(batches=PROBE[:3])
    assert same(before, picture(parts))
    assert parts.grower.step(batches=PROBE) is not None
    decision = parts.grower.decision
    assert decision.outcome == "grew"
    assert "step 2 of every 2" in decision.reason
    assert "the held-out decrease is " in decision.reason
    assert " on 2 held-out batches" in decision.reason


def test_noise_grows_nothing_with_the_numbers_that_say_why():
    generator = torch.Generator().manual_seed(0)
    labels = [(x, torch.randint(0, 2, (16,), generator=generator)) for x, _ in PROBE]
    parts = training(policy_of(trigger=tg.Significance(every=1, deviations=50.0)))
    before = picture(parts)
    assert parts.grower.step(batches=labels) is None
    after = picture(parts)
    for key in before.keys() - {"course", "watches"}:
        assert same(before[key], after[key]), key
    assert parts.grower.decision.outcome == "nothing"
    assert parts.grower.decision.reason.endswith("held-out batches, not 50 errors above 0")


def test_the_start_after_the_test_is_the_start_without_it():
    """The look at held-out batches leaves no trace in the layer that then grows."""
    for step in (tg.Zero(), tg.LineSearch(), tg.Fixed(size=0.3)):
        states = []
        for trigger, probe in (
            (tg.Significance(every=1, deviations=0.0), PROBE),
            (tg.Every(steps=1), PROBE[:2]),
        ):
            parts = training(policy_of(trigger=trigger, step=step))
            revision = parts.grower.step(batches=probe)
            if revision is not None:
                states.append(revision.after.module.state_dict())
        assert len(states) == 2
        assert same(*states)


def test_a_newton_step_is_held_out_along_its_parabola():
    traced, change = training(policy_of()).grower.traced, policy_of().candidates[0]
    (score, *_) = tg.score(traced, PROBE, F.cross_entropy, [change], scorer="natural")
    revision = tg.apply(traced, tg.plan(traced, [score.mutation]), step=0)
    state = {k: v.clone() for k, v in revision.after.module.state_dict().items()}
    found = held_out(revision, [score], PROBE, F.cross_entropy)
    assert same(state, revision.after.module.state_dict())
    slopes = []
    for batch in PROBE:
        losses = []
        for step in (-1e-3, 1e-3):
            set_step(revision, [score], step)
            losses.append(mean_loss(revision.after, [batch], F.cross_entropy))
        slopes.append((losses[0] - losses[1]) / 2e-3)
    assert found.mean == pytest.approx(fmean(slopes) / 2, rel=0.03)  # of the curvature, at NEAR
    assert found.error == pytest.approx(stdev(slopes) / len(PROBE) ** 0.5 / 2, rel=0.05)


def test_a_policy_may_grow_by_newton_steps():
    for step in (tg.Zero(), tg.LineSearch()):
        parts = training(policy_of(trigger=tg.Every(steps=1), scorer="natural", step=step))
        revision = parts.grower.step(batches=PROBE)
        assert revision is not None
        assert "grew" in parts.grower.decision.outcome


def test_a_scorer_without_directions_cannot_be_held_out():
    traced, change = training(policy_of()).grower.traced, policy_of().candidates[0]
    score = tg.score(traced, PROBE, F.cross_entropy, [change])[0]
    bare = tg.Score(score.mutation, 1.0, 1, {}, score.cost)
    revision = tg.apply(traced, tg.plan(traced, [bare.mutation]))
    with pytest.raises(tg.SpecError, match="measures along the directions of scores"):
        held_out(revision, [bare], PROBE, F.cross_entropy)
    freeze = tg.Freeze(where=tg.named("0"))
    with pytest.raises(ValueError, match="the scorer 'none' gives none; use auto or topological"):
        policy_of(trigger=tg.Significance(every=1), candidates=(freeze,), scorer="none")


@pytest.mark.parametrize("scorer", sorted({*DIRECTED} - {"auto"}))
def test_a_directed_scorer_predicts_what_its_start_brings(scorer):
    """At a step of 0.01, and on the same batches held out; every other scorer gives none."""
    traced, batches = make("mlp"), data("mlp", 6)
    block = tg.Bottleneck(units=2, activation="tanh")
    best = tg.score(traced, batches, F.cross_entropy, places_of(traced, block), scorer=scorer)[0]
    plan = tg.plan(traced, [best.mutation])
    after = mean_loss(tg.apply(traced, plan, directions=[best], step=0.01).after, batches, LOSS)
    near = 0.15 if scorer == "natural" else 0.03  # its value is that of endless batches
    assert after - mean_loss(traced, batches, LOSS) == pytest.approx(best.predicted(0.01), rel=near)
    found = held_out(tg.apply(traced, plan), [best], batches, LOSS)
    assert found.mean == pytest.approx(best.worth, rel=near)


@pytest.mark.parametrize("scorer", sorted({*KINDS} - {*DIRECTED}))
def test_the_other_scorers_give_no_direction(scorer):
    if scorer == "betti_stall":
        reason = "gudhi is not installed; pip install 'topograph[embedding]'"
        pytest.importorskip("gudhi", reason=reason)
    traced, batches = make("cnn"), data("cnn", 4)
    block, narrow = tg.ConvBottleneck(units=2), tg.NarrowLayer(where=tg.after(op="conv2d"), to=2)
    wanted = [narrow] if scorer == "magnitude" else places_of(traced, block)
    found = tg.score(traced, batches, LOSS, wanted, scorer=scorer)
    assert found
    assert not any(score.direction for score in found)


@pytest.mark.parametrize("scorer", ["features", "gradmax", "tiny"])
def test_a_rule_that_waits_for_significance_takes_a_peer(scorer):
    trigger = tg.Significance(every=1, deviations=0.0)
    parts = training(policy_of(trigger=trigger, scorer=scorer))
    parts.grower.step(batches=PROBE)
    assert " on 2 held-out batches" in parts.grower.decision.reason
    with pytest.raises(ValueError, match="the scorer 'gradient_norm' gives none; use auto or"):
        policy_of(trigger=trigger, scorer="gradient_norm")
