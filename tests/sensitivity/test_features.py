"""Random features, against explicit ones, parabolas of the loss, and a plateau."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, data, make, places_of
from tests.virtual_maps import layers_of_each, losses, regression
from topograph.sensitivity import mean_loss
from topograph.sensitivity.newton import RIDGE

BLOCKS = {
    "bottleneck": tg.Bottleneck(units=4),
    "bottleneck with norm": tg.Bottleneck(units=3, norm=True, activation="silu"),
    "conv in": tg.ConvBottleneck(units=3, activation="tanh"),
    "conv out": tg.ConvBottleneck(units=2, spatial="out"),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def scores_of(traced, batches, wanted, loss=F.cross_entropy, **options):
    return tg.score(traced, batches, loss, wanted, scorer="features", **options)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", NETS)
def test_a_start_at_step_0_keeps_the_function_and_units_read_alike(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 4)
    before = mean_loss(traced, batches, F.cross_entropy)
    wanted = [c for edges in (0, 1) for c in places_of(traced, BLOCKS[block], edges=edges)]
    found = scores_of(traced, batches, wanted)
    assert len(found) == len(wanted)
    several, after = layers_of_each(traced, [score.mutation for score in found], found)
    heard = [[] for _ in found]
    for layers, own in zip(several, heard, strict=True):
        layers.reduce.register_forward_hook(lambda _m, _i, out, own=own: own.append(out))
    kept = sum(F.cross_entropy(after(x), y).item() for x, y in batches) / len(batches)
    assert kept == before  # every bit
    for score, layers, own in zip(found, several, heard, strict=True):
        assert (score.order, score.unit) == (0, "loss")
        units = own[0] if "Conv" not in type(layers.reduce).__name__ else own[0].movedim(1, -1)
        spread = units.detach().flatten(0, -2).square().mean(0).sqrt()
        usual = torch.isclose(spread, torch.full_like(spread, 0.7), rtol=1e-6)
        assert (spread < 0.7 * (1 + 1e-6)).all()
        assert usual.sum() >= len(usual) - 1


def test_the_value_is_the_newton_decrement_of_explicit_features():
    traced, batches = regression(samples=24)
    block = tg.Bottleneck(units=5, activation="tanh")
    change = tg.InsertLayer(where=tg.named("input_1"), block=block)
    (score,) = scores_of(traced, batches, [change], F.mse_loss)
    rows = torch.cat([score.start["reduce.weight"], score.start["reduce.bias"][:, None]], 1)
    weight = traced.module.get_parameter("1.weight") @ traced.module.get_parameter("0.weight")

    def features(x):
        return torch.tanh(torch.cat([x, x.new_ones(len(x), 1)], 1) @ rows.T)

    # by hand: the best damped map for all, what halves say across, and the curvature along it
    weight = weight.detach()

    def correlation(half):
        x, y = (torch.cat(parts) for parts in zip(*half, strict=True))
        return (-2 * (traced.module(x) - y).detach() @ weight).T @ features(x) / len(x)

    def ridged(matrix):
        return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix)).double()

    every = features(torch.cat([x for x, _ in batches]))
    outer, inner = ridged(2 * weight.T @ weight), ridged(every.T @ every / len(every))

    def best(matrix):
        return torch.linalg.inv(outer) @ matrix @ torch.linalg.inv(inner)

    first, second = correlation(batches[:3]), correlation(batches[3:])
    whole = best((first + second) / 2)
    across = ((best(first) * second).sum() + (best(second) * first).sum()).item() / 2
    model = torch.trace(whole.T @ outer @ whole @ inner).item()
    slopes, bends = [], []
    for x, y in batches:
        moved = features(x) @ whole.T @ weight.T
        residual = (traced.module(x) - y).detach()
        slopes.append(-2 * (residual * moved).mean().item())
        bends.append(2 * moved.square().mean().item())
    slopes, bend = torch.tensor(slopes, dtype=torch.float64), sum(bends) / 6
    assert score.value == pytest.approx(across * model / bend / 2, rel=1e-8)
    assert score.error == pytest.approx(model / bend * slopes.std().item() / 6**0.5, rel=1e-8)
    assert torch.allclose(score.direction["expand.weight"], whole * abs(across) / bend, rtol=1e-7)
    # the loss of all batches falls at first as the score says, and then less: it was fitted to them
    before, little = losses(traced, score, batches, (0, 1e-4), F.mse_loss)
    assert little - before == pytest.approx(score.predicted(1e-4), rel=1e-3)


@pytest.mark.parametrize("block", ["conv in", "conv out", "bottleneck with norm"])
def test_the_parabola_of_every_layout(block):
    """A net that is linear behind the place, with one output, has the curvature exactly."""
    torch.manual_seed(0)
    images = block.startswith("conv")
    layers = [nn.Flatten(), nn.Linear(3 * 5, 1)] if images else [nn.Linear(5, 1)]
    net = nn.Sequential(nn.Conv1d(3, 3, 1) if images else nn.Linear(5, 5), *layers).double()
    batches = []
    for _ in range(4):
        x = torch.randn(40, *([3, 5] if images else [5])).double()
        batches.append((x, x.flatten(1).square().sum(1, keepdim=True)))
    traced = tg.trace(net, batches[0][:1])
    change = tg.InsertLayer(where=tg.named("0"), block=BLOCKS[block])
    (score,) = scores_of(traced, batches, [change], F.mse_loss)
    assert score.value > 0
    low, middle, high = losses(traced, score, batches, (0.0, 0.5, 1.0), F.mse_loss)
    slope, curvature = 3 * low + high - 4 * middle, 4 * (low + high - 2 * middle)
    assert slope == pytest.approx(2 * score.value, rel=1e-8)
    assert 0 < curvature < slope  # the step is not longer than what halves say across


def plateau():
    """A small net that no gradient moves any more, and its data."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    x = 4 * torch.rand(512, 2).double() - 2
    y = (2 * x[:, :1]).sin() * x[:, 1:] + x[:, :1].square()
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=5000, tolerance_grad=1e-10, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    assert max(p.grad.abs().max() for p in net.parameters()) < 1e-6
    assert closure() > 0.1  # far from a fit
    return tg.trace(net, (x,)), list(zip(x.split(32), y.split(32), strict=True))


def test_at_a_plateau_features_do_not_vanish():
    traced, batches = plateau()
    whole = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=16, activation="tanh"))
    raw = tg.score(traced, batches, F.mse_loss, [whole])
    found = scores_of(traced, batches, [whole], F.mse_loss)
    before = mean_loss(traced, batches, F.mse_loss)
    assert len(raw) == len(found) == 4
    assert max(score.value for score in raw) < 1e-6 * before
    best = found[0]
    assert best.value > 0.1 * before
    assert best.value > 2 * best.error
    at_0, little, whole_step = losses(traced, best, batches, (0, 0.1, 1), F.mse_loss)
    assert at_0 == before
    assert whole_step < little < before
    # a Newton step that is linear in the states finds nothing here either
    flat = tg.score(traced, batches, F.mse_loss, [whole], scorer="natural")
    assert max(score.value for score in flat) < 0.01 * before


@pytest.mark.parametrize(("count", "said"), [(1, "there are 1"), (0, "there are 0")])
def test_too_few_batches(count, said):
    wanted = [tg.InsertLayer(where=tg.named("linear_2"), block=BLOCKS["bottleneck"])]
    with pytest.raises(
        tg.ShapeError, match=f"features fits on each half .*; {said}: give at least"
    ):
        scores_of(make("mlp"), data("mlp", count), wanted)


def test_infinite_states_are_named():
    change = [tg.InsertLayer(where=tg.named("input_1"), block=BLOCKS["bottleneck"])]
    huge = [(x * 1e200, y) for x, y in data("mlp", 2)]
    with pytest.raises(tg.NonFiniteError, match="covariance at bottleneck after input_1 cannot be"):
        scores_of(make("mlp"), huge, change)


def test_what_has_no_new_units():
    change = tg.AddBranch(source="tanh", target="tanh_1")
    with pytest.raises(tg.RefusedError, match="tanh_1: features knows no add_branch; score insert"):
        scores_of(make("residual"), data("residual", 2), [change])
