"""The transport view at a finite budget, against POT, finite differences and the derivative."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, frozen_copy, make, same
from tests.sensitivity.parabolas import (
    applied,
    falls,
    one_output,
    slope_and_curvature,
    slopes_and_curvatures,
    within,
)
from tests.virtual_maps import layers_of_each
from topograph.rewrite import set_step
from topograph.sensitivity import mean_loss, scorable
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.wasserstein import measure, reach

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot

POWERS = [1, 1.5, 2, 4, math.inf]
TANH = tg.Bottleneck(units=3, activation="tanh")
FORMS = {
    "residual": [TANH, tg.Linear(), tg.Linear(bias=False)],
    "vit": [tg.Bottleneck(units=2, activation="gelu", norm=True)],
    "cnn": [
        tg.ConvBottleneck(units=2, activation="silu"),
        tg.ConvBottleneck(units=2, activation="tanh", spatial="out"),
    ],
}


def moves_of(traced, blocks, gates=True):
    """Return the blocks at all places, and a gate between any two nodes."""
    wanted = [tg.InsertLayer(where=tg.all(), block=block) for block in blocks]
    names = [node.name for node in traced.topology.nodes[:-1]]
    pairs = itertools.combinations(names, 2) if gates else ()
    wanted += [tg.AddBranch(source=source, target=target) for source, target in pairs]
    return tuple(m for m in tg.candidates(traced, wanted) if not isinstance(m, tg.Refusal))


def widenings_of(traced):
    """Return two new units for every layer whose units another layer reads."""
    wanted = [
        tg.WidenLayer(where=tg.named(node.name), to=node.channels + 2)
        for node in traced.topology.nodes
        if node.op in ("linear", "conv2d")
    ]
    return tuple(
        m for m in scorable(traced, wanted, "wasserstein") if not isinstance(m, tg.Refusal)
    )


class Wide(nn.Module):
    """Convolutions and matrices with kinks and smooth curves between them, one of which falls."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.c, self.d, self.e = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x):
        h = self.b(torch.relu(self.a(x))).mean((2, 3))
        return self.e(F.leaky_relu(torch.tanh(self.d(F.gelu(self.c(h)))), -2))


@pytest.mark.parametrize("budget", [1e-3, 0.3])
def test_new_units_of_a_layer_are_measured_likewise(budget):
    torch.manual_seed(0)
    inputs = torch.randn(2, 8, 2, 6, 6).double()
    traced = tg.trace(Wide().double(), (inputs[0],))
    batches = [(x, 3 * torch.randn(8, 1).double()) for x in inputs]
    moves = widenings_of(traced)
    assert [move.where.node for move in moves] == ["a", "c", "d"]
    for score in within(traced, batches, moves, budget=budget):
        slope, curvature = slope_and_curvature(traced, score, batches)
        e = min(budget**2, slope / curvature)
        assert -score.predicted(budget) == pytest.approx(e * slope - e**2 * curvature / 2, rel=1e-2)
        (fallen,) = falls(traced, batches, [score], budget)
        assert fallen == pytest.approx(-score.predicted(budget), rel=max(budget, 1e-2))  # of GELU


@pytest.mark.parametrize("budget", [1e-3, 0.1, 30])
@pytest.mark.parametrize("net", FORMS)
def test_the_value_is_the_best_of_the_parabola_within_the_budget(net, budget):
    traced, batches = one_output(net)
    moves = moves_of(traced, FORMS[net])[:: 3 if net == "vit" else 1]
    scores = within(traced, batches, moves, budget=budget)
    assert len({score.order for score in scores}) == 2
    known, cut = slopes_and_curvatures(traced, scores, batches), 0
    for score in scores:
        slope, curvature = known[score.mutation]
        e = np.geomspace(1e-9, 1, 4001) * budget**score.order
        best = (slope * e - curvature * e**2 / 2).max()
        found = -score.predicted(budget)
        assert found == pytest.approx(best, rel=1e-2, abs=1e-12), score
        far = budget * float(sum(part.square().sum() for part in score.direction.values())) ** 0.5
        assert far <= budget * (1 + 1e-9)
        if slope > 0 and curvature * budget**score.order > slope:
            assert far**score.order == pytest.approx(slope / curvature, rel=1e-2)
            cut += 1
    assert cut > 0 if budget > 1 else cut < len(scores)


@pytest.mark.parametrize("net", ["residual", "cnn"])
def test_the_loss_falls_by_that_much_at_the_budget(net):
    """The derivative alone foresees a fall of the loss where a gate of 0.1 raises it."""
    traced, batches = one_output(net)
    optimizer = torch.optim.Adam(traced.module.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(F.mse_loss(traced.module.eval()(x), y) for x, y in batches).backward()
        optimizer.step()
    moves = moves_of(traced, FORMS[net][:1]) + widenings_of(traced)
    rates = tg.score(traced, batches, F.mse_loss, moves)
    scores = tg.score(traced, batches, F.mse_loss, moves, scorer="wasserstein")
    assert min(falls(traced, batches, rates, 0.1)) < 0
    measured = falls(traced, batches, scores, 0.1)
    assert min(measured) > -1e-9
    predicted = [-score.predicted(0.1) for score in scores]
    assert predicted == sorted(predicted, reverse=True)
    assert spearmanr(predicted, measured).statistic > 0.95
    ratios = np.array(predicted) / np.array(measured)
    assert np.median(np.abs(ratios[np.array(predicted) > 1e-6] - 1)) < 0.1


@pytest.mark.parametrize("atoms", [1, 2, 5])
@pytest.mark.parametrize("p", POWERS)
def test_the_new_units_are_that_far_from_the_old_by_pot(p, atoms):
    traced, batches = one_output("residual")
    block, budget = tg.Bottleneck(units=atoms, activation="tanh"), 1e-2
    scores = within(traced, batches, moves_of(traced, [block], False), p=p, budget=budget)
    layers, _ = layers_of_each(traced, [score.mutation for score in scores], scores, budget)
    for layer in layers:
        parts = [layer.reduce.weight, layer.reduce.bias[:, None], layer.expand.weight.T]
        made = torch.cat(parts, 1).detach().numpy() * atoms**0.5  # each has a mass of 1 / atoms
        made[(layer.expand.weight == 0).all(0).numpy()] = 0  # what writes nothing is as no unit
        radii = ot.dist(made, np.zeros_like(made), metric="euclidean")
        mass = np.full(atoms, 1 / atoms)
        power = 2 if math.isinf(p) else p  # of equal radii any moment is the same
        assert ot.emd2(mass, mass, radii**power) ** (1 / power) == pytest.approx(budget)
        if math.isinf(p):
            assert radii.max() == pytest.approx(budget)


@pytest.mark.parametrize("p", POWERS)
def test_no_other_measure_at_that_distance_does_better(p):
    traced, batches = one_output("residual")
    atoms, budget = 4, 1e-3  # so small that the curvature is nothing
    (move,) = moves_of(traced, [tg.Bottleneck(units=atoms, activation="tanh")], False)[4:5]
    (rate,) = tg.score(traced, batches, F.mse_loss, [move])
    (score,) = within(traced, batches, [move], p=p, budget=budget)
    law = atoms ** (2 / p - 1) if p < 2 else 1
    assert score.value == pytest.approx(rate.value * law, rel=1e-3)
    (gain,) = falls(traced, batches, [score], budget)
    assert gain == pytest.approx(score.value * budget**2, rel=1e-3)

    parts = (rate.direction[k] for k in ("reduce.weight", "reduce.bias", "expand.weight"))
    top = torch.cat([part.flatten() for part in parts]).numpy()
    revision, _ = applied(traced, score, 0)
    random, before = np.random.default_rng(0), mean_loss(traced, batches, F.mse_loss)
    for turn in range(60):
        sizes = random.exponential(size=(atoms, 1)) ** (turn % 4)  # from all alike to nearly one
        units = sizes * (top + 0.3 * (turn % 3) * random.normal(size=(atoms, len(top))))
        units *= np.sign(random.normal(size=(atoms, 1)))
        radii = np.linalg.norm(units, axis=1)
        units *= budget / (radii.max() if math.isinf(p) else np.mean(radii**p) ** (1 / p))
        made = torch.from_numpy(units / atoms**0.5)
        layer = {
            "reduce.weight": made[:, :4],
            "reduce.bias": made[:, 4],
            "expand.weight": made[:, 5:].T,
        }
        set_step(revision, [tg.Score(move, 0.0, 2, layer, rate.cost)], 1.0)
        assert before - mean_loss(revision.after, batches, F.mse_loss) <= gain * (1 + 1e-4)


def test_a_small_budget_ranks_as_the_derivative_does():
    traced, batches = make("vit"), data("vit", 2)
    moves = moves_of(traced, [tg.Bottleneck(units=2, norm=True)], gates=False)
    rates = tg.score(traced, batches, F.cross_entropy, moves)
    scores = within(traced, batches, moves, F.cross_entropy, budget=1e-4)
    scores.sort(key=lambda score: -score.worth)
    assert [score.mutation for score in scores] == [rate.mutation for rate in rates]
    for score, rate in zip(scores, rates, strict=True):
        assert score.value == pytest.approx(rate.value, rel=1e-3, abs=1e-12)
        assert score.cost == rate.cost
        for path, part in rate.direction.items():
            torch.testing.assert_close(score.direction[path], part)


@pytest.mark.parametrize("p", [1, 2])
def test_a_large_budget_gives_the_newton_decrement(p):
    traced, batches = one_output("residual")
    moves = moves_of(traced, [tg.Bottleneck(units=64, activation="tanh")])
    for score in within(traced, batches, moves, p=p, budget=1e4):
        slope, curvature = slope_and_curvature(traced, score, batches)
        decrement = slope**2 / (2 * curvature) if curvature else 0
        assert -score.predicted(1e4) == pytest.approx(decrement, rel=1e-2, abs=1e-12)


def test_a_gate_or_one_matrix_is_one_atom():
    traced, batches = one_output("residual")
    moves = moves_of(traced, [tg.Linear()])
    found = [within(traced, batches, moves, p=p) for p in POWERS]
    for same_move in zip(*found, strict=True):
        assert len({score.value for score in same_move}) == 1
    assert [reach(p, 0.5, 1) for p in POWERS] == [0.5] * len(POWERS)


def test_ranks_with_the_same_batches_say_what_one_says():
    traced, batches = make("cnn"), data("cnn", 3)
    moves = moves_of(traced, [tg.ConvBottleneck(units=2)])
    alone, two = (
        tg.score(traced, iter(batches), F.cross_entropy, moves, scorer="wasserstein", reduce=reduce)
        for reduce in (None, lambda found: 2 * found)
    )
    assert [score.mutation for score in alone] == [score.mutation for score in two]
    for one, other in zip(alone, two, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-9, abs=1e-15)


def test_the_network_stays_and_every_batch_is_counted_once():
    traced, batches, counted = make("cnn"), data("cnn", 3), []
    before = frozen_copy(traced.module)
    moves = moves_of(traced, [tg.ConvBottleneck(units=2)])
    asked = Asked(traced, iter(batches), F.cross_entropy, moves, None, counted.append)
    first, again = measure(asked), within(traced, batches, moves, F.cross_entropy)
    assert [(s.mutation, s.value) for s in first] == [(s.mutation, s.value) for s in again]
    assert len(counted) == 3
    assert same(before, frozen_copy(traced.module))


@pytest.mark.parametrize("p", [0.5, math.nan, -math.inf])
def test_a_power_below_1_is_no_distance(p):
    traced, batches = make("mlp"), data("mlp")
    with pytest.raises(tg.SpecError, match=f"p = {p}: a Wasserstein distance has p >= 1; 2 is"):
        within(traced, batches, moves_of(traced, [TANH]), p=p)


@pytest.mark.parametrize("budget", [0, -1, math.inf, math.nan])
def test_a_budget_is_a_finite_distance(budget):
    traced, batches = make("mlp"), data("mlp")
    with pytest.raises(tg.SpecError, match=f"budget = {budget}: give a finite distance above 0"):
        within(traced, batches, moves_of(traced, [TANH]), budget=budget)


def test_a_path_that_is_drawn_behind_a_gate_of_0_is_refused():
    change = tg.AddBranch(source="stem", target="add", path=tg.Bottleneck(units=2))
    with pytest.raises(
        tg.RefusedError, match=r"add: its path is drawn behind a gate of 0, and the"
    ):
        tg.score(
            make("residual"), data("residual"), F.cross_entropy, [change], scorer="wasserstein"
        )
