"""A topology is a frozen graph with one canonical form and one fingerprint."""

import hashlib
import json

import hypothesis.strategies as st
import networkx as nx
import pytest
from hypothesis import assume, given
from pydantic import ValidationError

from tests.strategies import digests, node_fields, parameters, topologies, words
from topograph.errors import SpecError
from topograph.topology import Node, Parameter, Topology, diff
from topograph.topology.canonical import canonical

ADDED_TWICE = Topology(
    name="Twice",
    nodes=(
        Node(name="x", kind="input", op="input", target="x", shape=("N", 4), dtype="float32"),
        Node(
            name="fc",
            kind="module",
            op="linear",
            target="fc",
            detail="4, 8",
            inputs=("x",),
            shape=("N", 8),
            dtype="float32",
            axes=("batch", "channel"),
            parameters=("fc.weight", "fc.bias"),
            flops=64,
        ),
        Node(
            name="add",
            kind="function",
            op="add",
            target="operator.add",
            inputs=("fc", "fc"),
            shape=("N", 8),
            axes=("batch", "channel"),
            flops=8,
        ),
        Node(name="output", kind="output", op="output", target="output", inputs=("add", "x")),
    ),
    parameters=(
        Parameter(path="fc.weight", shape=(8, 4), dtype="float32", trainable=True),
        Parameter(path="fc.bias", shape=(8,), dtype="float32", trainable=False),
        Parameter(path="count", shape=(), dtype="int64", trainable=False, buffer=True),
    ),
)


def shuffled(document, random):
    """Return a document whose objects have their keys in another order."""
    if isinstance(document, list):
        return [shuffled(value, random) for value in document]
    if not isinstance(document, dict):
        return document
    keys = list(document)
    random.shuffle(keys)
    return {key: shuffled(document[key], random) for key in keys}


def renamed(topology: Topology, old: str, new: str) -> Topology:
    def swap(name: str) -> str:
        return new if name == old else name

    nodes = tuple(
        node.model_copy(
            update={"name": swap(node.name), "inputs": tuple(swap(name) for name in node.inputs)}
        )
        for node in topology.nodes
    )
    return topology.model_copy(update={"nodes": nodes})


@given(topology=topologies(), name=words, applied=st.lists(digests, max_size=2))
def test_fingerprint_is_independent_of_name_and_history(topology, name, applied):
    other = topology.model_copy(update={"name": name, "applied": tuple(applied)})
    assert other.fingerprint == topology.fingerprint


@given(topology=topologies(), random=st.randoms(use_true_random=False))
def test_fingerprint_is_independent_of_the_order_of_keys(topology, random):
    text = json.dumps(shuffled(json.loads(topology.dump()), random))
    read = Topology.parse(text)
    assert read == topology
    assert read.fingerprint == topology.fingerprint


@given(topology=topologies(min_nodes=1), data=st.data())
def test_fingerprint_changes_with_every_field_of_a_node(topology, data):
    index = data.draw(st.integers(0, len(topology.nodes) - 1))
    strategies = node_fields(tuple(node.name for node in topology.nodes[:index]))
    field = data.draw(st.sampled_from(sorted(strategies)))
    assert sorted(strategies) == sorted(Node.model_fields)
    node, value = topology.nodes[index], data.draw(strategies[field])
    assume(value != getattr(node, field))
    if field == "name":
        assume(value not in topology.by_name)
        changed = renamed(topology, node.name, value)
    else:
        nodes = list(topology.nodes)
        nodes[index] = node.model_copy(update={field: value})
        changed = topology.model_copy(update={"nodes": tuple(nodes)})
    assert Topology.parse(changed.dump()) == changed
    assert changed.fingerprint != topology.fingerprint


@given(topology=topologies(), data=st.data())
def test_fingerprint_changes_with_every_parameter(topology, data):
    assume(topology.parameters)
    index = data.draw(st.integers(0, len(topology.parameters) - 1))
    new = data.draw(parameters())
    assume(new != topology.parameters[index])
    listed = (*topology.parameters[:index], new, *topology.parameters[index + 1 :])
    changed = topology.model_copy(update={"parameters": listed})
    fewer = topology.model_copy(update={"parameters": topology.parameters[1:]})
    assert len({t.fingerprint for t in (topology, changed, fewer)}) >= 2
    assert changed.fingerprint != topology.fingerprint
    assert fewer.fingerprint != topology.fingerprint


@given(topology=topologies())
def test_canonical_json_round_trips(topology):
    text = canonical(topology.model_dump(mode="json"))
    read = Topology.parse(text)
    assert read == topology
    assert canonical(read.model_dump(mode="json")) == text
    assert text.isascii()
    assert Topology.parse(topology.dump()) == topology


def test_fingerprint_is_the_sha256_of_the_canonical_json():
    text = (
        '{"format":"topograph.topology/1","nodes":[{"axes":[],"detail":"","dtype":null,"flops":0,'
        '"inputs":[],"kind":"input","name":"x","op":"input","opaque":null,"parameters":[],'
        '"scope":"","shape":["N",4],"target":"x"}],"parameters":[]}'
    )
    node = Node(name="x", kind="input", op="input", target="x", shape=("N", 4))
    topology = Topology(name="any", nodes=(node,), applied=("0123456789abcdef",))
    assert topology.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@given(topology=topologies())
def test_graph_has_the_edges(topology):
    expected = nx.MultiDiGraph(name=topology.name)
    for node in topology.nodes:
        expected.add_node(node.name, **{field: getattr(node, field) for field in Node.model_fields})
    for node in topology.nodes:
        for slot, name in enumerate(node.inputs):
            (source,) = [other for other in topology.nodes if other.name == name]
            value = {"shape": source.shape, "dtype": source.dtype, "axes": source.axes}
            expected.add_edge(name, node.name, slot, **value)
    assert nx.utils.graphs_equal(topology.graph, expected)
    assert topology.graph.name == topology.name
    assert nx.is_directed_acyclic_graph(topology.graph)
    assert {(e.source, e.target, e.slot) for e in topology.edges} == set(expected.edges(keys=True))
    for node in topology.nodes:
        assert set(topology.users[node.name]) == set(expected.successors(node.name))


def test_a_value_read_twice_has_two_edges():
    assert [str(edge) for edge in ADDED_TWICE.edges] == [
        "x -> fc[0]",
        "fc -> add[0]",
        "fc -> add[1]",
        "add -> output[0]",
        "x -> output[1]",
    ]
    assert ADDED_TWICE.users["fc"] == ("add",)
    assert ADDED_TWICE.graph.number_of_edges("fc", "add") == 2
    assert ADDED_TWICE.edges[1].axes == ("batch", "channel")


def test_graph_is_frozen():
    graph = ADDED_TWICE.graph
    for change in (
        lambda: graph.add_node("y"),
        lambda: graph.remove_node("x"),
        lambda: graph.add_edge("x", "add"),
        lambda: graph.remove_edge("x", "fc"),
    ):
        with pytest.raises(nx.NetworkXError, match="Frozen graph can't be modified"):
            change()


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="Instance is frozen"):
        ADDED_TWICE.name = "Other"
    with pytest.raises(ValidationError, match="Instance is frozen"):
        ADDED_TWICE.nodes[0].op = "other"


@pytest.mark.parametrize("deep", [False, True])
def test_copy_with_other_nodes_keeps_nothing_computed_from_the_old(deep):
    full = ADDED_TWICE
    assert (full.fingerprint, len(full.edges), len(full.graph), len(full.users)) != ("", 0, 0, 0)
    copied = full.model_copy(update={"nodes": full.nodes[:1]}, deep=deep)
    assert copied == Topology(name="Twice", nodes=full.nodes[:1], parameters=full.parameters)
    assert copied.fingerprint == Topology.parse(copied.dump()).fingerprint != full.fingerprint
    assert (list(copied.by_name), copied.edges, list(copied.graph)) == (["x"], (), ["x"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": ("fc",)}, "node 'x' reads 'fc', which is not above it"),
        ({"fc": ("fc",)}, "node 'fc' reads 'fc', which is not above it"),
        ({"fc": ("x", "absent")}, "node 'fc' reads 'absent', which is not above it"),
    ],
)
def test_a_node_that_reads_what_is_not_above_it_is_refused(inputs, message):
    document = json.loads(ADDED_TWICE.dump())
    for node in document["nodes"]:
        node["inputs"] = inputs.get(node["name"], node["inputs"])
    with pytest.raises(SpecError, match=f"a.json: the document: Value error, {message}"):
        Topology.parse(json.dumps(document), source="a.json")


def test_a_name_given_twice_is_refused():
    document = json.loads(ADDED_TWICE.dump())
    document["nodes"].append(document["nodes"][0])
    with pytest.raises(SpecError, match=r"a\.json: the document: .* two nodes are called 'x'"):
        Topology.parse(json.dumps(document), source="a.json")


def test_sizes_and_text():
    assert ADDED_TWICE.parameter_count == 8 * 4 + 8
    assert ADDED_TWICE.flops == 72
    assert [node.channels for node in ADDED_TWICE.nodes] == [None, 8, 8, None]
    shown = f"Twice: 4 nodes, 5 edges, 40 parameters, 72 FLOPs a sample, {'%.12s'}"
    assert str(ADDED_TWICE) == shown % ADDED_TWICE.fingerprint
    assert repr(ADDED_TWICE) == f"<Topology {ADDED_TWICE}>"


@pytest.mark.parametrize(
    ("shape", "axes", "channels"),
    [
        (("N", 8), ("batch", "channel"), 8),
        (("N", 7, 8), ("batch", "tokens", "channel"), 8),
        (("N", 3, 5, 5), ("batch", "channel", "space", "space"), 3),
        (("N", 8), ("batch", "unknown"), None),
        (("N", "?"), ("batch", "channel"), None),
        ((8, 8), ("channel", "channel"), None),
        (None, (), None),
    ],
)
def test_channels(shape, axes, channels):
    node = Node(name="a", kind="function", op="relu", target="relu", shape=shape, axes=axes)
    assert node.channels == channels


def test_a_topology_of_5000_nodes_loads(tmp_path):
    nodes = tuple(
        Node(
            name=f"n{index}",
            kind="function",
            op="add",
            target="operator.add",
            inputs=(f"n{index - 1}", f"n{index // 2}") if index else (),
            shape=("N", 8),
            axes=("batch", "channel"),
        )
        for index in range(5_000)
    )
    topology = Topology(name="Deep", nodes=nodes)
    topology.save(tmp_path / "deep.json")
    read = Topology.load(tmp_path / "deep.json")
    assert read.fingerprint == topology.fingerprint
    assert len(read.edges) == read.graph.number_of_edges() == 2 * 4_999
    assert not diff(topology, read)
