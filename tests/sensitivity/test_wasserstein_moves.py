"""Splits, adapters, projections and paths at a finite budget, against what they really do."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.sensitivity.parabolas import (
    applied,
    falls,
    one_output,
    slopes_and_curvatures,
    within,
)
from topograph.sensitivity import scorable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot

SMOOTH = {"activation": "tanh"}


def branch(source=None, target=None, **fields):
    return tg.AddBranch(source=source or tg.all(), target=target or tg.all(), **fields)


def split(name, to):
    return tg.WidenLayer(where=tg.named(name), to=to, how="split")


def pairs(**fields):
    return tg.InsertLayer(where=tg.after(op="linear"), block=tg.Bottleneck(units=4, **fields))


MOVES = {
    "residual": [
        tg.AddAdapter(where=tg.all(), rank=2, alpha=3.0),
        tg.AddAdapter(where=tg.all(), rank=2, style="bottleneck", activation="tanh"),
        branch("stem", "add_1", projection="linear"),
        branch("stem", "head", projection="linear"),
        branch("stem", "add_1", path=tg.Linear()),
        branch("stem", "add_1", path=tg.Linear(bias=False), gate=-2.0),
        branch("stem", "add_1", path=tg.Bottleneck(units=3, norm=True, **SMOOTH), gate=0.5),
        pairs(activation="relu"),
        tg.InsertLayer(where=tg.all(), block=tg.Linear(activation="tanh")),
        tg.InsertLayer(where=tg.all(), block=tg.Linear(activation="z_tanh_z")),
    ],
    "cnn": [
        tg.AddAdapter(where=tg.all(), rank=2),
        branch("conv1", "conv2", projection="linear"),
        branch("conv1", "norm1", path=tg.ConvBottleneck(units=2, **SMOOTH), gate=1.0),
        tg.InsertLayer(
            where=tg.named("conv2"), block=tg.ConvBottleneck(units=2, spatial="both", **SMOOTH)
        ),
    ],
    "hidden": [split("up", 7), split("up", 9), split("up", 12)],
    "vit": [
        split("up", 11),
        tg.AddAdapter(where=tg.named("down"), rank=1),
        branch("embed", "add", path=tg.Bottleneck(units=2, **SMOOTH), gate=1.0),
    ],
}


def candidates(traced, asked):
    """Return what was asked for at all places where there is something to move."""
    found = [m for m in scorable(traced, asked, "wasserstein") if not isinstance(m, tg.Refusal)]
    assert {m.kind for m in found} == {m.kind for m in asked}
    return found


@pytest.mark.parametrize("budget", [1e-3, 0.1, 30])
@pytest.mark.parametrize("net", MOVES)
def test_the_value_is_the_best_of_the_parabola_within_the_budget(net, budget):
    traced, batches = one_output(net)
    scores = within(traced, batches, candidates(traced, MOVES[net]), budget=budget)
    moving, known, cut = [score for score in scores if score.value], {}, 0
    split = any(score.mutation.kind == "widen_layer" for score in moving)  # changes what is read
    for part in [[score] for score in moving] if split else [moving]:
        known |= slopes_and_curvatures(traced, part, batches)
    for score in moving:
        slope, curvature = known[score.mutation]
        e = np.geomspace(1e-9, 1, 4001) * budget**score.order
        best = (slope * e - curvature * e**2 / 2).max()
        assert -score.predicted(budget) == pytest.approx(best, rel=2e-2, abs=1e-12), score
        far = budget * float(sum(part.square().sum() for part in score.direction.values())) ** 0.5
        assert far <= budget * (1 + 1e-9)
        cut += slope > 0 and curvature * budget**score.order > slope
    assert cut > 0 if budget > 1 else cut < len(scores)


@pytest.mark.parametrize("net", ["residual", "cnn", "hidden"])
def test_the_loss_falls_by_that_much_at_the_budget(net):
    """On the first net the derivatives rank 35 such moves with 0.26, and may raise the loss."""
    traced, batches = one_output(net)
    optimizer = torch.optim.Adam(traced.module.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(F.mse_loss(traced.module.eval()(x), y) for x, y in batches).backward()
        optimizer.step()
    moves = candidates(traced, MOVES[net])
    scores = tg.score(traced, batches, F.mse_loss, moves, scorer="wasserstein")
    measured = np.array(falls(traced, batches, scores, 0.1))
    predicted = np.array([-score.predicted(0.1) for score in scores])
    assert sorted(predicted, reverse=True) == predicted.tolist()
    assert measured.min() > -1e-9
    assert spearmanr(predicted, measured).statistic > 0.95
    large = predicted > 1e-6
    assert np.median(np.abs(predicted[large] / measured[large] - 1)) < 0.1


def distance(old, new, p):
    """Return W_p between two clouds of uniform mass, by POT."""
    cost = ot.dist(old, new, metric="euclidean")
    mass = [np.full(len(cloud), 1 / len(cloud)) for cloud in (old, new)]
    if math.isinf(p):  # equal distances: any moment is the same
        p = 2
    return ot.emd2(*mass, cost**p) ** (1 / p)


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
@pytest.mark.parametrize("to", [7, 9])
def test_halves_are_that_far_from_their_units_by_pot(to, p):
    traced, batches = one_output("hidden")
    (move,) = candidates(traced, [split("up", to)])
    (score,) = within(traced, batches, [move], p=p, budget=1e-3)
    units = list(score.mutation.units)
    assert (score.direction["up.weight"] != 0).any(1).all()  # all of them move
    _, after = applied(traced, score, 1e-3)
    clouds = []
    for module, taken in ((traced.module, units), (after, [*units, *range(6, to)])):
        rows = torch.cat([module.up.weight, module.up.bias[:, None]], 1).detach()
        clouds.append(rows[taken].numpy() * len(units) ** 0.5)  # of mass 1 / units each
    assert distance(*clouds, p) == pytest.approx(1e-3)


@pytest.mark.parametrize("p", [1, 2, 4, math.inf])
@pytest.mark.parametrize("form", ["adapter", "tanh", "relu"])
def test_new_units_are_that_far_from_nothing_by_pot(form, p):
    """A pair of units behind ReLU is one of the atoms that may move."""
    traced, batches = one_output("residual")
    if form == "adapter":
        ask = tg.AddAdapter(where=tg.named("second"), rank=4)
    else:
        path = tg.Bottleneck(units=4, activation=form)
        ask = branch("stem", "add_1", path=path, gate=1.0)
    (move,) = candidates(traced, [ask])
    (score,) = within(traced, batches, [move], p=p, budget=1e-2)
    revision, after = applied(traced, score, 1e-2)
    layer = after.get_submodule(revision.plan.changes[0].path)
    layer = layer if form == "adapter" else layer.path
    parts = [layer.reduce.weight, layer.expand.weight.T]
    if form != "adapter":
        parts.append(layer.reduce.bias[:, None])
    atoms = torch.cat(parts, 1).detach()
    atoms[(layer.expand.weight == 0).all(0)] = 0  # what writes nothing is as no unit
    if form == "relu":
        atoms = atoms.reshape(len(atoms) // 2, -1)
    cloud = atoms.numpy() * len(atoms) ** 0.5
    if math.isinf(p):
        radii = np.linalg.norm(cloud, axis=1)
        assert radii.min() == pytest.approx(radii.max())
    assert distance(np.zeros_like(cloud), cloud, p) == pytest.approx(1e-2)


def test_what_only_rises_does_not_move():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1)).double()
    x = torch.randn(8, 5).double()
    traced = tg.trace(model, (x,))
    with torch.no_grad():
        model[2].weight.abs_()
    batches = [(x, model(x).detach() - 1)]
    (score,) = within(traced, batches, candidates(traced, [split("0", 6)]))
    assert score.value == 0
    assert all((part == 0).all() for part in score.direction.values())
    revision, _ = applied(traced, score, 0.1)
    torch.testing.assert_close(revision.after.module(x), model(x))


def test_attention_is_no_map_of_one_position():
    traced, batches = one_output("vit")
    path = tg.SelfAttention(units=2)
    message = "wasserstein takes a block as a map of each position alone, and attention mixes them"
    for ask in (
        tg.InsertLayer(where=tg.named("embed"), block=path),
        branch("embed", "add", path=path, gate=1.0),
    ):
        with pytest.raises(tg.RefusedError, match=message):
            tg.score(traced, batches, F.mse_loss, [ask], scorer="wasserstein")
