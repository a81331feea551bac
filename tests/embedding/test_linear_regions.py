"""Bounds by linear pieces against networks whose pieces and regions are counted exactly."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from topograph.embedding.regions import (
    least_width,
    pieces_of_components,
    pieces_of_loops,
    regions,
    width_of_bounded,
)

SEEDS = st.integers(0, 10**6)
WIDTHS = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def chain(inputs, widths, outputs, seed):
    torch.manual_seed(seed)
    sizes = [inputs, *widths]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs)).double()


def patterns(net, points):
    """Return which units are active at each point, ``[n, units]``."""
    found = []
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.ReLU):
                found.append(points > 0)
            points = layer(points)
    return torch.cat(found, 1)


def ends(net):
    """Return the ends of the linear pieces of a network on the line, layer after layer."""
    found = np.array([-100.0, 100.0])
    for index, layer in enumerate(net):
        if not isinstance(layer, nn.ReLU):
            continue
        with torch.no_grad():
            high = net[:index](torch.from_numpy(found)[:, None]).numpy()
        found = np.union1d(found, crossings(found, high))
    return found


def crossings(places, values):
    """Return where functions given at the ends of their pieces change sign."""
    left, right = values[:-1], values[1:]
    row, unit = np.nonzero(left * right < 0)
    share = left[row, unit] / (left[row, unit] - right[row, unit])
    return places[row] + share * (places[row + 1] - places[row])


def runs_of(net):
    """Return how many intervals of each class there are on the line, exactly but for rounding."""
    places = ends(net)
    with torch.no_grad():
        values = net(torch.from_numpy(places)[:, None]).numpy()
    if values.shape[1] == 1:
        values = np.hstack([np.zeros_like(values), values])
    pairs = itertools.combinations(range(values.shape[1]), 2)
    zeros = [crossings(places, values[:, [a]] - values[:, [b]]) for a, b in pairs]
    places = np.unique(np.concatenate([places, *zeros]))
    middle = torch.from_numpy((places[1:] + places[:-1]) / 2)[:, None]
    with torch.no_grad():
        values = net(middle)
    if values.shape[1] == 1:
        values = torch.cat([torch.zeros_like(values), values], 1)
    order = [key for key, _ in itertools.groupby(values.argmax(1).tolist())]
    return [order.count(key) for key in sorted(set(order))], values.shape[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), SEEDS)
def test_one_layer_on_the_line_has_as_many_pieces_as_the_formula(units, seed):
    net = chain(1, [units], 1, seed)
    with torch.no_grad():
        net[0].bias.copy_(net[0].weight[:, 0] * torch.linspace(-1, 1, units))  # all breaks differ
    assert len(ends(net)) - 1 == units + 1 == regions([units], 1)


@settings(max_examples=30, deadline=None)
@given(WIDTHS, SEEDS)
def test_deep_networks_on_the_line_have_no_more_pieces(widths, seed):
    assert len(ends(chain(1, widths, 1, seed))) - 1 <= regions(widths, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), SEEDS)
def test_one_layer_in_the_plane_attains_the_formula(units, seed):
    net = chain(2, [units], 1, seed)
    weight, bias = (p.detach().numpy() for p in net[0].parameters())
    found = set()
    for pair in itertools.combinations(range(units), 2):  # every region has a corner
        corner = np.linalg.solve(weight[list(pair)], -bias[list(pair)])
        signs = weight @ corner + bias > 0
        for own in itertools.product((False, True), repeat=2):
            signs[list(pair)] = own
            found.add(tuple(signs))
    assert len(found) == regions([units], 2)


@settings(max_examples=30, deadline=None)
@given(WIDTHS, SEEDS)
def test_deep_networks_in_the_plane_have_no_more_pieces(widths, seed):
    grid = torch.linspace(-4, 4, 120, dtype=torch.float64)
    found = patterns(chain(2, widths, 1, seed), torch.cartesian_prod(grid, grid))
    assert len(found.unique(dim=0)) <= regions(widths, 2)


@settings(max_examples=40, deadline=None)
@given(WIDTHS, st.integers(1, 4), SEEDS)
def test_the_intervals_of_all_classes_need_no_more_pieces_than_there_are(widths, outputs, seed):
    net = chain(1, widths, outputs, seed)
    intervals, classes = runs_of(net)
    assert pieces_of_components(intervals, classes) <= len(ends(net)) - 1 <= regions(widths, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 3), SEEDS)
def test_regions_in_the_plane_need_no_more_pieces_than_there_are(units, outputs, seed):
    net = chain(2, [units], outputs, seed)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        values = net(points)
    if outputs == 1:
        values = torch.cat([torch.zeros_like(values), values], 1)
    kind = values.argmax(1).reshape(241, 241).numpy()
    components = [large(kind == c) for c in np.unique(kind)]
    assert pieces_of_components(components, max(2, outputs)) <= regions([units], 2)
    for c, own in zip(np.unique(kind), components, strict=True):
        outside = np.pad(kind != c, 1, constant_values=True)
        holes = large(outside) - 1
        assert pieces_of_loops(max(1, own), holes, max(2, outputs), 2) <= regions([units], 2)


def large(mask):
    """Return the parts of a mask that hold a disc, so that no thin part is counted in bits."""
    return ndimage.label(ndimage.binary_opening(mask, np.ones((5, 5))))[1] or 1


@pytest.mark.parametrize("units", range(3, 9))
def test_a_sawtooth_has_as_many_intervals_as_its_pieces_allow(units):
    slopes = [1.0, -1.0, 0.5, -0.5, *(-((-1.0) ** i) for i in range(1, units - 2))]
    breaks = np.cumsum([0.0, *(2 / abs(slope) for slope in slopes[1:-1])])
    jumps = np.diff(slopes)
    left = np.arange(units) == 2  # with it the first slope is 1
    net = chain(1, [units], 1, 0)
    with torch.no_grad():
        sign = torch.from_numpy(np.where(left, -1.0, 1.0))
        net[0].weight.copy_(sign[:, None])
        net[0].bias.copy_(-sign * torch.from_numpy(breaks))
        net[2].weight.copy_(torch.from_numpy(jumps)[None])
        net[2].bias.zero_()
        net[2].bias.copy_(1 - net(torch.zeros(1, 1, dtype=torch.float64))[0])
    intervals, _ = runs_of(net)
    assert sum(intervals) == units + 2
    needed = pieces_of_components(intervals, 2)
    assert (needed, least_width(1, 1, needed)) == (units + 1, units)


def test_no_network_below_the_bound_has_the_intervals():
    """All networks of two units with small whole weights: never the five runs that need three."""
    assert least_width(1, 1, pieces_of_components([3, 2], 2)) == 3
    x = np.linspace(-7, 7, 281) + 1e-3
    small = (-2, -1, 1, 2)
    most = 0
    for weights in itertools.product(small, repeat=2):
        for shifts in itertools.product(range(-3, 4), repeat=2):
            hidden = np.maximum(np.outer(x, weights) + shifts, 0)
            for out in itertools.product(small, repeat=2):
                for bias in (-1.5, -0.5, 0.5, 1.5):
                    sides = hidden @ out + bias > 0
                    most = max(most, 1 + int((sides[1:] != sides[:-1]).sum()))
    assert most == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 400))
def test_the_least_width_is_enough_and_one_less_is_not(layers, inputs, pieces):
    width = least_width(layers, inputs, pieces)
    assert regions([width] * layers, inputs) >= pieces
    assert not width or regions([width - 1] * layers, inputs) < pieces


@settings(max_examples=30, deadline=None)
@given(WIDTHS, st.integers(1, 6), st.integers(0, 2))
def test_more_units_inputs_or_layers_have_no_fewer_pieces(widths, inputs, place):
    wider = [width + (index == place) for index, width in enumerate(widths)]
    here = regions(widths, inputs)
    assert here <= min(regions(wider, inputs), regions(widths, inputs + 1))
    assert here <= regions([*widths, 3], inputs)


def test_narrow_networks_have_no_bounded_region_and_a_simplex_attains_the_bound():
    axis = torch.linspace(-20, 20, 161, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)

    def bounded(net):
        with torch.no_grad():
            inside = net(points).reshape(161, 161).numpy() > 0
        found = 0
        for mask in (inside, ~inside):
            parts, count = ndimage.label(ndimage.binary_opening(mask, np.ones((3, 3))))
            edge = np.unique(np.r_[parts[0], parts[-1], parts[:, 0], parts[:, -1]])
            found += count - len(edge[edge > 0])
        return found

    assert width_of_bounded(2, 2) == 3
    net = chain(2, [3], 1, 0)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 0.0, -8.0]))
        net[2].weight.fill_(-1.0)
        net[2].bias.fill_(1.0)
    assert bounded(net) == 1
    for seed in range(60):
        assert bounded(chain(2, [2] * (1 + seed % 3), 1, seed)) == 0


def test_loops_in_space_need_the_pieces_of_their_nerve():
    assert [pieces_of_loops(1, loops, 2, 3) for loops in (0, 1, 2, 3, 4)] == [1, 3, 4, 4, 5]
    with pytest.raises(ValueError, match="1 loops in 1 dimensions; a line has none"):
        pieces_of_loops(1, 1, 2, 1)


def test_more_outputs_than_a_simplex_has_sides_can_bound_a_region_without_hidden_layers():
    assert [width_of_bounded(2, outputs) for outputs in (2, 3, 4)] == [3, 3, 0]
    head = nn.Linear(1, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]))
        head.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
    assert head(torch.linspace(-3, 3, 7)[:, None]).argmax(1).tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert width_of_bounded(1, 3) == 0
