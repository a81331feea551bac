"""The gradient's norm, against autograd through a block that is there."""

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, data, make, places_of
from tests.virtual_maps import gradients_of, layers_of_each

BLOCKS = {
    "bottleneck": tg.Bottleneck(units=3),
    "bottleneck with norm": tg.Bottleneck(units=2, norm=True),
    "conv in": tg.ConvBottleneck(units=2),
    "conv out": tg.ConvBottleneck(units=3, activation="silu", spatial="out"),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def scores_of(traced, batches, wanted, **options):
    return tg.score(traced, batches, F.cross_entropy, wanted, scorer="gradient_norm", **options)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", NETS)
def test_the_value_is_the_norm_of_the_gradient_that_autograd_finds(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 2)
    wanted = [c for edges in (0, 1) for c in places_of(traced, BLOCKS[block], edges=edges)]
    found = scores_of(traced, batches, wanted)
    assert len(found) == len(wanted)
    matrices = gradients_of(traced, [s.mutation for s in found], batches, F.cross_entropy)
    for score, matrix in zip(found, matrices, strict=True):
        assert score.value == pytest.approx(matrix.norm().item(), rel=1e-9, abs=1e-15)
        assert (score.unit, score.order, dict(score.direction)) == ("gradient", 0, {})
        assert score.predicted(0.1) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("net", ["mlp", "residual", "vit"])
def test_a_linear_layer_and_its_bias(net, bias):
    traced, batches = make(net), data(net, 2)
    found = scores_of(traced, batches, places_of(traced, tg.Linear(bias=bias)))
    several, after = layers_of_each(traced, [score.mutation for score in found])
    loss = sum(F.cross_entropy(after(x), y) for x, y in batches) / 2
    for score, layers in zip(found, several, strict=True):
        parts = torch.autograd.grad(loss, list(layers.parameters()), retain_graph=True)
        assert len(parts) == 1 + bias
        expected = torch.cat([part.flatten() for part in parts]).norm().item()
        assert score.value == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_a_gate_is_that_of_the_derivative():
    traced, batches = make("residual"), data("residual", 2)
    gate = [tg.AddBranch(source="tanh", target="tanh_1")]
    (score,) = scores_of(traced, batches, gate)
    (derivative,) = tg.score(traced, batches, F.cross_entropy, gate)
    assert score.value == derivative.value > 0
