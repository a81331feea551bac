"""GradMax, against autograd, a dense SVD and random starts."""

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import FEW, data, make, places_of
from tests.virtual_maps import falls_each, gradients_of, layers_of, layers_of_each
from topograph.sensitivity import mean_loss
from topograph.sensitivity.closed_forms import SLOPES

BLOCKS = {
    "bottleneck": tg.Bottleneck(units=2),
    "one unit": tg.Bottleneck(units=1, activation="tanh"),
    "bottleneck with norm": tg.Bottleneck(units=3, norm=True, activation="silu"),
    "more units than rank": tg.Bottleneck(units=9, activation="tanh"),
    "conv in": tg.ConvBottleneck(units=2),
    "conv out": tg.ConvBottleneck(units=3, activation="silu", spatial="out"),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def scores_of(traced, batches, wanted, **options):
    return tg.score(traced, batches, F.cross_entropy, wanted, scorer="gradmax", **options)


def loss_of(after, batches):
    return sum(F.cross_entropy(after(x), y) for x, y in batches) / len(batches)


def gradients(layers, loss):
    wanted = [layers.reduce.weight, layers.reduce.bias, layers.expand.weight]
    return torch.autograd.grad(loss, wanted, retain_graph=True)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", FEW)
def test_the_start_has_that_gradient_and_keeps_the_function(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 2)
    before = mean_loss(traced, batches, F.cross_entropy)
    wanted = [c for edges in (0, 1) for c in places_of(traced, BLOCKS[block], edges=edges)]
    found = scores_of(traced, batches, wanted)
    assert len(found) == len(wanted)
    several, after = layers_of_each(traced, [score.mutation for score in found], found)
    kept = loss_of(after, batches)
    assert kept.item() == before  # every bit
    for score, layers in zip(found, several, strict=True):
        rows, bias, columns = gradients(layers, kept)
        units = len(score.direction["reduce.bias"])
        real = torch.cat([rows.flatten(1), bias[:, None]], 1)[:units]
        assert real.norm().item() == pytest.approx(score.value, rel=1e-9, abs=1e-15)
        assert not columns[:, :units].any()
        moved = torch.cat(
            [score.direction["reduce.weight"].flatten(1), score.direction["reduce.bias"][:, None]],
            1,
        )
        assert torch.allclose(score.value * moved, -real, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", ["mlp", "cnn", "vit"])
def test_the_value_is_that_of_the_largest_singular_values(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches, form = make(net), data(net, 2), BLOCKS[block]
    found = scores_of(traced, batches, places_of(traced, form))
    matrices = gradients_of(traced, [s.mutation for s in found], batches, F.cross_entropy)
    for score, dense in zip(found, matrices, strict=True):
        largest = torch.linalg.svdvals(dense)[: form.units]
        expected = SLOPES[form.activation] * largest.norm().item()
        assert score.value == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_no_other_orthonormal_columns_have_a_larger_gradient():
    traced, batches = make("mlp"), data("mlp", 2)
    change = places_of(traced, tg.Bottleneck(units=2))[2]
    (score,) = scores_of(traced, batches, [change])
    layers, after = layers_of(traced, score.mutation, [score])
    torch.manual_seed(0)
    sizes = []
    for _ in range(50):
        with torch.no_grad():
            columns = torch.linalg.qr(torch.randn_like(layers.expand.weight)).Q
            layers.expand.weight.copy_(columns)
        rows, bias, _ = gradients(layers, loss_of(after, batches))
        sizes.append((rows.square().sum() + bias.square().sum()).sqrt().item())
    assert max(sizes) <= score.value * (1 + 1e-12)
    assert max(sizes) > 0.5 * score.value


@pytest.mark.parametrize("net", ["mlp", "residual", "vit"])
def test_the_loss_falls_by_the_value_per_step(net):
    traced, batches = make(net), data(net, 2)
    found = scores_of(traced, batches, places_of(traced, tg.Bottleneck(units=2)))
    for score, (far, near) in falls_each(traced, found, batches, 1e-4, 1e-5):
        assert score.order == 1
        assert far == pytest.approx(score.value, rel=2e-3)
        assert near == pytest.approx(score.value, rel=2e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            tg.InsertLayer(where=tg.named("first"), block=tg.Linear()),
            "first: gradmax knows no block linear; score insert_layer with a bottleneck or conv_b",
        ),
        (
            tg.AddBranch(source="tanh", target="tanh_1"),
            "tanh_1: gradmax knows no add_branch; score insert_layer, or use another scorer",
        ),
    ],
)
def test_what_has_no_new_units(change, message):
    traced = make("residual")
    with pytest.raises(tg.RefusedError, match=message):
        scores_of(traced, data("residual"), [change])
