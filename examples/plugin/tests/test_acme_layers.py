"""Both kinds keep the function, learn, can be undone, and refuse what they cannot do."""

# ruff: noqa: D103
import pytest
import torch
from acme_layers.records import Gated, ScaleLayer
from torch import nn
from torch.nn import functional as F

import topograph as tg

SCALE = ScaleLayer(where=tg.after(op="relu"))
GATED = tg.InsertLayer(where=tg.after(op="relu"), block=Gated(units=3))


@pytest.fixture
def traced():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return tg.trace(model, (torch.randn(5, 4),))


@pytest.mark.parametrize(("mutation", "parameters"), [(SCALE, 1), (GATED, 6 * 6 + 6 + 3 * 6)])
def test_it_keeps_the_function_and_can_be_undone(traced, mutation, parameters):
    x = torch.randn(7, 4)
    before = traced.module(x)
    revision = tg.apply(traced, tg.plan(traced, [mutation]))
    after = revision.after
    assert after.topology.parameter_count - traced.topology.parameter_count == parameters
    assert torch.equal(after.module(x), before)
    assert not tg.plan(after, [mutation])
    assert tg.undo(revision).topology == traced.topology
    assert torch.equal(traced.module(x), before)


def test_the_factor_scales_and_learns(traced):
    network = tg.recompile(tg.apply(traced, tg.plan(traced, [SCALE])).after)
    first, _, last = (network.get_submodule(path) for path in ("0", "1", "2"))
    factor = network.get_parameter("scale_1.factor")
    x = torch.randn(5, 4)
    with torch.no_grad():
        factor.fill_(3.0)
    torch.testing.assert_close(network(x), last(3 * F.relu(first(x))))
    network(x).sum().backward()
    assert factor.grad.abs() > 0


def test_the_block_computes_what_it_says(traced):
    after = tg.apply(traced, tg.plan(traced, [GATED])).after
    network = after.module
    part = network.get_submodule("gated_1")
    torch.nn.init.normal_(part["close"].weight)
    h = F.relu(network.get_submodule("0")(x := torch.randn(5, 4)))
    a, b = part["open"](h).chunk(2, -1)
    expected = network.get_submodule("2")(h + part["close"](a * b.sigmoid()))
    torch.testing.assert_close(network(x), expected)


def test_what_cannot_be_scaled_is_refused(traced):
    with pytest.raises(tg.RefusedError, match="a factor scales a whole value, not one use"):
        tg.plan(traced, [ScaleLayer(where=tg.between("relu_1", "linear_2"))])
    with pytest.raises(tg.SelectorError, match="no node has the operation 'gelu'"):
        tg.plan(traced, [ScaleLayer(where=tg.after(op="gelu"))])


def test_the_block_wants_its_channels_last():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    traced = tg.trace(model, (torch.zeros(2, 1, 3, 3),))
    with pytest.raises(tg.RefusedError, match="here are batch, channel, space, space"):
        tg.plan(traced, [GATED])
