"""What `score` promises besides its numbers: order, unit directions, costs, inputs."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, Named, data, frozen_copy, make, places_of, same
from topograph.sensitivity.closed_forms import SLOPES, outcome, statistic
from topograph.sensitivity.products import Product
from topograph.sensitivity.statistics import Convolution, Matrix
from topograph.sensitivity.tape import Probe, sweep

BLOCKS = [
    tg.Bottleneck(units=3),
    tg.Bottleneck(units=3, activation="tanh", norm=True),
    tg.ConvBottleneck(units=2),
    tg.ConvBottleneck(units=2, kernel=5, spatial="out", activation="silu"),
    tg.ConvBottleneck(units=4, kernel=1),
    tg.Linear(),
    tg.Linear(bias=False),
    tg.Bottleneck(units=4, activation="relu"),
    tg.ConvBottleneck(units=2, activation="relu", spatial="both"),
    tg.Linear(activation="silu"),
    tg.Linear(activation="z_tanh_z"),
    tg.Linear(activation="z_tanh_z", bias=False),
]


def square(output, target):
    return (output - target).square().mean()


def length(direction):
    return torch.cat([part.flatten() for part in direction.values()]).norm().item()


@pytest.mark.parametrize("net", ["mlp", "cnn", "vit"])
def test_directions_are_of_unit_length_and_fit_the_block(net):
    traced, batches = make(net), data(net)
    wanted = [c for block in BLOCKS for c in places_of(traced, block)]
    scores = tg.score(traced, batches, F.cross_entropy, wanted)
    tg.apply(traced, tg.plan(traced, wanted), directions=scores)
    for score in scores:
        assert length(score.direction) == pytest.approx(1, abs=1e-12)
        assert score.value >= 0


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(sorted(SLOPES)), st.booleans())
def test_no_random_direction_beats_two_matrices(seed, units, activation, wide):
    """phi^T Q phi / 2 = s_1 <V_2 [V_1 b_1], M> for all units together, with ReLU for all pairs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (7, 4) if wide else (3, 9)
    mean = torch.randn(*shape, generator=generator, dtype=torch.float64)
    paired = activation == "relu"
    block = tg.Bottleneck(units=units * (1 + paired), activation=activation)
    change = tg.InsertLayer(where=tg.all(), block=block)
    best = outcome(change, Product((mean,))).derivative
    inner = torch.randn(units, shape[1], generator=generator, dtype=torch.float64)
    outer = torch.randn(shape[0], units, generator=generator, dtype=torch.float64)
    if paired:
        inner, outer = torch.cat([inner, -inner]), torch.cat([outer, -outer], 1)
    size = (inner.square().sum() + outer.square().sum()).sqrt()
    value = SLOPES[activation] * ((outer / size) @ (inner / size) * mean).sum().item()
    assert value <= best.value * (1 + 1e-12)
    own = torch.cat([best.direction["reduce.weight"], best.direction["reduce.bias"][:, None]], 1)
    reached = SLOPES[activation] * (best.direction["expand.weight"] @ own * mean).sum().item()
    assert reached == pytest.approx(best.value, rel=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 5]), st.sampled_from(["in", "out"]))
def test_no_random_direction_beats_two_convolutions(seed, kernel, spatial):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(3, 4, kernel, kernel, generator=generator, dtype=torch.float64)
    block = tg.ConvBottleneck(units=2, kernel=kernel, spatial=spatial, activation="tanh")
    best = outcome(tg.InsertLayer(where=tg.all(), block=block), mean).derivative

    def value(inner, bias, outer):
        """Return the second-order term of any start, summed over offsets and units."""
        middle = kernel // 2
        if spatial == "in":
            total = torch.einsum("ou,uikl,oikl->", outer[..., 0, 0], inner, mean[:, :-1])
            return total + torch.einsum(
                "ou,u,o->", outer[..., 0, 0], bias, mean[:, -1, middle, middle]
            )
        total = torch.einsum("oukl,ui,oikl->", outer, inner[..., 0, 0], mean[:, :-1])
        return total + torch.einsum("oukl,u,okl->", outer, bias, mean[:, -1])

    first, second = (kernel, 1) if spatial == "in" else (1, kernel)
    drawn = [(2, 3, first, first), (2,), (3, 2, second, second)]
    parts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in drawn]
    size = torch.cat([part.flatten() for part in parts]).norm()
    assert value(*(part / size for part in parts)).item() <= best.value * (1 + 1e-12)
    own = [best.direction[path] for path in ("reduce.weight", "reduce.bias", "expand.weight")]
    assert value(*own).item() == pytest.approx(best.value, rel=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.booleans())
def test_no_random_direction_beats_one_matrix(seed, bias):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    change = tg.InsertLayer(where=tg.all(), block=tg.Linear(bias=bias))
    best = outcome(change, Product((mean,))).derivative
    used = mean if bias else mean[:, :-1]
    other = torch.randn(used.shape, generator=generator, dtype=torch.float64)
    assert (other / other.norm() * used).sum().item() <= best.value * (1 + 1e-12)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("net", NETS)
def test_cost_is_what_the_plan_says(net, block):
    traced = make(net)
    if not (places := places_of(traced, block)[::2]):
        return  # nothing there has space
    for score in tg.score(traced, data(net), F.cross_entropy, places):
        effects = tg.plan(traced, [score.mutation]).effects
        assert score.cost.parameters == effects.parameters_after - effects.parameters_before
        assert score.cost.flops == effects.flops_after - effects.flops_before


class Fixed(nn.Module):
    """Works at one batch size only: 3, written into a reshape."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).reshape(3, 2, 3).flatten(1))


class Windows(nn.Module):
    """Folds a part of the image into the batch, as window attention does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x.reshape(-1, 5, 4))).reshape(x.shape[0], -1)


@pytest.mark.parametrize(("net", "shape"), [(Fixed(), (3, 4)), (Windows(), (3, 4, 5, 4))])
def test_cost_is_per_sample_whatever_the_batch_axis_is(net, shape):
    traced = tg.trace(net, (torch.zeros(shape),))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = torch.zeros_like(net(x))
    (change,) = tg.candidates(
        traced, [tg.InsertLayer(where=tg.named("a"), block=tg.Bottleneck(units=2))]
    )
    (score,) = tg.score(traced, [(x, target)], square, [change])
    effects = tg.plan(traced, [change]).effects
    assert score.cost.flops == effects.flops_after - effects.flops_before > 0


def test_ties_stay_in_topological_order_and_the_ranking_repeats():
    traced, batches = make("vit"), data("vit", 2)
    wanted = [c for block in BLOCKS[:2] for c in places_of(traced, block)]
    rankings = [tg.score(traced, batches, F.cross_entropy, wanted) for _ in range(3)]
    assert all([s.mutation for s in r] == [s.mutation for s in rankings[0]] for r in rankings)
    assert all([s.value for s in r] == [s.value for s in rankings[0]] for r in rankings)
    decreases = [-s.predicted(0.1) for s in rankings[0]]
    assert decreases == sorted(decreases, reverse=True)
    places = places_of(traced, BLOCKS[0])
    zero = tg.score(traced, batches, lambda y, _: 0.0 * y.sum(), places)
    assert [s.mutation for s in zero] == places
    assert {s.value for s in zero} == {0.0}


def test_a_dead_place_is_left_out():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return torch.tanh(self.a(x)), torch.tanh(self.b(x))

    traced = tg.trace(Dead(), (torch.zeros(2, 4),))
    wanted = [tg.InsertLayer(where=tg.named(name), block=tg.Linear()) for name in "ab"]
    batches = [(torch.ones(4, 4), None)]
    (score,) = tg.score(traced, batches, lambda y, _: y[0].square().mean(), wanted)
    assert score.mutation.where.node == "a"


def test_inputs_as_tensor_tuple_and_dict_and_a_dict_as_output():
    torch.manual_seed(0)
    traced = tg.trace(Named(), (), {"left": torch.zeros(2, 4), "right": torch.zeros(2, 4)})
    left, right, target = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 3)

    def loss(output, target):
        return square(output["logits"], target)

    wanted = places_of(traced, tg.Bottleneck(units=2))
    given = [
        (left, right),
        [left, right],
        {"left": left, "right": right},
        {"right": right, "left": left},
    ]
    found = [tg.score(traced, [(inputs, target)], loss, wanted) for inputs in given]
    assert all(
        [(s.mutation, s.value) for s in f] == [(s.mutation, s.value) for s in found[0]]
        for f in found
    )
    with pytest.raises(
        tg.ShapeError, match=r"the batch gives \['middle'\]; the model's inputs are left, right"
    ):
        tg.score(traced, [({"middle": left}, target)], loss, wanted)


def test_batches_are_read_once_and_one_at_a_time():
    traced = make("mlp")
    read, seen = [], []

    def stream():
        for index, batch in enumerate(data("mlp", 4)):
            read.append(index)
            yield batch

    def loss(output, target):
        seen.append(len(read))
        return F.cross_entropy(output, target)

    streamed = tg.score(traced, stream(), loss, places_of(traced, tg.Linear()))
    assert seen == [1, 2, 3, 4]
    kept = tg.score(traced, data("mlp", 4), F.cross_entropy, places_of(traced, tg.Linear()))
    assert [s.value for s in streamed] == [s.value for s in kept]


def test_candidates_at_one_place_share_what_is_summed():
    traced, batches = make("cnn"), data("cnn")
    blocks = [
        tg.ConvBottleneck(units=n, spatial=s, activation="tanh")
        for n in (1, 9)
        for s in ("in", "out")
    ]
    wanted = [c for block in blocks for c in places_of(traced, block)]
    by_place = {}
    for score in tg.score(traced, batches, F.cross_entropy, [*wanted, *wanted]):
        by_place.setdefault((score.mutation.where, score.mutation.block.spatial), []).append(
            score.value
        )
    assert all(len(values) == 2 for values in by_place.values())  # asked twice, answered once
    assert all(values[0] == values[1] for values in by_place.values())


def test_the_table_of_statistics_covers_every_block():
    assert isinstance(statistic(tg.InsertLayer(where=tg.all(), block=BLOCKS[0])), Matrix)
    assert isinstance(statistic(tg.InsertLayer(where=tg.all(), block=BLOCKS[2])), Convolution)


def test_a_progress_bar_changes_no_number(capsys):
    traced, batches = make("mlp"), data("mlp", 2)
    wanted = places_of(traced, tg.Linear())
    before = frozen_copy(traced.module)
    shown = tg.score(traced, iter(batches), F.cross_entropy, wanted, progress=True)
    assert [s.value for s in shown] == [
        s.value for s in tg.score(traced, batches, F.cross_entropy, wanted)
    ]
    assert same(before, frozen_copy(traced.module))
    assert "linear after" in str(shown[0])


def test_sweep_tells_the_loss_of_every_batch():
    traced, batches = make("mlp"), data("mlp", 3)
    change = places_of(traced, tg.Linear())[0]
    told = []
    probe = Probe(change.where, change.where.node, Matrix(norm=False))
    assert sweep(traced, batches, F.cross_entropy, [probe], told.append) == 3
    assert told == [F.cross_entropy(traced.module(x), y).item() for x, y in batches]
