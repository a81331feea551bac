"""Scores by way of a narrower neighbour against those of the place itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import SHAPES, data, make, measured, places_of
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.closed_forms import outcome
from topograph.sensitivity.hearings import means
from topograph.sensitivity.statistics import Convolution, Matrix
from topograph.sensitivity.tape import Probe, sweep

BLOCKS = {
    "two matrices": (tg.Bottleneck(units=1, activation="tanh"), lambda: Matrix(norm=False)),
    "with norm": (tg.Bottleneck(units=1, norm=True), lambda: Matrix(norm=True)),
    "one matrix": (tg.Linear(), lambda: Matrix(norm=False)),
    "convolutions": (tg.ConvBottleneck(units=1), lambda: Convolution(3)),
    "transposed": (tg.ConvBottleneck(units=1, spatial="out"), lambda: Convolution(3)),
    "pixels": (tg.ConvBottleneck(units=1, kernel=1), lambda: Convolution(1)),
}


def net(*layers):
    return nn.Sequential(*layers).double()


def fresh_norm(kind, affine=True):
    norm = kind(4, affine=affine)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.running_mean)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


class Fan(nn.Module):
    """Two Linear layers read what a square one makes, its size too, and something else if asked."""

    def __init__(self, *, other):
        super().__init__()
        self.square, self.a, self.b = (nn.Linear(5, 5) for _ in range(3))
        self.last, self.other = nn.Linear(5, 3), other

    def forward(self, x):
        x = torch.tanh(self.square(x))
        made = self.last(torch.tanh(self.a(x)) + self.b(x)).reshape(x.shape[0], -1)
        return made + x[:, :3] if self.other else made


class Hooked(nn.Sequential):
    """Linear layers that read and make something other than what flows between the nodes."""

    def __init__(self, *, before):
        super().__init__(nn.Linear(5, 8), nn.Linear(8, 3))
        for layer in self:
            if before:
                layer.register_forward_pre_hook(lambda _, given: (given[0].tanh(),))
            else:
                layer.register_forward_hook(lambda _, __, made: made.tanh())


NETS = {
    "wider": lambda: net(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)),
    "narrow chain": lambda: net(nn.Linear(5, 8), nn.Linear(8, 2, bias=False), nn.Linear(2, 3)),
    "norm": lambda: net(nn.Linear(5, 4), fresh_norm(nn.BatchNorm1d), nn.Linear(4, 3)),
    "plain norm": lambda: net(nn.Linear(5, 4), fresh_norm(nn.BatchNorm1d, False), nn.Linear(4, 3)),
    "batch norm": lambda: net(
        nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 3)
    ),
    "fan": lambda: Fan(other=False).double(),
    "fan with another": lambda: Fan(other=True).double(),
    "hooks": lambda: Hooked(before=False).double(),
    "pre-hooks": lambda: Hooked(before=True).double(),
    "spectral": lambda: net(nn.utils.spectral_norm(nn.Linear(5, 8)), nn.Linear(8, 3)),
}


def check(traced, batches, block, fresh):
    changes = places_of(traced, block)
    assert changes
    together = {s.mutation: s for s in tg.score(traced, batches, F.cross_entropy, changes)}
    for change in changes:
        (alone,) = tg.score(traced, batches, F.cross_entropy, [change])
        direct = fresh()
        count = sweep(
            traced, batches, F.cross_entropy, [Probe(change.where, change.where.node, direct)]
        )
        if isinstance(direct, Matrix):
            mean = direct.product().scaled(1 / count)
        else:
            mean = direct.total / count
        value = outcome(change, mean).derivative.value
        assert alone.value == pytest.approx(value, rel=1e-9, abs=1e-15), change.where
        assert together[change].value == pytest.approx(value, rel=1e-9, abs=1e-15), change.where


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", SHAPES)
def test_shared_networks(name, block):
    if name.startswith("cnn") or block not in ("convolutions", "transposed", "pixels"):
        check(make(name), data(name, 3), *BLOCKS[block])


@pytest.mark.parametrize("block", ["two matrices", "with norm", "one matrix"])
@pytest.mark.parametrize("name", NETS)
def test_layers_beside_layers(name, block):
    torch.manual_seed(0)
    traced = tg.trace(NETS[name](), (torch.randn(4, 5, dtype=torch.float64),))
    check(traced, data("mlp", 2), *BLOCKS[block])


@pytest.mark.parametrize("before", [True, False])
def test_a_layer_with_hooks_is_scored_as_it_computes(before):
    torch.manual_seed(0)
    traced = tg.trace(Hooked(before=before).double(), (torch.randn(2, 5, dtype=torch.float64),))
    batches = data("mlp", 2)
    block = tg.Bottleneck(units=1, activation="tanh")
    for score in tg.score(traced, batches, F.cross_entropy, places_of(traced, block)):
        assert measured(traced, score, batches, 1e-3) == pytest.approx(score.value, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 40])
def test_few_positions_are_kept_and_many_are_summed(size):
    traced, batches = make("mlp"), data("mlp", 3, size=size)
    check(traced, batches, *BLOCKS["two matrices"])


@pytest.mark.parametrize("other", [False, True])
def test_what_layers_beside_a_place_tell_is_not_summed_again(other):
    torch.manual_seed(0)
    traced = tg.trace(Fan(other=other).double(), (torch.randn(4, 5, dtype=torch.float64),))
    changes = places_of(traced, tg.Bottleneck(units=1))
    made = {change.where.node: Matrix(norm=False) for change in changes}
    batches = data("mlp", 2, size=40)
    asked = Asked(traced, batches, F.cross_entropy, tuple(changes), None, lambda _: None)
    found = dict(means(asked, lambda change: made[change.where.node]))
    assert set(found) == set(changes)
    told = {name for name, matrix in made.items() if matrix.product() is None}
    assert told == {"x", "square", "a", "b", "last"} | (set() if other else {"tanh"})
