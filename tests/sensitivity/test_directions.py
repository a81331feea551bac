"""Several leading directions, each in a unit of its own, and ReLU's pairs of units."""

from functools import cache

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, measured, places_of
from tests.virtual_maps import falls_each, gradients_of
from topograph.sensitivity.closed_forms import SLOPES

BLOCKS = {
    "tanh": tg.Bottleneck(units=5, activation="tanh"),
    "norm": tg.Bottleneck(units=3, activation="tanh", norm=True),
    "relu": tg.Bottleneck(units=8, activation="relu"),
    "in": tg.ConvBottleneck(units=4, activation="tanh"),
    "out": tg.ConvBottleneck(units=4, activation="tanh", spatial="out"),
    "both": tg.ConvBottleneck(units=3, activation="tanh", spatial="both"),
    "both, relu": tg.ConvBottleneck(units=6, activation="relu", spatial="both"),
}
CASES = [(net, name) for net in ("mlp", "residual", "vit") for name in ("tanh", "norm", "relu")]
CASES += [("cnn", name) for name in ("in", "out", "both", "both, relu")]


def some(traced, block):
    """Return a block on a few nodes and on a few uses."""
    return places_of(traced, block)[1:6:2] + places_of(traced, block, edges=True)[2:6:2]


def scores_of(traced, batches, wanted, directions):
    return tg.score(traced, batches, F.cross_entropy, wanted, directions=directions)


@cache
def case(net, name):
    """Return a network, batches, candidates, and by autograd what each would get as gradient."""
    traced, batches = make(net), data(net, 2)
    wanted = some(traced, BLOCKS[name])
    found = gradients_of(traced, wanted, batches, F.cross_entropy)
    return traced, batches, dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("directions", [2, 3, 50])
@pytest.mark.parametrize(("net", "name"), CASES)
def test_the_loss_falls_by_the_mean_of_the_singular_values(net, name, directions):
    (traced, batches, matrices), block = case(net, name), BLOCKS[name]
    each = 2 if block.activation == "relu" else 1
    scores = scores_of(traced, batches, list(matrices), directions)
    assert len(scores) == 5
    for score, (fall,) in falls_each(traced, scores, batches, 1e-3):
        values = torch.linalg.svdvals(matrices[score.mutation])[
            : min(directions, block.units // each)
        ]
        expected = SLOPES[block.activation] * values.mean().item() / 2
        assert score.value == pytest.approx(expected, rel=1e-9)
        assert score.order == 2
        assert len(score.direction["reduce.weight"]) == each * len(values)
        squares = sum(part.square().sum() for part in score.direction.values())
        assert squares.item() == pytest.approx(1, abs=1e-12)
        assert fall == pytest.approx(score.value, rel=2e-5)


def test_each_unit_has_a_pair_of_its_own():
    traced, batches = make("residual"), data("residual", 2)
    change = tg.InsertLayer(where=tg.at("tanh"), block=BLOCKS["tanh"])
    (score,) = scores_of(traced, batches, [change], 3)
    (matrix,) = gradients_of(traced, [score.mutation], batches, F.cross_entropy)
    left, values, right = torch.linalg.svd(matrix)
    rows = torch.cat([score.direction["reduce.weight"], score.direction["reduce.bias"][:, None]], 1)
    for index in range(3):
        made = torch.outer(score.direction["expand.weight"][:, index], rows[index])
        expected = torch.outer(left[:, index], right[index]) / 6
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-12)
        assert rows[index].norm().item() == pytest.approx(6**-0.5)
    assert values[1] / values[0] < 0.9  # or any three would do


def test_the_pairs_of_relu_read_and_write_turned_round():
    traced, batches = make("mlp"), data("mlp", 2)
    change = places_of(traced, BLOCKS["relu"])[1]
    (score,) = scores_of(traced, batches, [change], 2)
    for path, axis in (("reduce.weight", 0), ("reduce.bias", 0), ("expand.weight", 1)):
        first, second = score.direction[path].movedim(axis, 0).reshape(2, 2, -1).unbind(1)
        torch.testing.assert_close(first, -second, rtol=0, atol=0)


def test_more_directions_bring_less_and_units_that_are_alike_stay_alike():
    traced, batches = make("residual"), data("residual", 2)
    change = tg.InsertLayer(where=tg.at("tanh"), block=tg.Bottleneck(units=2, activation="tanh"))
    one, two = (scores_of(traced, batches, [change], k)[0] for k in (1, 2))
    assert one.value > two.value > one.value / 2
    alike = {
        path: torch.cat([part, part], 1 if path == "expand.weight" else 0) / 2**0.5
        for path, part in one.direction.items()
    }
    repeated = tg.Score(one.mutation, one.value, 2, alike, one.cost)
    assert measured(traced, repeated, batches, 1e-3) == pytest.approx(one.value, rel=1e-5)

    def trained(score):
        """Return how far apart what the two units read is, after a few steps."""
        plan = tg.plan(traced, [change])
        network = tg.apply(traced, plan, directions=[score]).after.module
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for _ in range(5):
            for x, y in batches:
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
        first, second = network.bottleneck_1.reduce.weight
        return (first - second).norm().item()

    assert trained(repeated) < 1e-12
    traced = make("residual")  # the first training has trained the layers that both share
    assert trained(two) > 1e-2


@pytest.mark.parametrize("gate", [1.0, -0.5])
@pytest.mark.parametrize(
    ("net", "ends", "path"),
    [
        ("residual", ("tanh", "add_1"), BLOCKS["relu"]),
        ("cnn", ("conv1", "norm1"), BLOCKS["both"]),
        ("residual", ("tanh", "add_1"), tg.Linear(activation="z_tanh_z")),
        ("residual", ("tanh", "add_1"), tg.Linear(activation="z_tanh_z", bias=False)),
        ("residual", ("tanh", "add_1"), tg.Linear(activation="tanh")),
    ],
)
def test_a_path_of_a_branch_behind_a_gate(net, ends, path, gate):
    traced, batches = make(net), data(net, 2)
    change = tg.AddBranch(source=ends[0], target=ends[1], path=path, gate=gate)
    (score,) = scores_of(traced, batches, [change], 2)
    assert all(part.startswith("path.") for part in score.direction)
    step = 1e-3 if score.order == 2 else 1e-6
    assert measured(traced, score, batches, step) == pytest.approx(score.value, rel=1e-4)
    (other,) = scores_of(traced, batches, [change.model_copy(update={"gate": 2 * gate})], 2)
    assert other.value == pytest.approx(2 * score.value, rel=1e-9)


def test_a_curve_behind_a_gate_of_0_depends_on_the_draw():
    path = tg.Linear(activation="tanh")
    change = tg.AddBranch(source="tanh", target="add_1", path=path)
    with pytest.raises(tg.RefusedError, match="its path is drawn behind a gate of 0, and the"):
        scores_of(make("residual"), data("residual"), [change], 1)


def test_what_has_no_units_is_scored_as_ever():
    traced, batches = make("residual"), data("residual", 2)
    wanted = [tg.AddBranch(source="tanh", target="tanh_1"), *places_of(traced, tg.Linear())[:2]]
    for one, two in zip(*(scores_of(traced, batches, wanted, k) for k in (1, 2)), strict=True):
        assert (one.mutation, one.value) == (two.mutation, two.value)


@pytest.mark.parametrize(
    ("scorer", "directions", "message"),
    [
        (
            "topological_derivative",
            0,
            "directions = 0 with topological_derivative: give 1, or with",
        ),
        ("natural", 2, "directions = 2 with natural: give 1, or with topological_derivative a"),
    ],
)
def test_no_such_number_of_directions(scorer, directions, message):
    traced, wanted = make("mlp"), [tg.InsertLayer(where=tg.all(), block=BLOCKS["tanh"])]
    with pytest.raises(tg.SpecError, match=message):
        tg.score(
            traced, data("mlp", 2), F.cross_entropy, wanted, scorer=scorer, directions=directions
        )
