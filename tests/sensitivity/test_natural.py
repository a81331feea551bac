"""The natural gradient of a candidate, against dense matrices and finite differences."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, data, make, places_of
from tests.virtual_maps import losses, losses_each, regression
from topograph.rewrite.blocks import ACTIVATIONS
from topograph.sensitivity import mean_loss, natural
from topograph.sensitivity.factored import probe_of
from topograph.sensitivity.newton import Step
from topograph.sensitivity.tape import sweep
from topograph.sensitivity.virtual import DEVIATION, answered, arrived, seen

BLOCKS = {
    "bottleneck": tg.Bottleneck(units=3, activation="tanh"),
    "bottleneck with norm": tg.Bottleneck(units=2, norm=True),
    "linear": tg.Linear(),
    "linear without bias": tg.Linear(bias=False),
    "conv in": tg.ConvBottleneck(units=2, activation="tanh"),
    "conv out": tg.ConvBottleneck(units=3, activation="silu", spatial="out"),
    "conv both": tg.ConvBottleneck(units=2, activation="tanh", spatial="both"),
    "pairs": tg.Bottleneck(units=4, activation="relu"),
    "conv pairs": tg.ConvBottleneck(units=2, activation="relu"),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def score_of(traced, batches, change, loss=F.cross_entropy, **options):
    return tg.score(traced, batches, loss, [change], scorer="natural", **options)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", NETS)
def test_a_start_at_step_0_keeps_the_function_and_then_follows_the_parabola(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 4)
    found = tg.score(
        traced, batches, F.cross_entropy, places_of(traced, BLOCKS[block]), scorer="natural"
    )
    before = mean_loss(traced, batches, F.cross_entropy)
    assert found
    steps = losses_each(traced, found, batches, (0, 1e-7, -1e-7), F.cross_entropy)
    for score, (at_0, up, down) in steps:
        assert score.order == 0
        assert at_0 == before
        slope = (down - up) / 2e-7
        assert slope == pytest.approx(slope_of(traced, score, batches), rel=1e-3, abs=1e-7)
        if block.startswith("linear") and score.value < 0.9 * before:  # not cut off at the loss
            assert slope == pytest.approx(2 * abs(score.value), rel=1e-3, abs=1e-7), score


def slope_of(traced, score, batches):
    """Return what arrives at the units of a start times what they answer, by the layers alone."""
    step, slopes = step_of(score), []

    def listen(state, adjoint):
        made = answered(score.mutation)(seen(score.mutation, step, state))
        slopes.append((made * arrived(score.mutation, step, adjoint)).sum().item())

    sweep(traced, batches, F.cross_entropy, [probe_of(score.mutation, listen)])
    return sum(slopes) / len(batches)


def step_of(score):
    """Return the map that a start's layers make to first order, from their weights."""
    parts = score.start | score.direction
    if "linear.weight" in parts:
        whole = parts["linear.weight"]
        if "linear.bias" in parts:
            whole = torch.cat([whole, parts["linear.bias"][:, None]], 1)
        return Step(whole, torch.eye(whole.shape[1]).to(whole))
    activation = ACTIVATIONS[score.mutation.block.activation]()
    around = torch.tensor([1e-6, -1e-6], dtype=torch.float64)  # ReLU has two slopes
    slope = (activation(around).diff() / around.diff()).item()
    right = torch.cat([parts["reduce.weight"].flatten(1), parts["reduce.bias"][:, None]], 1)
    left = parts["expand.weight"].movedim(1, -1).flatten(0, -2)
    return Step(left * DEVIATION * slope, right / DEVIATION)


def test_the_value_is_the_decrement_across_halves():
    traced, batches = regression(count=8)
    change = tg.InsertLayer(where=tg.named("input_1"), block=tg.Linear())
    (score,) = score_of(traced, batches, change, F.mse_loss)
    part = batches[::2]  # two of each half of four
    weight = (
        traced.module.get_parameter("1.weight") @ traced.module.get_parameter("0.weight")
    ).detach()
    x = torch.cat([x for x, _ in part])
    outer, inner = ridged(2 * weight.T @ weight), ridged(with_ones(x).T @ with_ones(x) / len(x))
    first, second = (correlation(half, traced, weight) for half in (batches[:4], batches[4:]))

    def best(matrix):
        return torch.linalg.inv(outer) @ matrix @ torch.linalg.inv(inner)

    whole = best((first + second) / 2)
    across = ((best(first) * second).sum() + (best(second) * first).sum()).item() / 2
    model = torch.trace(whole.T @ outer @ whole @ inner).item()
    slopes, curvatures = [], []
    for x, y in part:
        moved = with_ones(x) @ whole.T @ weight.T
        slopes.append(-2 * ((traced.module(x) - y).detach() * moved).mean())
        curvatures.append(2 * moved.square().mean())
    curvature = torch.stack(curvatures).mean().item()
    assert score.value == pytest.approx(across * model / curvature / 2, rel=1e-6)
    error = model / curvature * torch.stack(slopes).std().item() / 8**0.5
    assert score.error == pytest.approx(error, rel=1e-6)
    length = abs(across) / curvature
    assert torch.allclose(score.direction["linear.weight"], length * whole[:, :-1], rtol=1e-6)


def with_ones(x):
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def ridged(matrix):
    return matrix + 0.01 * matrix.diagonal().mean() * torch.eye(len(matrix)).double()


def correlation(batches, traced, weight):
    """Return M of some batches of a linear net with one output."""
    x, residual = (
        torch.cat(parts)
        for parts in zip(*((x, traced.module(x) - y) for x, y in batches), strict=True)
    )
    return (-2 * residual.detach() @ weight).T @ with_ones(x) / len(x)


def test_where_there_is_only_noise_scores_are_as_often_below_0():
    net = nn.Linear(4, 3, bias=False).double()
    traced = tg.trace(net, (torch.zeros(2, 4, dtype=torch.float64),))
    change = tg.InsertLayer(where=tg.named("input_1"), block=tg.Bottleneck(units=2))
    found = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4, 16, 4, generator=generator, dtype=torch.float64)
        noise = torch.randn(4, 16, 3, generator=generator, dtype=torch.float64)
        batches = list(zip(x, (net(x) + noise).detach(), strict=True))
        found.append(score_of(traced, batches, change, F.mse_loss)[0])
    values = torch.tensor([score.value for score in found])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5
    assert 15 <= (values < 0).sum() <= 45  # 30 on average; beyond in 1 of 10,000 cases
    errors = torch.tensor([score.error for score in found])
    assert 0.3 < values.std() / errors.mean() < 3


def test_ranks_that_hear_the_same_score_as_one_of_them():
    traced, batches = make("cnn"), data("cnn", 4)
    change = tg.InsertLayer(where=tg.all(), block=tg.ConvBottleneck(units=2))
    alone = {s.mutation: s for s in score_of(traced, batches, change)}
    for score in score_of(traced, batches, change, reduce=lambda total: 2 * total):
        assert score.value == pytest.approx(alone[score.mutation].value, rel=1e-9)
        assert score.error < alone[score.mutation].error  # there are twice as many batches


def test_units_read_with_a_root_mean_square_of_seven_tenths():
    traced, batches = make("mlp"), data("mlp", 6)
    change = tg.InsertLayer(where=tg.named("linear_2"), block=tg.Bottleneck(units=3))
    (score,) = score_of(traced, batches, change)
    revision = tg.apply(traced, tg.plan(traced, [change]), directions=[score], step=0)
    block = revision.after.module.get_submodule(revision.plan.changes[0].path)
    reads = []
    block.reduce.register_forward_hook(lambda _m, _i, output: reads.append(output.detach()))
    for inputs, _ in batches:
        revision.after.module(inputs)
    spread = torch.cat(reads).square().mean(0).sqrt()
    assert torch.allclose(spread, torch.full_like(spread, 0.7), rtol=1e-9)


def test_the_value_of_a_gate():
    traced, batches = regression()
    wide = tg.apply(
        traced,
        tg.plan(traced, [tg.InsertLayer(where=tg.named("linear_0"), block=tg.Linear())]),
    ).after
    change = tg.AddBranch(source="linear_0", target=wide.topology.nodes[-3].name)
    (score,) = score_of(wide, batches, change, F.mse_loss)
    assert set(score.direction) == {"gate"}
    # from three points of each half's parabola along the gate: its slope, and the curvature
    slopes, curvatures = [], []
    for half in (batches[:3], batches[3:]):
        low, middle, high = losses(wide, score, half, (0.0, 0.5, 1.0), F.mse_loss)
        slopes.append(3 * low + high - 4 * middle)
        curvatures.append(4 * (low + high - 2 * middle))
    expected = slopes[0] * slopes[1] / sum(curvatures)
    assert score.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (1, "natural fits on each half of the batches and measures on the other; there are 1"),
        (0, "there are 0: give at least 2"),
    ],
)
def test_too_few_batches(batches, message):
    traced = make("mlp")
    change = tg.InsertLayer(where=tg.named("linear_2"), block=tg.Bottleneck(units=3))
    with pytest.raises(tg.ShapeError, match=message):
        score_of(traced, data("mlp", batches), change)


def test_two_outputs_have_no_one_curvature():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.a(x), self.b(x)

    batches = [(torch.randn(3, 4), torch.randn(3, 2)) for _ in range(2)]
    traced = tg.trace(Two(), batches[0][:1])
    change = tg.InsertLayer(where=tg.named("x"), block=tg.Linear())
    with pytest.raises(tg.ShapeError, match="the model has 2 outputs with a gradient; this"):
        score_of(traced, batches, change, lambda out, y: F.mse_loss(out[0] + out[1], y))


def test_no_decrease_is_above_the_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()
    batches = []
    for _ in range(4):
        x = torch.randn(64, 3).double()
        batches.append((x, 1e-3 * (x[:, :2])))
    traced = tg.trace(net, batches[0][:1])
    change = tg.InsertLayer(where=tg.all(), block=tg.Linear())
    before = mean_loss(traced, batches[2:], F.mse_loss)
    found = score_of(traced, batches, change, F.mse_loss)
    assert all(score.value <= before * (1 + 1e-12) for score in found)
    assert found[0].value > 0.85 * before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (tg.AddBranch(source="tanh", target="tanh_1", gate=0.5), "natural knows no add_branch of"),
        (tg.WidenLayer(where=tg.named("first"), to=8), "natural knows no widen_layer; score"),
        (
            tg.InsertLayer(where=tg.named("add"), block=tg.SelfAttention(units=2, heads=1)),
            "natural knows no block self_attention; score insert_layer with a bottleneck",
        ),
    ],
)
def test_refusals_name_the_scorer(change, said):
    assert said in str(natural.refusal(change))
