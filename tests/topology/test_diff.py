"""A diff lists exactly what differs, in the order in which values flow."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.strategies import relatives, topologies
from topograph.errors import SpecError
from topograph.topology import Node, Parameter, Topology, TopologyDiff, diff

OPPOSITE = {"added": "removed", "removed": "added"}


def node(name: str, op: str, *inputs: str, shape=("N", 8), **fields) -> Node:
    return Node(
        name=name,
        kind="function",
        op=op,
        target=f"torch.{op}",
        inputs=inputs,
        shape=shape,
        **fields,
    )


def parameter(path: str, *shape: int, trainable: bool = True, buffer: bool = False) -> Parameter:
    return Parameter(path=path, shape=shape, dtype="float32", trainable=trainable, buffer=buffer)


BEFORE = Topology(
    name="Before",
    nodes=(
        node("x", "input", shape=("N", 4)),
        node("fc", "linear", "x", detail="4, 8", parameters=("w", "b"), flops=64),
        node("relu", "relu", "fc"),
        node("drop", "dropout", "relu", detail="p=0.5"),
        node("norm", "layernorm", "drop"),
        node("output", "output", "norm", shape=None),
    ),
    parameters=(parameter("w", 8, 4), parameter("b", 8)),
)
AFTER = Topology(
    name="After",
    nodes=(
        node("x", "input", shape=("N", 4)),
        node("fc", "linear", "x", detail="4, 8, bias=False", parameters=("w",), flops=64),
        node("relu", "relu", "fc"),
        node("down", "linear", "relu", shape=("N", 2), parameters=("relu.down",), flops=32),
        node("norm", "layernorm", "relu", opaque="it prints"),
        node("up", "linear", "down"),
        node("output", "output", "norm", shape=None),
    ),
    parameters=(parameter("w", 8, 4, trainable=False), parameter("relu.down", 2, 8)),
)
TEXT = """\
~ fc  linear
    detail: 4, 8 -> 4, 8, bias=False
    w: [8, 4] float32 -> [8, 4] float32 frozen
    b: [8] float32 -> none
    parameters: [w, b] -> [w]
- drop  dropout(p=0.5) of relu -> [N, 8]
+ down  linear of relu -> [N, 2]
~ norm  layernorm
    inputs: [drop] -> [relu]
    opaque: none -> it prints
+ up  linear of down -> [N, 8]
+8 parameters, +32 FLOPs a sample"""


def matched(before: Topology, after: Topology, found: TopologyDiff) -> dict[str, str]:
    """Return names after to names before, as the changes tell: all others kept their names."""
    was = {change.name: change.was for change in found.changes if change.was is not None}
    added = {change.name for change in found.changes if change.change == "added"}
    return {name: was.get(name, name) for name in after.by_name if name not in added}


def differing(before: Topology, after: Topology, was: dict[str, str], name: str) -> set[str]:
    """Return what differs at a node of both, found by comparing field by field."""
    old, new = before.by_name[was[name]], after.by_name[name]
    new_inputs = tuple(was.get(source) for source in new.inputs)
    fields = {field for field in Node.model_fields if getattr(old, field) != getattr(new, field)}
    fields = fields - {"name", "inputs"} | ({"inputs"} if old.inputs != new_inputs else set())
    ends = [[path.split(".")[-1] for path in node.parameters] for node in (old, new)]
    if ends[0] == ends[1]:
        paths = list(zip(old.parameters, new.parameters, strict=True))
    else:
        paths = [(path, path) for path in {*old.parameters, *new.parameters}]
    for first, second in paths:
        tensors = [
            [
                (p.shape, p.dtype, p.trainable, p.buffer)
                for p in topology.parameters
                if p.path == path and path in reader.parameters
            ]
            for topology, reader, path in ((before, old, first), (after, new, second))
        ]
        if tensors[0] != tensors[1]:
            fields.add(first if first == second else first.split(".")[-1])
    return fields


@given(topology=topologies(), name=st.text(max_size=3))
def test_diff_with_itself_is_empty_and_falsy(topology, name):
    found = diff(topology, topology.model_copy(update={"name": name, "applied": ()}))
    assert not found
    assert found.changes == ()
    assert str(found) == "no changes"
    assert (found.before, found.parameters, found.flops) == (found.after, 0, 0)


@given(pair=relatives())
def test_json_round_trips(pair):
    found = diff(*pair)
    assert TopologyDiff.parse(found.dump()) == found
    assert bool(found) == bool(found.changes)


@given(pair=relatives())
def test_diff_is_exactly_the_symmetric_difference(pair):
    before, after = pair
    found = diff(before, after)
    was = matched(before, after, found)
    removed = {change.name for change in found.changes if change.change == "removed"}
    assert len(set(was.values())) == len(was)
    assert removed | set(was.values()) == before.by_name.keys()
    assert not removed & set(was.values())
    shown = {change.name: change for change in found.changes if change.change != "removed"}
    for name, old in was.items():
        fields = differing(before, after, was, name)
        if name not in shown:
            assert not fields
            assert name == old
            continue
        change = shown[name]
        assert {field.field for field in change.fields} == fields
        assert all(field.before != field.after for field in change.fields)
        assert fields or change.change == "renamed"
        assert (change.change == "replaced") >= (before.by_name[old].op != after.by_name[name].op)
    assert (found.before, found.after) == (before.fingerprint, after.fingerprint)
    assert found.parameters == after.parameter_count - before.parameter_count
    assert found.flops == after.flops - before.flops


@given(pair=relatives())
def test_swapped_diff_has_plus_and_minus_exchanged(pair):
    before, after = pair
    there, back = diff(before, after), diff(after, before)
    assert {(c.name, c.was, c.change, len(c.fields)) for c in there.changes} == {
        (c.was or c.name, c.was and c.name, OPPOSITE.get(c.change, c.change), len(c.fields))
        for c in back.changes
    }
    texts = [
        {
            (f.field, *((f.before, f.after)[::order] if f.field != "inputs" else ()))
            for change in found.changes
            for f in change.fields
        }
        for found, order in ((there, 1), (back, -1))
    ]  # inputs of nodes under another name say which they were
    assert texts[0] == texts[1]
    assert {(c.name, c.summary) for c in there.changes if c.change in OPPOSITE} == {
        (c.name, c.summary) for c in back.changes if c.change in OPPOSITE
    }
    assert (there.parameters, there.flops) == (-back.parameters, -back.flops)


@given(pair=relatives())
def test_lines_stand_in_topological_order(pair):
    before, after = pair
    found = diff(before, after)
    kept = [change.name for change in found.changes if change.change != "removed"]
    gone = [change.name for change in found.changes if change.change == "removed"]
    assert kept == [name for name in after.by_name if name in kept]
    was = list(matched(before, after, found).values())
    if was == [name for name in before.by_name if name in was]:  # else they moved along
        assert gone == [name for name in before.by_name if name in gone]


def test_text():
    assert str(diff(BEFORE, AFTER)) == TEXT


def test_swapped_text():
    lines = str(diff(AFTER, BEFORE)).splitlines()
    assert [line for line in lines if line[0] in "+-"] == [
        "- down  linear of relu -> [N, 2]",
        "+ drop  dropout(p=0.5) of relu -> [N, 8]",
        "- up  linear of down -> [N, 8]",
        "-8 parameters, -32 FLOPs a sample",
    ]
    assert "    b: none -> [8] float32" in lines


def test_a_parameter_called_like_a_field_is_told_from_it():
    def network(detail: str, size: int) -> Topology:
        reader = node("fc", "linear", detail=detail, parameters=("detail",))
        return Topology(name="A", nodes=(reader,), parameters=(parameter("detail", size),))

    (change,) = diff(network("old", 2), network("new", 3)).changes
    assert str(change).splitlines() == [
        "~ fc  linear",
        "    detail: old -> new",
        "    detail: [2] float32 -> [3] float32",
    ]


def test_a_parameter_that_becomes_a_buffer_is_a_change():
    def network(*, buffer: bool) -> Topology:
        weight = parameter("w", 2, trainable=False, buffer=buffer)
        return Topology(
            name="A", nodes=(node("a", "mul", parameters=("w",)),), parameters=(weight,)
        )

    (change,) = diff(network(buffer=False), network(buffer=True)).changes
    assert str(change) == "~ a  mul\n    w: [2] float32 frozen -> [2] float32 buffer"


@pytest.mark.parametrize(("one", "other"), [(BEFORE, None), ("a.json", BEFORE)])
def test_only_topologies_are_compared(one, other):
    with pytest.raises(TypeError, match=r"compares two Topology values, got (NoneType|str); pass "):
        diff(one, other)


def test_a_node_listed_twice_is_refused():
    text = diff(BEFORE, AFTER).dump().replace('"up"', '"down"')
    with pytest.raises(SpecError, match=r"diff\.json: the document: .*listed twice: 'down'; list"):
        TopologyDiff.parse(text, source="diff.json")
