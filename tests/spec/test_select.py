"""Selectors find the places they mean, and say what is near where there is none."""

import pytest
from hypothesis import given

from tests.strategies import topologies
from topograph.errors import SelectorError
from topograph.spec import Everywhere, canonical_operation, places
from topograph.spec.selectors import after, all_, at, between, named
from topograph.topology import Node, Topology


def node(name: str, op: str, *inputs: str, target: str = "", channels: bool = True) -> Node:
    kind = {"input": "input", "output": "output"}.get(op, "module" if target else "function")
    axes = ("batch", "channel") if channels else ("batch", "unknown")
    target = target or f"torch.{op}"
    return Node(
        name=name, kind=kind, op=op, target=target, inputs=inputs, shape=("N", 8), axes=axes
    )


NETWORK = Topology(
    name="Residual",
    nodes=(
        node("x", "input", channels=False),
        node("layers_0_fc", "linear", "x", target="layers.0.fc"),
        node("relu", "relu", "layers_0_fc"),
        node("layers_1_fc", "linear", "relu", target="layers.1.fc"),
        node("norm", "layernorm", "layers_1_fc", target="norm"),
        node("relu_1", "relu", "norm"),
        node("add", "add", "relu_1", "relu_1"),
        node("add_1", "add", "add", "relu"),
        node("output", "output", "add_1"),
    ),
)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        (after("relu"), ["relu", "relu_1"]),
        (after("ReLU"), ["relu", "relu_1"]),
        (after("LayerNorm"), ["norm"]),
        (after("layer_norm"), ["norm"]),
        (after("input"), ["x"]),
        (named("relu_1"), ["relu_1"]),
        (named("relu*"), ["relu", "relu_1"]),
        (named("layers.*"), ["layers_0_fc", "layers_1_fc"]),
        (named("layers.[!0].fc"), ["layers_1_fc"]),
        (named("*_fc"), ["layers_0_fc", "layers_1_fc"]),
        (named("*"), [node.name for node in NETWORK.nodes[:-1]]),
        (at("norm"), ["norm"]),
        (all_(), [node.name for node in NETWORK.nodes[1:-1]]),
    ],
    ids=str,
)
def test_values_are_found_in_topological_order(selector, names):
    assert places(selector, NETWORK) == tuple(at(name) for name in names)


@pytest.mark.parametrize(
    ("selector", "slots"),
    [
        (between("relu_1", "add"), [0, 1]),
        (between("relu_1", "add", slot=1), [1]),
        (between("relu", "add_1"), [1]),
        (between("add_1", "output"), [0]),
    ],
    ids=str,
)
def test_uses_of_a_value_are_found_by_slot(selector, slots):
    expected = tuple(between(selector.source, selector.target, slot) for slot in slots)
    assert places(selector, NETWORK) == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (after("gelu"), r"no node has the operation 'gelu'; nearest: relu; `inspect` lists all"),
        (after("Conv2d"), r"no node has the operation 'Conv2d'; nearest: input, linear, relu, lay"),
        (named("layer.0.fc"), r"no node's name or module path matches .*; nearest: layers\.0\.fc,"),
        (named("relu_?_x"), r"matches 'relu_\?_x'; nearest: relu_1"),
        (at("relu_2"), r"no node is called 'relu_2'; nearest: relu_1, relu"),
        (at("layers_0"), r"no node is called 'layers_0'; nearest: layers_0_fc"),
        (between("rellu", "add"), r"no node is called 'rellu'; nearest: relu"),
        (between("relu", "ad"), r"no node is called 'ad'; nearest: add"),
        (between("relu", "add"), r"no edge goes from 'relu' to 'add'; 'relu' is read by layers_1"),
        (between("add", "relu_1"), r"no edge goes from 'add' to 'relu_1'; 'add' is read by add_1"),
        (between("output", "x"), r"no edge goes from 'output' to 'x'; 'output' is read by nothing"),
        (between("relu_1", "add", 2), r"'add' does not read 'relu_1' in slot 2; it does in 0, 1"),
        (between("relu", "add_1", 0), r"'add_1' does not read 'relu' in slot 0; it does in 1"),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_found_names_the_nearest_misses(selector, message):
    with pytest.raises(SelectorError, match=message):
        places(selector, NETWORK)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (all_(), "no node has a value with a certain channel axis"),
        (named("*"), r"no node's name or module path matches '\*'"),
        (at("x"), "no node is called 'x'"),
    ],
)
def test_nothing_is_found_in_an_empty_topology(selector, message):
    with pytest.raises(SelectorError, match=message + "; `inspect` lists all nodes"):
        places(selector, Topology(name="Empty"))


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("LayerNorm", "layernorm"),
        ("layer_norm", "layernorm"),
        ("Conv2d", "conv2d"),
        ("ReLU", "relu"),
        ("adaptive_avg_pool2d", "adaptiveavgpool2d"),
        ("__add__", "add"),
    ],
)
def test_canonical_operation(name, canonical):
    assert canonical_operation(name) == canonical
    assert canonical_operation(canonical) == canonical


@given(topology=topologies(min_nodes=1))
def test_each_place_stands_for_itself(topology):
    names = [n.name for n in topology.nodes if n.kind != "output" and n.channels is not None]
    if names:
        assert places(Everywhere(), topology) == tuple(at(name) for name in names)
    for name in names:
        assert places(at(name), topology) == (at(name),)
    for edge in topology.edges:
        place = between(edge.source, edge.target, edge.slot)
        assert places(place, topology) == (place,)
        assert place in places(between(edge.source, edge.target), topology)
