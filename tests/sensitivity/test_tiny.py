"""TINY, against least squares, a dense SVD and finite differences."""

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import FEW, data, make, places_of
from tests.virtual_maps import gradients_of, losses_each
from topograph.sensitivity import mean_loss
from topograph.sensitivity.closed_forms import SLOPES
from topograph.sensitivity.newton import RIDGE
from topograph.sensitivity.tape import Probe, sweep

BLOCKS = {
    "bottleneck": tg.Bottleneck(units=2, activation="tanh"),
    "bottleneck with norm": tg.Bottleneck(units=3, norm=True, activation="tanh"),
    "more units than rank": tg.Bottleneck(units=9, activation="tanh"),
    "conv in": tg.ConvBottleneck(units=2, activation="tanh"),
    "conv out": tg.ConvBottleneck(units=3, activation="tanh", spatial="out"),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def scores_of(traced, batches, wanted, **options):
    return tg.score(traced, batches, F.cross_entropy, wanted, scorer="tiny", **options)


def states_of(traced, batches, mutation):
    """Return the states [samples, positions, channels] and q alike, of all batches."""
    where, heard = mutation.where, []
    listen = Probe(where, where.node, lambda x, p: heard.append((x, len(x) * p)))
    sweep(traced, batches, F.cross_entropy, [listen])
    if isinstance(mutation.block, tg.ConvBottleneck):
        heard = [(x.flatten(2).mT, q.flatten(2).mT) for x, q in heard]
    return [
        torch.cat(parts).flatten(1, -2) if parts[0].ndim > 2 else torch.cat(parts)[:, None]
        for parts in zip(*heard, strict=True)
    ]


@pytest.mark.parametrize("net", ["mlp", "residual", "vit"])
@pytest.mark.parametrize("norm", [True, False])
def test_with_all_units_it_is_the_least_squares_fit_of_the_gradient(net, norm):
    traced, batches = make(net), data(net, 3, size=4)
    block = tg.Bottleneck(units=9, activation="tanh", norm=norm)
    for score in scores_of(traced, batches, places_of(traced, block)):
        x, q = states_of(traced, batches, score.mutation)
        x = F.layer_norm(x, x.shape[-1:]) if norm else x
        x1 = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        samples = len(x)
        second = (x1.mT @ x1).sum(0) / samples
        ridge = RIDGE * second.diagonal().mean()
        # the ridge as more rows of a least-squares problem: |q - A x|² + ridge |A|²
        rows = torch.cat(
            [x1.flatten(0, 1) / samples**0.5, ridge.sqrt() * torch.eye(len(second)).double()]
        )
        wanted = torch.cat([q.flatten(0, 1) / samples**0.5, q.new_zeros(len(second), q.shape[-1])])
        best = torch.linalg.lstsq(rows, wanted).solution.T
        reads = torch.cat(
            [score.direction["reduce.weight"], score.direction["reduce.bias"][:, None]], 1
        )
        assert torch.allclose(score.direction["expand.weight"] @ reads, best, atol=1e-9)
        correlation = (q.mT @ x1).sum(0) / samples
        assert score.value == pytest.approx((best * correlation).sum().item(), rel=1e-6)


@pytest.mark.parametrize("block", ["bottleneck", "bottleneck with norm"])
@pytest.mark.parametrize("net", ["mlp", "vit"])
def test_few_units_are_the_leading_ones_of_the_whitened_correlation(net, block):
    traced, batches, form = make(net), data(net, 3, size=4), BLOCKS[block]
    found = scores_of(traced, batches, places_of(traced, form))
    matrices = gradients_of(traced, [s.mutation for s in found], batches, F.cross_entropy)
    for score, correlation in zip(found, matrices, strict=True):
        x, _ = states_of(traced, batches, score.mutation)
        x = F.layer_norm(x, x.shape[-1:]) if form.norm else x
        x1 = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        second = (x1.mT @ x1).sum(0) / len(x)
        second += RIDGE * second.diagonal().mean() * torch.eye(len(second)).double()
        values, axes = torch.linalg.eigh(second)
        inverse_root = axes / values.sqrt() @ axes.T
        u, s, vh = torch.linalg.svd(correlation @ inverse_root, full_matrices=False)
        few = min(form.units, len(s))
        assert score.value == pytest.approx(s[:few].square().sum().item(), rel=1e-6, abs=1e-15)
        if s[few - 1] < 1e-8:
            continue  # any vector does
        alpha = s[:few, None].sqrt() * (vh[:few] @ inverse_root)
        omega = u[:, :few] * s[:few].sqrt()
        assert torch.allclose(score.direction["expand.weight"].square().sum(0), s[:few], rtol=1e-5)
        reads = torch.cat(
            [score.direction["reduce.weight"], score.direction["reduce.bias"][:, None]], 1
        )
        assert torch.allclose(reads.norm(dim=1), alpha.norm(dim=1), rtol=1e-5)
        assert torch.allclose(
            score.direction["expand.weight"] @ reads, omega @ alpha, rtol=1e-5, atol=1e-9
        )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", FEW)
def test_the_loss_falls_by_the_value_per_squared_step(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 2)
    wanted = [c for edges in (0, 1) for c in places_of(traced, BLOCKS[block], edges=edges)]
    found = scores_of(traced, batches, wanted)
    assert len(found) == len(wanted)
    before = mean_loss(traced, batches, F.cross_entropy)
    steps = losses_each(traced, found, batches, (0, 3e-3), F.cross_entropy)
    for score, (at_0, little) in steps:
        assert at_0 == before
        assert score.order == 2
        assert (before - little) / 9e-6 == pytest.approx(score.value, rel=2e-3, abs=1e-9), score


def test_the_slope_of_the_activation_counts():
    traced, batches = make("mlp"), data("mlp", 2)
    values = {}
    for activation in SLOPES.keys() - {"relu"}:
        block = tg.Bottleneck(units=2, activation=activation)
        values[activation] = scores_of(traced, batches, places_of(traced, block)[3:4])[0].value
    for activation, value in values.items():
        assert value == pytest.approx(SLOPES[activation] * values["tanh"], rel=1e-12)


def test_infinite_states_are_named():
    traced, batches = make("mlp"), data("mlp", 2)
    change = [tg.InsertLayer(where=tg.named("input_1"), block=BLOCKS["bottleneck"])]
    huge = [(x * 1e200, y) for x, y in batches]
    with pytest.raises(tg.NonFiniteError, match="covariance at bottleneck after input_1 cannot"):
        scores_of(traced, huge, change)


def test_what_has_no_new_units():
    change = tg.InsertLayer(where=tg.named("first"), block=tg.Linear())
    with pytest.raises(tg.RefusedError, match="first: tiny knows no block linear; score insert_"):
        scores_of(make("residual"), data("residual"), [change])
