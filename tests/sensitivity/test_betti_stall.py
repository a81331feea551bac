"""`betti_stall`: its value against profiles and known maps, its error, its places, its refusals."""

import math
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import frozen_copy, make, same
from tests.training.rank_worker import forker, values_of

pytest.importorskip("gudhi", reason="gudhi is not installed; pip install 'topograph[embedding]'")

from tests.training.rank_worker_stall import parts
from topograph.embedding import stall
from topograph.embedding.profile import profile
from topograph.sensitivity import betti_stall

BLOCK = tg.ConvBottleneck(units=1, kernel=1)
KERNELS = {
    "blur": torch.full((3, 3), 1 / 9),
    "identity": torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "edges": torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]),
}


def images_of(count=8, channels=1, size=16, seed=0):
    """Draw slightly blurred noise, in float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size + 2, size + 2, generator=generator).double()
    return F.avg_pool2d(noise, 3, stride=1) * 3


def fixed(name):
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.data = KERNELS[name].reshape(1, 1, 3, 3)
    return conv


def net(*layers):
    """Return layers with a ReLU before and behind each of them."""
    pairs = [part for layer in layers for part in (layer, nn.ReLU())]
    model = nn.Sequential(fixed("identity"), nn.ReLU(), *pairs).double()
    return tg.trace(model, (images_of(2),))


def after(op, block=BLOCK):
    return tg.InsertLayer(where=tg.after(op=op), block=block)


def stalled(traced, batches, *candidates, **options):
    """Return the scores; by default of all places after a ReLU."""
    wanted = candidates or [after("relu")]
    return tg.score(traced, batches, None, wanted, scorer="betti_stall", **options)


def by_node(scores):
    return {score.mutation.where.node: score for score in scores}


def in_one(images):
    return [(images, None)]


def test_a_filter_that_blurs_is_last_and_one_that_finds_edges_first():
    traced = net(*map(fixed, ("identity", "blur", "edges", "identity")))
    scores = stalled(traced, in_one(images_of()))
    assert [score.mutation.where.node for score in scores] == [
        "relu_7",
        "relu_3",
        "relu_9",
        "relu_5",
    ]
    edges, one, other, blur = scores
    assert one.value == other.value == 0.0  # what changes nothing simplifies nothing
    assert max(one.error, other.error) < 1e-7
    assert edges.value > 5 * edges.error
    assert blur.value < -5 * blur.error
    assert [(s.order, s.unit, s.direction, s.predicted(1.0)) for s in scores] == [
        (0, "log ratio", {}, 0.0)
    ] * 4
    assert str(blur).startswith(f"{blur.value:.4g} ± {blur.error:.2g} (log ratio)  conv_bottlen")


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))])
def test_averaging_pixels_to_a_smaller_map_is_no_simplification(pool):
    (score,) = stalled(net(pool), in_one(images_of()))
    assert score.value == pytest.approx(0, abs=1e-12)


def test_larger_maps_are_averaged_down_too():
    (score,) = stalled(net(nn.Upsample(scale_factor=2)), in_one(images_of()))
    assert score.value == 0.0


def test_the_value_is_what_profiles_say():
    traced, images, change = parts()
    found = {node.node: node for node in profile(traced, images, levels=(), bootstrap=0).nodes}

    def ratio(name):
        figures = [found[name].of(f"persistence{dimension}") for dimension in (0, 1)]
        return sum(f.value for f in figures) / sum(f.null for f in figures)

    scores = by_node(stalled(traced, in_one(images), change))
    assert list(scores) == sorted(scores, key=lambda name: -scores[name].value)
    for before, name in (("relu_1", "relu_3"), ("relu_3", "relu_5")):
        expected = math.log(ratio(name)) - math.log(ratio(before))
        assert scores[name].value == pytest.approx(expected, rel=1e-12)


def test_the_error_is_that_of_resampled_images():
    traced, images, change = parts()
    pair = stall.Pair("relu_1", "relu_3")
    totals = stall.totals(traced, images, [pair])[pair]
    draws = np.random.default_rng(0).integers(0, len(images), (4000, len(images)))
    here, null, earlier, earlier_null = totals[draws].mean(1).T
    resampled = (np.log(here / null) - np.log(earlier / earlier_null)).std()
    unbiased = resampled * math.sqrt(len(images) / (len(images) - 1))
    found = by_node(stalled(traced, in_one(images), change))["relu_3"]
    assert found.error == pytest.approx(unbiased, rel=0.1)
    one = by_node(stalled(traced, in_one(images[:1]), change))["relu_3"]
    assert one.error is None


class Residual(nn.Module):
    """Two residual blocks, of which the second has two branches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(5))

    def forward(self, x):
        one, two, three, four, five = self.convs
        h = F.relu(self.stem(x))
        h = F.relu(h + two(F.relu(one(h))))
        return F.relu(torch.cat([F.relu(three(h)), five(F.relu(four(h)))], 1).sigmoid() + 1)


def test_the_earlier_node_is_the_nearest_of_its_operation():
    traced = tg.trace(Residual().double(), (images_of(2),))
    graph, known = traced.topology.graph, list(traced.topology.by_name)
    for node in traced.topology.nodes:
        ways = nx.shortest_path_length(graph, target=node.name)
        alike = [n for n in ways if n != node.name and traced.topology.by_name[n].op == node.op]
        expected = min(alike, key=lambda n: (ways[n], -known.index(n)), default=None)
        found = betti_stall._earlier(traced.topology, node)
        assert (None if found is None else found.name) == expected
    relu = betti_stall._earlier(traced.topology, traced.topology.by_name["relu_2"])
    assert relu.name == "relu"  # past the branch, to the block's input


def test_an_edge_is_its_source_and_every_block_costs_what_it_costs():
    traced, images, _ = parts()
    edge = tg.InsertLayer(where=tg.between("relu_3", "conv2d_4"), block=BLOCK)
    wide = tg.InsertLayer(where=tg.at("relu_3"), block=tg.ConvBottleneck(units=2))
    first, second = stalled(traced, in_one(images), edge, wide)
    assert (first.value, first.error) == (second.value, second.error)
    assert {s.cost.parameters for s in (first, second)} == {4 + 1 + 4, 2 * 4 * 9 + 2 + 2 * 4}


def test_the_model_stays_and_so_does_the_ranking():
    traced, images, change = parts()
    traced.module.train()
    before = frozen_copy(traced.module)
    once = stalled(traced, in_one(images), change)
    assert same(before, frozen_copy(traced.module))
    torch.manual_seed(7)
    assert stalled(traced, in_one(images), change) == once


@pytest.mark.parametrize("size", [1, 7, 64])
def test_so_many_images_are_taken_and_no_more_batches_read(size):
    traced, _, change = parts()
    images, read = torch.randn(70, 1, 12, 12).double(), []

    def batches():
        for batch in images.split(size):
            read.append(len(batch))
            yield [batch], None

    found = stalled(traced, batches(), change)
    assert found == stalled(traced, in_one(images[: betti_stall.MOST]), change)
    assert sum(read) - size < betti_stall.MOST <= sum(read)


def test_constant_maps_have_no_score():
    traced, images, change = parts()
    traced.module.get_submodule("2").weight.data.zero_()
    assert stalled(traced, in_one(images), change) == ()


def test_tiny_maps_have_no_score():
    assert stalled(net(nn.AvgPool2d(8)), in_one(images_of())) == ()


def test_two_ranks_score_alike_and_as_the_sum_of_both():
    answers = values_of(forker().run("rank_worker_stall:score", 2, shares=[8, 4]))
    assert answers[0] == answers[1]  # every bit
    traced, images, _ = parts()
    for name, value, error in answers[0]:
        pair = stall.Pair({"relu_3": "relu_1", "relu_5": "relu_3"}[name], name)
        each = [stall.totals(traced, part, [pair])[pair] for part in images.split([8, 4])]
        here, null, earlier, earlier_null = np.concatenate(each).sum(0)
        expected = math.log(here / null) - math.log(earlier / earlier_null)
        assert float.fromhex(value) == pytest.approx(expected, rel=1e-9)
        assert float.fromhex(error) > 0


def refused(kind, message, traced, batches, *candidates, **options):
    with pytest.raises(kind) as caught:
        stalled(traced, batches, *candidates, **options)
    assert message in str(caught.value)


def test_places_without_maps_or_without_an_earlier_node_are_refused():
    traced, images, _ = parts()
    first = tg.InsertLayer(where=tg.at("relu_1"), block=BLOCK)
    words = "relu_1: no earlier node with maps is a relu"
    refused(tg.RefusedError, words, traced, in_one(images), first)
    mlp = make("mlp")
    words = "tanh_1: its axes are batch, channel, not those of maps"
    refused(tg.RefusedError, words, mlp, [(torch.randn(2, 5), None)], after("tanh", tg.Linear()))
    branch = tg.AddBranch(source="conv2d_0", target="relu_1")
    refused(tg.RefusedError, "betti_stall knows no add_branch", traced, in_one(images), branch)


def test_other_blocks_are_refused():
    fields = {"where": tg.at("relu"), "block": tg.Norm(name="identity")}
    refusal = betti_stall.refusal(tg.InsertLayer.model_construct(**fields))
    assert str(refusal).startswith("relu: betti_stall knows no such block; score a bottleneck, ")


def test_other_inputs_than_images_are_refused():
    traced, images, change = parts()
    refused(tg.ShapeError, "there are no batches", traced, [], change)
    two = [((images, images), None)]
    refused(tg.ShapeError, "the inputs of probe batch 0 are tuple; betti_stall", traced, two)
    odd = [(images, None), (images[..., 1:], None)]
    words = "the images of probe batch 1 are [1, 12, 11], those before [1, 12, 12]"
    refused(tg.ShapeError, words, traced, odd)
    holes = images.clone()
    holes[3, 0, 5, 5] = math.nan
    refused(tg.NonFiniteError, "is not finite; look at the inputs", traced, in_one(holes))


class Two(nn.Module):
    """Takes two images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, left, right):
        return self.conv(left.relu() + self.conv(right).relu().mean())


def test_a_model_of_two_inputs_is_refused():
    images = images_of(2)
    traced = tg.trace(Two().double(), (images, images))
    words = "models of one input of images; this one has left, right"
    refused(tg.ShapeError, words, traced, [((images, images), None)], after("conv2d"))


def test_without_gudhi_the_message_says_what_to_install(monkeypatch):
    traced, images, change = parts()
    for name in ("gudhi", "gudhi.sklearn.cubical_persistence"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("stall", "cubical"):
        monkeypatch.delitem(sys.modules, f"topograph.embedding.{name}")
    words = "pip install 'topograph[embedding]'"
    refused(tg.SpecError, words, traced, in_one(images), change)
