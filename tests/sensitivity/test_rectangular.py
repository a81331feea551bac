"""Adapters, projections and paths: a score is the finite difference along its direction."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, data, make
from tests.virtual_maps import falls_each
from topograph.sensitivity import gradient_norm, natural

EXACT = {"rtol": 1e-10, "atol": 1e-12}


class Convolutions(nn.Module):
    """Strides, dilation, even kernels and every way to pad."""

    def __init__(self, mode: str = "zeros") -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode, dilation=1)
        self.second = nn.Conv2d(4, 3, (2, 3), stride=2, padding=(0, 2), dilation=(1, 2))
        self.third = nn.Conv2d(3, 5, 4, padding="same", bias=False)
        self.last = nn.Conv2d(5, 3, 1, padding="valid")

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = torch.tanh(self.third(torch.tanh(self.second(h))))
        return self.last(h).mean((2, 3))


class Called(nn.Module):
    """A matrix that a function reads, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)
        self.weight = nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        h = torch.tanh(self.layer(F.linear(x, self.weight)))
        return self.head(torch.tanh(self.layer(h)))


def traced_of(model, x):
    torch.manual_seed(0)
    return tg.trace(model.double(), (x,))


def scores_of(traced, batches, *asked):
    found = tg.candidates(traced, asked)
    wanted = [c for c in found if not isinstance(c, tg.Refusal)]
    scores = tg.score(traced, batches, F.cross_entropy, wanted)
    assert len(scores) == len(wanted) > 0
    return scores


def error(traced, score, batches, step):
    ((_, found),) = errors(traced, [score], batches, step)
    return found


def errors(traced, scores, batches, step):
    """Yield each score with its error at a step along it alone."""
    for score, (fall,) in falls_each(traced, scores, batches, step):
        yield score, abs(fall / score.value - 1)


def length(score):
    return torch.cat([part.flatten() for part in score.direction.values()]).norm().item()


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("net", NETS)
def test_low_rank_adapter(net, alpha):
    traced, batches = make(net), data(net, 2)
    scores = scores_of(traced, batches, tg.AddAdapter(where=tg.all(), rank=2, alpha=alpha))
    for score, off in errors(traced, scores, batches, 1e-3):
        assert score.order == 2
        assert set(score.direction) == {"reduce.weight", "expand.weight"}
        assert length(score) == pytest.approx(1)
        assert off < 1e-5, score


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_low_rank_adapter_beside_any_convolution(mode):
    batches = data("cnn", 2)
    traced = traced_of(Convolutions(mode), batches[0][0])
    scores = scores_of(traced, batches, tg.AddAdapter(where=tg.all(), rank=2))
    assert len(scores) == 4
    for score, off in errors(traced, scores, batches, 1e-3):
        assert off < 1e-5, score


def test_low_rank_adapter_beside_one_call():
    batches = data("mlp", 2)
    traced = traced_of(Called(), batches[0][0])
    scores = scores_of(traced, batches, tg.AddAdapter(where=tg.all(), rank=1))
    assert len(scores) == 4
    for score, off in errors(traced, scores, batches, 1e-3):
        assert off < 1e-5, score


@pytest.mark.parametrize("net", ["mlp", "vit", "cnn"])
def test_low_rank_adapter_has_the_weights_gradient(net):
    """The oracle is autograd's gradient of the layer's own weight."""
    traced, batches = make(net), data(net, 2)
    module = traced.module.eval()
    losses = [F.cross_entropy(module(x), y) for x, y in batches]
    torch.stack(losses).mean().backward()
    for score in scores_of(traced, batches, tg.AddAdapter(where=tg.all(), rank=3)):
        layer = module.get_submodule(traced.topology.by_name[score.mutation.where.node].target)
        singular = torch.linalg.svdvals(layer.weight.grad.flatten(1))
        assert score.value == pytest.approx(singular[0].item() / 2, rel=1e-10)


@pytest.mark.parametrize("net", ["mlp", "vit", "cnn"])
def test_bottleneck_adapter_is_the_insertion_behind_the_layer(net):
    traced, batches = make(net), data(net, 2)
    how = {"rank": 2, "style": "bottleneck", "activation": "tanh"}
    scores = scores_of(traced, batches, tg.AddAdapter(where=tg.all(), **how))
    for score, off in errors(traced, scores, batches, 1e-3):
        assert off < 1e-5, score
        block = tg.Bottleneck(units=2, activation="tanh")
        if traced.topology.by_name[score.mutation.where.node].axes[-1] == "space":
            block = tg.ConvBottleneck(units=2, activation="tanh", kernel=1)
        insert = tg.InsertLayer(where=score.mutation.where, block=block)
        (alone,) = tg.score(traced, batches, F.cross_entropy, [insert])
        assert score.value == pytest.approx(alone.value, rel=1e-12)
        assert score.cost == alone.cost


@pytest.mark.parametrize("net", NETS)
def test_gate_before_a_projection(net):
    traced, batches = make(net), data(net, 2)
    asked = tg.AddBranch(source=tg.all(), target=tg.all(), projection="linear")
    for score, off in errors(traced, scores_of(traced, batches, asked), batches, 1e-6):
        assert score.order == 1
        assert score.direction["gate"] == 1
        assert score.start["projection.weight"].norm().item() == pytest.approx(1)
        assert off < 1e-4, score


def test_gate_before_a_projection_with_a_stride():
    batches = data("cnn", 2)
    traced = traced_of(Convolutions(), batches[0][0])
    asked = tg.AddBranch(source="first", target="third", projection="linear")
    (score,) = scores_of(traced, batches, asked)
    assert traced.topology.by_name["first"].shape[2:] != traced.topology.by_name["third"].shape[2:]
    assert error(traced, score, batches, 1e-6) < 1e-4


@pytest.mark.parametrize("gate", [1.0, -0.5])
@pytest.mark.parametrize(
    ("net", "path"),
    [
        ("residual", tg.Bottleneck(units=2, activation="tanh")),
        ("vit", tg.Bottleneck(units=2, activation="tanh", norm=True)),
        ("cnn", tg.ConvBottleneck(units=2, activation="tanh")),
        ("cnn", tg.ConvBottleneck(units=2, activation="tanh", spatial="out")),
    ],
)
def test_path_behind_an_open_gate(net, path, gate):
    traced, batches = make(net), data(net, 2)
    asked = tg.AddBranch(source=tg.all(), target=tg.all(), path=path, gate=gate)
    for score, off in errors(traced, scores_of(traced, batches, asked), batches, 1e-3):
        assert score.order == 2
        assert length(score) == pytest.approx(1)
        assert off < 1e-4, score


@pytest.mark.parametrize("gate", [2.0, -0.5, 0.0])
def test_path_of_one_matrix(gate):
    traced, batches = make("residual"), data("residual", 2)
    asked = tg.AddBranch(source=tg.all(), target=tg.all(), path=tg.Linear(), gate=gate)
    for score, off in errors(traced, scores_of(traced, batches, asked), batches, 1e-6):
        assert score.order == 1
        assert length(score) == pytest.approx(1)
        assert off < 1e-4, score


def free_branch(**fields):
    return tg.AddBranch(source=tg.all(), target=tg.all(), **fields)


@pytest.mark.parametrize(
    "asked",
    [
        tg.AddAdapter(where=tg.all(), rank=2),
        tg.AddAdapter(where=tg.all(), rank=3, alpha=2.0, freeze=True),
        free_branch(projection="linear"),
        free_branch(path=tg.Linear()),
        free_branch(path=tg.Bottleneck(units=2, norm=True), gate=1.0),
        free_branch(path=tg.ConvBottleneck(units=2), gate=1.0),
    ],
)
@pytest.mark.parametrize("net", ["mlp", "vit", "cnn", "residual", "odd", "called"])
def test_cost_is_what_the_plan_says(net, asked):
    model = {"odd": ("cnn", Convolutions), "called": ("mlp", Called)}
    name, make_model = model.get(net, (net, None))
    batches = data(name)
    traced = make(name) if make_model is None else traced_of(make_model(), batches[0][0])
    found = [c for c in tg.candidates(traced, [asked]) if not isinstance(c, tg.Refusal)]
    if not (some := found[:: 1 + len(found) // 5]):
        return  # nothing there has space
    for score in tg.score(traced, batches, F.cross_entropy, some):
        effects = tg.plan(traced, [score.mutation]).effects
        assert score.cost.parameters == effects.parameters_after - effects.parameters_before
        assert score.cost.flops == effects.flops_after - effects.flops_before


WIDE = tg.Bottleneck(units=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate": 0.5}, "tanh_1: its gate starts at 0.5, which is no small .*; give gate=0"),
        ({"path": WIDE}, "tanh_1: its path is drawn behind a gate of 0, .*; give gate=1: the path"),
        (
            {"path": WIDE, "gate": 1.0, "projection": "linear"},
            "tanh_1: its projection is drawn behind the path, .*; leave path or projection out",
        ),
    ],
)
def test_branches_that_start_as_something(fields, message):
    traced, batches = make("residual"), data("residual")
    change = tg.AddBranch(source="tanh", target="tanh_1", **fields)
    with pytest.raises(tg.RefusedError, match=message):
        tg.score(traced, batches, F.cross_entropy, [change])


@pytest.mark.parametrize(
    ("scorer", "said"),
    [(natural, "natural knows no"), (gradient_norm, "there is no closed form of")],
)
@pytest.mark.parametrize("fields", [{"projection": "linear"}, {"path": WIDE, "gate": 1.0}])
def test_other_scorers_know_none_of_these_branches(scorer, said, fields):
    refusal = scorer.refusal(tg.AddBranch(source="tanh", target="tanh_1", **fields))
    assert f"{said} add_branch of this form; score insert_layer" in str(refusal)


def test_a_dead_projection_is_left_as_it_is_drawn():
    batches = data("mlp")
    traced = make("mlp")
    asked = tg.AddBranch(source="linear_0", target="linear_2", projection="linear")
    (score,) = tg.score(traced, batches, lambda y, _: 0 * y.sum(), [asked])
    assert score.value == 0
    assert score.start == {}
