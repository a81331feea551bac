"""Nodes are matched by name, then by structure; each change has the one kind that fits it."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.strategies import topologies
from tests.topology.chains import Net
from topograph.topology import TopologyDiff, diff
from topograph.topology.matching import match


def mlp(names=("fc1", "relu", "fc2"), hidden=16, act="relu"):
    first, middle, last = names
    return Net().linear(first, 8, hidden)(middle, act).linear(last, hidden, 4).done()


def changes(before, after):
    """Return the kind of each change by its name, with the old name if there was one."""
    return {c.name: (c.change, c.was) for c in diff(before, after).changes}


def renamed(topology, names):
    nodes = tuple(
        node.model_copy(
            update={"name": names[node.name], "inputs": tuple(map(names.get, node.inputs))}
        )
        for node in topology.nodes
    )
    return topology.model_copy(update={"nodes": nodes})


@given(topology=topologies(max_nodes=9), data=st.data())
def test_other_names_for_all_nodes_are_only_renamed(topology, data):
    order = data.draw(st.permutations(range(len(topology.nodes))))
    names = {node.name: f"new{i}" for node, i in zip(topology.nodes, order, strict=True)}
    found = diff(topology, renamed(topology, names))
    assert {(c.name, c.change, c.was, c.fields) for c in found.changes} == {
        (new, "renamed", old, ()) for old, new in names.items()
    }


def test_numbers_that_changed_places_are_only_renamed():
    net = Net()("relu", "relu")("relu_1", "relu")("tanh", "tanh", reads=("relu",))
    net = net("add", "add", reads=("relu_1", "tanh")).done()
    names = {node.name: node.name for node in net.nodes} | {"relu": "relu_1", "relu_1": "relu"}
    found = changes(net, renamed(net, names))
    assert found == {"relu_1": ("renamed", "relu"), "relu": ("renamed", "relu_1")}


def test_layers_that_changed_places_have_moved():
    before = Net().linear("first", 8, 8).linear("second", 8, 8).done()
    after = Net().linear("second", 8, 8).linear("first", 8, 8).done()
    assert {kind for kind, _ in changes(before, after).values()} == {"moved"}
    assert str(diff(before, after)).splitlines() == [
        "> second  linear",
        "    inputs: [first] -> [x]",
        "> first  linear",
        "    inputs: [x] -> [second]",
        "> output  output",
        "    inputs: [second] -> [first]",
        "+0 parameters, +0 FLOPs a sample",
    ]


def test_a_renamed_module_leaves_its_readers_alone():
    found = diff(mlp(), mlp(("hidden", "relu", "fc2")))
    assert str(found).splitlines() == [
        "= hidden (was fc1)  linear",
        "    target: fc1 -> hidden",
        "    parameters: [fc1.weight] -> [hidden.weight]",
        "+0 parameters, +0 FLOPs a sample",
    ]


def test_a_call_inserted_above_shifts_the_numbers_below_and_no_more():
    def net(extra):
        net = Net().linear("fc1", 8, 8)
        count = iter(range(9))
        relu = lambda: net(f"relu_{n}" if (n := next(count)) else "relu", "relu")  # noqa: E731
        relu()
        if extra:
            net("mul", "mul")
            relu()
        net.linear("fc2", 8, 8)
        relu()
        net.linear("fc3", 8, 8)
        relu()
        return net.done()

    assert changes(net(extra=False), net(extra=True)) == {
        "mul": ("added", None),
        "relu_1": ("added", None),
        "fc2": ("changed", None),
        "relu_2": ("renamed", "relu_1"),
        "relu_3": ("renamed", "relu_2"),
    }


def test_a_sequential_that_starts_with_two_more_layers():
    def net(sizes):
        net = Net()
        for i, (into, out) in enumerate(pairwise(sizes)):
            net.linear(f"linear_{2 * i}", into, out)(f"relu_{2 * i + 1}", "relu")
        return net.done()

    assert changes(net([8, 12, 12, 3]), net([8, 12, 12, 12, 3])) == {
        "linear_4": ("added", None),
        "relu_5": ("added", None),
        "linear_6": ("changed", "linear_4"),
        "relu_7": ("renamed", "relu_5"),
    }


def test_widths_resize_and_what_follows_from_them():
    found = diff(mlp(hidden=16), mlp(hidden=24))
    assert {c.name: c.change for c in found.changes} == dict.fromkeys(
        ("fc1", "relu", "fc2"), "resized"
    )
    assert str(found).splitlines()[:4] == [
        "* fc1  linear",
        "    detail: in_features=8, out_features=16, bias=False -> "
        "in_features=8, out_features=24, bias=False",
        "    shape: [N, 16] -> [N, 24]",
        "    fc1.weight: [16, 8] float32 -> [24, 8] float32",
    ]


@pytest.mark.parametrize(
    ("detail", "weight", "kind"),
    [
        ("3, 8, kernel_size=(3, 3), stride=(1, 1)", (8, 3, 3, 3), None),
        ("3, 8, kernel_size=(5, 5), stride=(1, 1)", (8, 3, 5, 5), "resized"),
        ("3, 8, kernel_size=(3, 3), stride=(2, 2)", (8, 3, 3, 3), "changed"),
        ("3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False", (8, 3, 3, 3), "changed"),
    ],
)
def test_only_constants_that_are_sizes_count_as_resized(detail, weight, kind):
    def net(detail, weight):
        return Net()("conv", "conv2d", detail=detail, weight=weight, shape=("N", 8, 4, 4)).done()

    base = net("3, 8, kernel_size=(3, 3), stride=(1, 1)", (8, 3, 3, 3))
    assert [c.change for c in diff(base, net(detail, weight)).changes] == ([kind] if kind else [])


@pytest.mark.parametrize("name", ["relu", "act"])
def test_another_operation_at_the_place_or_of_the_name_is_replaced(name):
    after = mlp(("fc1", name if name == "act" else "gelu", "fc2"), act="gelu")
    before = mlp(("fc1", name, "fc2"))
    (change,) = diff(before, after).changes
    assert change.change == "replaced"
    assert str(change).splitlines()[-2:] == [
        "    op: relu -> gelu",
        "    target: relu -> gelu",
    ]
    assert str(change).startswith("-/+ ")


def test_a_module_for_a_function_is_a_change_of_the_same_node():
    before, after = mlp(), mlp()
    module = after.nodes[2].model_copy(update={"kind": "module", "target": "act"})
    after = after.model_copy(update={"nodes": (*after.nodes[:2], module, *after.nodes[3:])})
    assert changes(before, after) == {"relu": ("changed", None)}


def test_reading_another_node_of_both_is_a_move_and_a_new_one_a_change():
    def net(source, *, extra=False):
        net = Net()("tanh", "tanh")("sigmoid", "sigmoid")
        if extra:
            net("new", "cos")
        return net("last", "exp", reads=(source,)).done()

    assert changes(net("sigmoid"), net("tanh")) == {"last": ("moved", None)}
    found = changes(net("sigmoid"), net("new", extra=True))
    assert found == {"new": ("added", None), "last": ("changed", None)}


def test_a_submodule_under_another_path_is_renamed_and_a_call_in_another_one_moved():
    def net(*scopes):
        net = Net()
        for i, scope in enumerate(scopes):
            net(f"f{i}", "relu", scope=scope)
        return net.done()

    before = net("a", "a", "b")
    assert changes(before, net("c", "c", "b")) == {
        "f0": ("renamed", None),
        "f1": ("renamed", None),
    }
    assert changes(before, net("a", "b", "b")) == {"f1": ("moved", None)}


def test_unrelated_names_are_matched_by_structure_around_an_edit():
    def net(prefix, blocks, *, extra=None):
        net = Net(prefix)
        for i in range(blocks):
            start = net.nodes[-1].name
            net(f"{prefix}norm{i}", "layernorm").linear(f"{prefix}up{i}", 8, 32)
            if i == extra:
                net(f"{prefix}drop", "dropout")
            net(f"{prefix}act{i}", "gelu").linear(f"{prefix}down{i}", 32, 8)
            net(f"{prefix}sum{i}", "add", reads=(start, net.nodes[-1].name))
        return net.done()

    found = diff(net("a", 6), net("b", 6, extra=3))
    kinds = {c.name: c.change for c in found.changes}
    assert kinds.pop("bdrop") == "added"
    assert kinds.pop("bact3") == "changed"
    assert set(kinds.values()) == {"renamed"}
    assert all(c.was == f"a{c.name[1:]}" for c in found.changes if c.was)


def test_the_pairs_are_the_same_in_both_directions():
    one, two = mlp(), mlp(("hidden", "act", "head"), hidden=24)
    there, back = match(one, two), match(two, one)
    assert there == {
        "x": "x", "hidden": "fc1", "act": "relu", "head": "fc2", "output": "output",
    }  # fmt: skip
    assert back == {old: new for new, old in there.items()}


def test_a_name_may_be_taken_from_one_node_and_given_to_another():
    before = Net().linear("a", 8, 8)("relu", "relu").linear("b", 8, 8)("relu_1", "relu").done()
    after = Net().linear("a", 8, 8).linear("b", 8, 8)("relu", "relu").done()
    found = diff(before, after)
    assert [(c.change, c.name, c.was) for c in found.changes] == [
        ("removed", "relu", None),
        ("changed", "b", None),
        ("renamed", "relu", "relu_1"),
    ]
    assert TopologyDiff.parse(found.dump()) == found


OLD = """{"format": "topograph.diff/1", "before": "a", "after": "b", "changes": [
  {"change": "added", "name": "x", "summary": "input", "fields": []},
  {"change": "changed", "name": "y", "summary": "relu",
   "fields": [{"field": "inputs", "before": "[]", "after": "[x]"}]}],
  "parameters": 1, "flops": 2}"""


def test_a_document_without_old_names_still_loads():
    assert str(TopologyDiff.parse(OLD)).splitlines() == [
        "+ x  input",
        "~ y  relu",
        "    inputs: [] -> [x]",
        "+1 parameters, +2 FLOPs a sample",
    ]


def test_a_layer_like_its_neighbour_does_not_take_its_name():
    def net(*names):
        net = Net()
        for name in names:
            net.linear(name, 8, 8)
        return net.done()

    before = net("linear_0", "linear_1", "linear_2")
    after = net("linear_0", "grown", "linear_1", "grown_1", "linear_2")
    assert changes(before, after) == {
        "grown": ("added", None),
        "linear_1": ("changed", None),
        "grown_1": ("added", None),
        "linear_2": ("changed", None),
    }
