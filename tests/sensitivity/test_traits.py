"""Which scorers know ReLU's pairs, two kernels, and one matrix behind a curve."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, places_of
from tests.virtual_maps import falls_each, gradients_of, layers_of_each, losses
from topograph.sensitivity import mean_loss
from topograph.sensitivity.scorers import CURVE, FLAT, KERNELS, PAIRS, SCORERS, traits

BLOCKS = {
    PAIRS: tg.ConvBottleneck(units=4, activation="relu"),
    KERNELS: tg.ConvBottleneck(units=4, spatial="both"),
    CURVE: tg.Linear(activation="silu"),
    FLAT: tg.Linear(activation="z_tanh_z"),
}
FITS = ("topological_derivative", "natural", "wasserstein", "features", "gradient_norm", "gradmax",
        "tiny")  # fmt: skip
REFUSED = {
    ("natural", CURVE), ("natural", FLAT),
    ("features", KERNELS), ("features", CURVE), ("features", FLAT),
    ("gradient_norm", FLAT),
    ("gradmax", PAIRS), ("gradmax", KERNELS), ("gradmax", CURVE), ("gradmax", FLAT),
    ("tiny", PAIRS), ("tiny", KERNELS), ("tiny", CURVE), ("tiny", FLAT),
}  # fmt: skip


@pytest.mark.parametrize("trait", BLOCKS)
@pytest.mark.parametrize("scorer", FITS)
def test_each_scorer_knows_a_block_or_says_why_not(scorer, trait):
    traced, batches, block = make("cnn"), data("cnn", 2), BLOCKS[trait]
    assert traits(block) == (trait,)
    where = tg.at("conv1") if isinstance(block, tg.ConvBottleneck) else tg.at("head")
    change = tg.InsertLayer(where=where, block=block)

    def found():
        return tg.score(traced, batches, F.cross_entropy, [change], scorer=scorer)

    if (scorer, trait) not in REFUSED:
        assert math.isfinite(found()[0].value)
    elif trait in SCORERS[scorer].unknown:
        message = f"{scorer} knows no {trait}; use topological_derivative, or score another block"
        with pytest.raises(tg.RefusedError, match=message):
            found()
    else:
        with pytest.raises(tg.RefusedError, match=f"{scorer} knows no block linear; score insert"):
            found()


@pytest.mark.parametrize("scorer", ["first", "last", "random"])
def test_rules_of_places_know_all_blocks(scorer):
    traced, batches = make("mlp"), data("mlp", 2)
    wanted = [c for block in (BLOCKS[FLAT], tg.Bottleneck(units=2, activation="relu"))
              for c in places_of(traced, block)]  # fmt: skip
    assert len(tg.score(traced, batches, F.cross_entropy, wanted, scorer=scorer)) == len(wanted)


def test_plain_blocks_have_no_traits():
    for block in (tg.Bottleneck(units=3), tg.ConvBottleneck(units=2), tg.Linear()):
        assert traits(block) == ()


@pytest.mark.parametrize("trait", [PAIRS, KERNELS])
def test_the_norm_of_the_gradient_of_two_layers(trait):
    traced, batches = make("cnn"), data("cnn", 2)
    places = places_of(traced, BLOCKS[trait]) + places_of(traced, BLOCKS[trait], edges=True)[::3]
    found = tg.score(traced, batches, F.cross_entropy, places, scorer="gradient_norm")
    matrices = gradients_of(traced, [s.mutation for s in found], batches, F.cross_entropy)
    for score, matrix in zip(found, matrices, strict=True):
        assert score.value == pytest.approx(matrix.norm().item(), rel=1e-9)


def test_features_of_relu_bring_about_what_they_foretell():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1)).double()
    batches = [(x, x.square().sum(1, keepdim=True)) for x in torch.randn(8, 40, 5).double()]
    traced = tg.trace(net, batches[0][:1])
    block = tg.Bottleneck(units=6, activation="relu")
    change = tg.InsertLayer(where=tg.at("linear_0"), block=block)
    (score,) = tg.score(traced, batches, F.mse_loss, [change], scorer="features")
    loss = losses(traced, score, batches, (0, 1.0), F.mse_loss)
    assert loss[0] == mean_loss(traced, batches, F.mse_loss)  # a step of 0 keeps the function
    assert loss[1] - loss[0] == pytest.approx(score.predicted(1.0), rel=0.3)
    assert score.value > loss[0] / 4


def test_transport_of_one_matrix_behind_a_curve():
    """As without one, but that the slope at 0 makes the same move half as long."""
    traced, batches = make("residual"), data("residual", 2)
    options = {"scorer": "wasserstein"}
    for activation, slope in (("tanh", 1.0), ("gelu", 0.5)):
        for place in places_of(traced, tg.Linear())[1:4]:
            block = tg.Linear(activation=activation)
            change = place.model_copy(update={"block": block})
            (plain,) = tg.score(traced, batches, F.cross_entropy, [place], **options)
            (found,) = tg.score(traced, batches, F.cross_entropy, [change], **options)
            rates = [tg.score(traced, batches, F.cross_entropy, [m])[0] for m in (place, change)]
            assert rates[1].value == pytest.approx(slope * rates[0].value, rel=1e-9)
            assert 0 < found.value <= rates[1].value
            assert found.value >= slope * plain.value * (1 - 1e-9)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu"])
@pytest.mark.parametrize("net", ["mlp", "vit"])
def test_one_matrix_behind_a_curve_is_of_first_order(net, activation):
    traced, batches = make(net), data(net, 2)
    block = tg.Linear(activation=activation)
    places = places_of(traced, block)[:4] + places_of(traced, block, edges=True)[3:6]
    scores = tg.score(traced, batches, F.cross_entropy, places)
    several, after = layers_of_each(traced, [score.mutation for score in scores])
    loss = sum(F.cross_entropy(after(x), y) for x, y in batches) / len(batches)
    falls = falls_each(traced, scores, batches, 1e-5)
    for layers, (score, (fall,)) in zip(several, falls, strict=True):
        wanted = [layers.linear.weight, layers.linear.bias]
        parts = torch.autograd.grad(loss, wanted, retain_graph=True)
        whole = torch.cat([parts[0], parts[1][:, None]], 1)
        assert score.order == 1
        assert score.value == pytest.approx(whole.norm().item(), rel=1e-9)
        unit = -whole / whole.norm()
        torch.testing.assert_close(score.direction["linear.weight"], unit[:, :-1])
        torch.testing.assert_close(score.direction["linear.bias"], unit[:, -1])
        assert fall == pytest.approx(score.value, rel=1e-3)


def test_two_kernels_on_too_many_channels_are_refused():
    wide = nn.Sequential(nn.Conv2d(1, 500, 1), nn.Flatten(), nn.Linear(2000, 2))
    x = torch.zeros(2, 1, 2, 2)
    traced = tg.trace(wide, (x,))
    change = tg.InsertLayer(where=tg.at("conv2d_0"), block=BLOCKS[KERNELS])
    branch = tg.AddBranch(source="conv2d_0", target="conv2d_0", path=BLOCKS[KERNELS], gate=1.0)
    for mutation in (change, branch):
        known = SCORERS["topological_derivative"].refusal_at(traced, mutation)
        message = "two kernels of 3 have 4,500 taps each on 500 channels, and all pairs of them"
        assert message in str(known)
    small = change.model_copy(
        update={"block": tg.ConvBottleneck(units=1, kernel=1, spatial="both")}
    )
    assert SCORERS["gradient_norm"].refusal_at(traced, small) is None
    with pytest.raises(tg.RefusedError, match="more than 16,777,216 numbers; give spatial="):
        tg.score(traced, [(x, torch.zeros(2).long())], F.cross_entropy, [change])
