"""Directions that were scored on another network, or are no scores, are refused as a whole."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from topograph.rewrite.blocks import UNITS, check_start

BEHIND = tg.named("1")
CHANGES = {
    "bottleneck": tg.InsertLayer(where=BEHIND, block=tg.Bottleneck(units=4)),
    "normed": tg.InsertLayer(where=BEHIND, block=tg.Bottleneck(units=4, norm=True)),
    "linear": tg.InsertLayer(where=BEHIND, block=tg.Linear()),
    "attention": tg.InsertLayer(where=BEHIND, block=tg.SelfAttention(units=2, heads=2)),
    "path": tg.AddBranch(source="tanh_1", target="tanh_3", path=tg.Bottleneck(units=4), gate=1),
    "new units": tg.WidenLayer(where=tg.named("4"), to=12),
    "halves": tg.WidenLayer(where=tg.named("4"), to=12, how="split"),
}
CONVOLUTIONS = {
    spatial: tg.InsertLayer(where=BEHIND, block=tg.ConvBottleneck(units=4, spatial=spatial))
    for spatial in ("in", "out")
}


def dense(width):
    """Return a network of one width on tokens, and a batch."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    layers += [nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 2)]
    batch = torch.randn(3, 6, 5), torch.randn(3, 6, 2)
    return tg.trace(nn.Sequential(*layers), batch[:1]), batch


def convolved(width):
    torch.manual_seed(0)
    batch = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    net = nn.Sequential(nn.Conv2d(2, width, 1), nn.Tanh(), nn.Conv2d(width, 2, 1))
    return tg.trace(net, batch[:1]), batch


def applied(made, change, widths, edit=lambda score: score):
    """Apply a change to a network of one width with the score of one of another width."""
    traced, (of, batch) = made(widths[0])[0], made(widths[1])
    (score,) = tg.score(of, [batch], F.mse_loss, [change])[:1]
    plan = tg.plan(traced, [score.mutation])
    return tg.apply(traced, plan, directions=[edit(score)])


@pytest.mark.parametrize("widths", [(20, 12), (12, 20)])
@pytest.mark.parametrize("name", [*CHANGES, *CONVOLUTIONS])
def test_a_score_of_another_width_is_refused(name, widths):
    made, table = (dense, CHANGES) if name in CHANGES else (convolved, CONVOLUTIONS)
    change = table[name]
    assert applied(made, change, [widths[0]] * 2).diff
    with pytest.raises(tg.ShapeError, match=r"a direction of shape .* does not fit .*; score this"):
        applied(made, change, widths)


@pytest.mark.parametrize("name", ["bottleneck", "attention"])
def test_fewer_units_are_written_and_more_are_not(name):
    def cut(score):
        parts = {}
        for path, part in score.direction.items():
            axis = UNITS[path.split(".")[-2]]
            parts[path] = part.narrow(axis, 0, 1)
        return replace(score, direction=parts)

    def doubled(score):
        parts = {}
        for path, part in score.direction.items():
            axis = UNITS[path.split(".")[-2]]
            parts[path] = torch.cat([part] * 8, axis)
        return replace(score, direction=parts)

    assert applied(dense, CHANGES[name], (12, 12), cut).diff
    with pytest.raises(tg.ShapeError, match="does not fit"):
        applied(dense, CHANGES[name], (12, 12), doubled)


def test_the_layers_of_a_plugin_may_be_short_on_any_axis_but_not_long():
    layers = nn.ModuleDict({"mine": nn.Linear(3, 4)})
    check_start(layers, {"mine.weight": torch.zeros(4, 1), "mine.bias": torch.zeros(2)}, "new")
    with pytest.raises(tg.ShapeError, match=r"^new.mine.weight: a direction of shape \[5, 1\] doe"):
        check_start(layers, {"mine.weight": torch.zeros(5, 1)}, "new")


def test_what_is_no_list_of_scores_is_refused():
    traced, batch = dense(12)
    scores = tg.score(traced, [batch], F.mse_loss, [CHANGES["bottleneck"]])
    plan = tg.plan(traced, [scores[0].mutation])
    for wrong, message in [
        (scores[0], "^directions is a Score; give a list of scores, e.g. of tg.score$"),
        (3, "^directions is a int; give a list of scores"),
        ([scores[0], plan], "^directions holds a Plan; give a list of scores"),
        ("auto", "^directions holds a str; give a list of scores"),
    ]:
        with pytest.raises(tg.ShapeError, match=message):
            tg.apply(traced, plan, directions=wrong)


def test_scores_may_come_one_at_a_time():
    traced, batch = dense(12)
    scores = tg.score(traced, [batch], F.mse_loss, [CHANGES["bottleneck"]])[:1]
    plan = tg.plan(traced, [scores[0].mutation])
    once, twice = (
        tg.apply(traced, plan, directions=given).after.module.state_dict()
        for given in (scores, (score for score in scores))
    )
    bare = tg.apply(traced, plan).after.module.state_dict()
    assert all(torch.equal(once[path], twice[path]) for path in once)
    assert not all(torch.equal(once[path], bare[path]) for path in once)


def test_an_axis_that_the_same_plan_copies_is_whole_as_it_was():
    traced, batch = dense(12)
    (score,) = tg.score(traced, [batch], F.mse_loss, [CHANGES["new units"]])
    copies = tg.WidenLayer(where=tg.named("2"), to=16, how="duplicate")
    plan = tg.plan(traced, [score.mutation, copies])
    weight = tg.apply(traced, plan, directions=[score], step=0.5).after.module.get_parameter(
        "4.weight"
    )
    part = score.direction["4.weight"]
    assert weight.shape == (12, 16)
    assert torch.equal(weight[8 : 8 + len(part), :12], 0.5 * part)
    cut = replace(score, direction={"4.weight": part[:, :11]})
    with pytest.raises(tg.ShapeError, match=r"4.weight: a direction of shape \[1, 11\] does not"):
        tg.apply(traced, plan, directions=[cut], step=0.5)
