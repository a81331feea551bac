"""Law 6: a score is the finite difference of the loss along its direction."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import NETS, data, make, measured, places_of
from tests.virtual_maps import falls_each
from topograph.sensitivity import mean_loss
from topograph.spec.selectors import at

SMOOTH = {
    "bottleneck": tg.Bottleneck(units=3, activation="tanh"),
    "bottleneck with norm": tg.Bottleneck(units=2, activation="tanh", norm=True),
    "conv in": tg.ConvBottleneck(units=2, activation="tanh"),
    "conv out": tg.ConvBottleneck(units=3, activation="tanh", spatial="out"),
    "conv 1": tg.ConvBottleneck(units=2, activation="tanh", kernel=1),
    "conv 1 out": tg.ConvBottleneck(units=2, activation="tanh", kernel=1, spatial="out"),
    "conv 5": tg.ConvBottleneck(units=1, activation="tanh", kernel=5),
    "conv both": tg.ConvBottleneck(units=2, activation="tanh", spatial="both"),
    "conv both, relu": tg.ConvBottleneck(units=4, activation="relu", spatial="both"),
    "conv out, relu": tg.ConvBottleneck(units=2, activation="relu", spatial="out"),
    "relu": tg.Bottleneck(units=4, activation="relu"),
    "relu with norm": tg.Bottleneck(units=2, activation="relu", norm=True),
}
IMAGES = {"cnn", "cnn1d", "cnn3d"}


def scores_of(traced, batches, block):
    """Return the scores at all nodes and on every third use that takes the block.

    `benchmarks/derivative_accuracy.py` goes to all of them.
    """
    nodes, uses = places_of(traced, block), places_of(traced, block, edges=True)[::3]
    assert nodes
    assert uses
    found = tg.score(traced, batches, F.cross_entropy, [*nodes, *uses])
    assert len(found) == len(nodes) + len(uses)
    return found


def error(traced, score, batches, step):
    return abs(measured(traced, score, batches, step) / score.value - 1)


def errors(traced, scores, batches, *steps):
    """Yield the error of each score at each step."""
    for score, falls in falls_each(traced, scores, batches, *steps):
        yield score, [abs(fall / score.value - 1) for fall in falls]


@pytest.mark.parametrize("block", SMOOTH)
@pytest.mark.parametrize("net", NETS)
def test_odd_activation_within_1e_5(net, block):
    if net not in IMAGES and block.startswith("conv"):
        return  # nothing there has space
    traced, batches = make(net), data(net, 2)
    found = scores_of(traced, batches, SMOOTH[block])
    for score, (near, far) in errors(traced, found, batches, 1e-3, 1e-2):
        assert score.order == 2
        assert near < 1e-5, score
        assert far < 1e-2, score  # a ReLU may switch


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("net", ["mlp", "residual", "cnn", "vit"])
def test_other_activations_err_in_proportion_to_the_step(net, activation):
    traced, batches = make(net), data(net, 2)
    block = tg.ConvBottleneck if net in IMAGES else tg.Bottleneck
    found = scores_of(traced, batches, block(units=2, activation=activation))
    for score, (whole, half) in errors(traced, found, batches, 1e-3, 5e-4):
        assert whole < 1e-2, score
        assert half < 0.55 * whole + 1e-6, score


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_one_matrix_is_of_first_order(net, bias):
    traced, batches = make(net), data(net, 2)
    found = scores_of(traced, batches, tg.Linear(bias=bias))
    for score, (whole, half) in errors(traced, found, batches, 1e-4, 5e-5):
        assert score.order == 1
        assert set(score.direction) == {"linear.weight", *(["linear.bias"] if bias else [])}
        assert whole < 1e-3, score
        assert half < 0.55 * whole + 1e-6, score


@pytest.mark.parametrize("net", NETS)
def test_gate_of_a_branch(net):
    traced, batches = make(net), data(net, 2)
    names = [node.name for node in traced.topology.nodes[:-1]]
    branches = [
        found
        for source, target in itertools.combinations(names, 2)
        for found in tg.candidates(traced, [tg.AddBranch(source=source, target=target)])
        if isinstance(found, tg.AddBranch)
    ]
    assert branches
    found = [s for s in tg.score(traced, batches, F.cross_entropy, branches) if s.value > 1e-8]
    for score, (near,) in errors(traced, found, batches, 1e-6):
        assert score.order == 1
        assert abs(score.direction["gate"].item()) == 1
        assert near < 1e-3, score


def test_a_branch_with_an_end_in_place_is_heard_as_it_was():
    """The source's memory is overwritten behind the target: its state is that of before."""
    traced, batches = make("cnn"), data("cnn", 2)
    wanted = [tg.AddBranch(source="conv1", target="norm1")]
    (score,) = tg.score(traced, batches, F.cross_entropy, wanted)
    assert error(traced, score, batches, 1e-6) < 1e-3


def test_the_two_slots_of_a_sum_are_two_places():
    traced, batches = make("twice"), data("twice")
    block = tg.Bottleneck(units=2, activation="tanh")
    uses = [tg.InsertLayer(where=tg.between("tanh", "add", slot), block=block) for slot in (0, 1)]
    both = tg.InsertLayer(where=tg.named("tanh"), block=block)
    found = {
        str(s.mutation.where): s for s in tg.score(traced, batches, F.cross_entropy, [*uses, both])
    }
    first, second, whole = (found[str(c.where)] for c in (*uses, *tg.candidates(traced, [both])))
    assert first.value == second.value
    assert whole.value == pytest.approx(2 * first.value, rel=1e-12)
    assert error(traced, whole, batches, 1e-3) < 1e-5


def test_several_batches_are_averaged():
    traced, batches = make("mlp"), data("mlp", 3)
    change = places_of(traced, tg.Linear())[2]
    direction = tg.score(traced, batches, F.cross_entropy, [change])[0].direction
    singles = [tg.score(traced, [batch], F.cross_entropy, [change])[0] for batch in batches]
    mean = {
        path: torch.stack([s.value * s.direction[path] for s in singles]).mean(0)
        for path in direction
    }
    length = torch.cat([part.flatten() for part in mean.values()]).norm()
    for path, part in mean.items():
        torch.testing.assert_close(part / length, direction[path], rtol=1e-12, atol=1e-12)


def test_predicted_is_the_change_that_apply_makes():
    traced, batches = make("residual"), data("residual", 2)
    change = tg.InsertLayer(where=at("add"), block=tg.Bottleneck(units=4, activation="tanh"))
    (score,) = tg.score(traced, batches, F.cross_entropy, [change])
    plan = tg.plan(traced, [score.mutation])
    after = tg.apply(traced, plan, directions=[score], step=0.01).after
    change_of_loss = mean_loss(after, batches, F.cross_entropy) - mean_loss(
        traced, batches, F.cross_entropy
    )
    assert score.predicted(0.01) < 0
    assert change_of_loss == pytest.approx(score.predicted(0.01), rel=1e-2)


def test_single_precision_gives_the_score_of_double():
    batches = data("cnn", 2)
    values = []
    for dtype in (torch.float64, torch.float32):
        traced = make("cnn", dtype=dtype)
        cast = [(x.to(dtype), y) for x, y in batches]
        found = scores_of(traced, cast, tg.ConvBottleneck(units=2))
        values.append({str(s.mutation.where): s.value for s in found})
    assert values[0].keys() == values[1].keys()
    for place, value in values[0].items():
        assert values[1][place] == pytest.approx(value, rel=1e-3)
