"""Edges, classes and combinations of selectors, against sets made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.request_strategies import single_selectors
from tests.spec.test_select import NETWORK
from topograph.errors import SelectorError
from topograph.spec import And, At, Not, Or, places
from topograph.spec.selectors import (
    SELECTOR,
    after,
    all_,
    at,
    before,
    between,
    instances_of,
    named,
)

VALUES = [node.name for node in NETWORK.nodes[:-1]]
LINEARS = ["layers_0_fc", "layers_1_fc"]


@pytest.mark.parametrize(
    ("selector", "edges"),
    [
        (before("linear"), [("x", "layers_0_fc", 0), ("relu", "layers_1_fc", 0)]),
        (before("Layer_Norm"), [("layers_1_fc", "norm", 0)]),
        (
            before("add"),
            [("relu_1", "add", 0), ("relu_1", "add", 1), ("add", "add_1", 0), ("relu", "add_1", 1)],
        ),
        (before("output"), [("add_1", "output", 0)]),
        (before("add") & ~between("relu_1", "add"), [("add", "add_1", 0), ("relu", "add_1", 1)]),
    ],
    ids=str,
)
def test_edges_into_an_operation(selector, edges):
    assert places(selector, NETWORK) == tuple(between(*edge) for edge in edges)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        (instances_of("Linear"), LINEARS),
        (instances_of("LayerNorm"), ["norm"]),
        (after("linear") & named("layers.0.*"), ["layers_0_fc"]),
        (after("relu") | after("linear"), ["layers_0_fc", "relu", "layers_1_fc", "relu_1"]),
        (after("relu") | after("gelu"), ["relu", "relu_1"]),  # a part may match nothing
        (~after("relu"), [name for name in VALUES if not name.startswith("relu")]),
        (~after("gelu"), VALUES),
        (~~after("relu"), ["relu", "relu_1"]),
        (all_() & ~after("linear") & ~after("relu"), ["norm", "add", "add_1"]),
        (~after("linear") & ~after("relu"), ["x", "norm", "add", "add_1"]),
        (~(after("linear") | after("relu")), ["x", "norm", "add", "add_1"]),
        ((after("relu") & named("*_1")) | at("x"), ["x", "relu_1"]),
    ],
    ids=str,
)
def test_values_by_class_and_by_sets(selector, names):
    assert places(selector, NETWORK) == tuple(at(name) for name in names)


def test_values_and_edges_stand_in_the_order_in_which_they_are_made():
    found = places(at("add") | before("add") | at("relu_1"), NETWORK)
    assert found == (
        at("relu_1"),
        between("relu_1", "add", 0),
        between("relu_1", "add", 1),
        at("add"),
        between("add", "add_1", 0),
        between("relu", "add_1", 1),
    )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (before("gelu"), r"no node has the operation 'gelu'; nearest: relu"),
        (before("input"), r"no node with the operation 'input' reads a value"),
        (instances_of("ReLU"), r"no node calls a module of the class 'ReLU'; nearest: linear, lay"),
        (after("gelu") | named("fc1"), r"(?s)no place is left: .*'gelu'; nearest: relu.*'fc1'; ne"),
        (after("relu") & after("linear"), r"no place is left of 'and'; its parts match after 2, a"),
        (after("relu") & before("linear"), r"after 2, before 2; values and edges are different pl"),
        (~named("*"), r"no place is left of 'not'; its parts match named 8; values and edges"),
    ],
    ids=str,
)
def test_no_place_names_what_its_parts_miss(selector, message):
    with pytest.raises(SelectorError, match=message):
        places(selector, NETWORK)


def test_operators_make_flat_records():
    a, b, c = after("a"), after("b"), after("c")
    assert (a & b & c) == And(parts=(a, b, c)) == a & (b & c)
    assert (a | b | c) == Or(parts=(a, b, c))
    assert ~(a & b) == Not(part=And(parts=(a, b)))
    assert ~~a == a
    assert len({a & b, a & b, b & a}) == 2


def found(selector):
    try:
        return set(places(selector, NETWORK))
    except SelectorError:
        return set()


names = st.lists(st.sampled_from(VALUES), min_size=1, max_size=4, unique=True)


@given(names, names, names)
def test_they_are_sets(first, second, third):
    sets = [{At(node=name) for name in listed} for listed in (first, second, third)]
    a, b, c = (
        at(listed[0]) if len(listed) == 1 else Or(parts=tuple(map(at, listed)))
        for listed in (first, second, third)
    )
    every = {At(node=name) for name in VALUES}
    assert found(a & b) == sets[0] & sets[1]
    assert found(a | b) == sets[0] | sets[1]
    assert found(~a) == every - sets[0]
    assert found((a | ~b) & ~c) == (sets[0] | (every - sets[1])) - sets[2]
    assert found(~(a & b)) == found(~a | ~b)  # de Morgan


@given(st.recursive(single_selectors, lambda inner: st.tuples(inner, inner), max_leaves=8))
def test_they_round_trip_through_json(drawn):
    def joined(part):
        return joined(part[0]) | ~joined(part[1]) if isinstance(part, tuple) else part

    try:
        selector = joined(drawn)
    except ValidationError:  # nested too deeply
        return
    assert SELECTOR.validate_json(SELECTOR.dump_json(selector)) == selector


def test_combinations_are_bounded():
    deep = at("a")
    for _ in range(4):
        deep = (deep & at("b")) | at("c")
    with pytest.raises(ValidationError, match=r"at most 32 parts in 8 levels, not 18 in 9"):
        deep & at("d")
    many = Or(parts=tuple(named(f"x{index}") for index in range(32)))
    with pytest.raises(ValidationError, match="at most 32 items"):
        many | at("a")
    with pytest.raises(ValidationError, match="at most 32 parts in 8 levels, not 34 in 2"):
        many & at("a")
    with pytest.raises(ValidationError, match="at least 2 items"):
        And(parts=(at("a"),))
