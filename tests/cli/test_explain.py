"""`explain`: where mutations work, why not elsewhere, and what a selector almost meant."""

import json

import pytest
from cli_words import MODEL, refused, tree, write_json

import topograph as tg
from topograph.spec.nearest import nearest

RELU = {"kind": "after", "op": "relu"}
BLOCK = {"kind": "bottleneck", "units": 4}
INSERT = {"kind": "insert_layer", "where": RELU, "block": BLOCK}
OWN = """
import torch
from torch import nn

def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Unflatten(2, (2, 2)), nn.ReLU6()
    )
"""


@pytest.fixture
def explained(cli, folder):
    """Explain mutations; return the exit code and the rows of the JSON."""

    def run(*mutations, model=MODEL):
        write_json(folder / "m.json", list(mutations))
        result = cli("explain", *model, "m.json", "--json")
        assert result.err == ""
        return result.code, json.loads(result.out)

    return run


def insert(**where):
    return {**INSERT, "where": where}


def fails(row):
    return {near["node"]: near["fails"] for near in row["nearest"]}


def test_every_place_that_a_plan_changes_is_ok(explained, cli, folder):
    code, (row,) = explained(INSERT)
    assert (code, row["works"], row["problem"], row["nearest"]) == (0, True, None, [])
    ok = [place["place"] for place in row["places"] if place["refusal"] is None]
    cli("plan", *MODEL, "m.json", "-o", "plan.json")
    changes = json.loads((folder / "plan.json").read_text())["changes"]
    assert ok == [f"after {change['mutation']['where']['node']}" for change in changes]
    assert row["mutation"]["where"] == RELU


def test_a_refused_place_has_its_reason_and_its_fix(explained, folder):
    (folder / "own.py").write_text(OWN)
    model = ("own:make_model", "--input", "2,1,4,4")
    code, (images, last) = explained(INSERT, insert(kind="after", op="relu6"), model=model)
    assert code == 1
    assert not images["works"]
    (place,) = images["places"]
    assert place["place"] == "after relu_1"
    assert place["refusal"]["node"] == "relu_1"
    assert place["refusal"]["reason"].startswith("a bottleneck works on channels on the last axis")
    assert place["refusal"]["fix"] == "use a conv_bottleneck, or choose another node"
    (place,) = last["places"]
    assert "nothing computes" in place["refusal"]["reason"] or "axis" in place["refusal"]["reason"]


def test_a_mutation_that_works_somewhere_is_enough_for_each_but_not_for_all(explained):
    assert explained(INSERT, insert(kind="all"))[0] == 0
    code, (first, second) = explained(INSERT, insert(kind="named", pattern="nothing*"))
    assert (code, first["works"], second["works"]) == (1, True, False)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (
            {"kind": "after", "op": "Linaer"},
            {f"linear_{n}": ["its operation is 'linear', not 'linaer'"] for n in (0, 2, 4)},
        ),
        ({"kind": "at", "node": "relu_2"}, {"relu_1": ["its name is not 'relu_2'"]}),
        (
            {"kind": "named", "pattern": "lineer_4*"},
            {"linear_4": ["its name and its path '4' do not match 'lineer_4*'"]},
        ),
        (
            {"kind": "instances_of", "type_name": "ReLU6"},
            {"relu_1": ["its class is 'relu', not 'relu6'"]},
        ),
        (
            {"kind": "before", "op": "lin"},
            {"relu_1": ["it is read by linear, not by 'lin'"]},
        ),
        (
            {"kind": "between", "source": "relu_1", "target": "relu_3"},
            {
                "relu_1": ["it is read by linear_2, not by 'relu_3'"],
                "linear_2": ["its name is not 'relu_1'"],
            },
        ),
        (
            {"kind": "and", "parts": [RELU, {"kind": "named", "pattern": "linear_2"}]},
            {
                "linear_2": ["its operation is 'linear', not 'relu'"],
                "relu_1": ["its name and its path '1' do not match 'linear_2'"],
            },
        ),
        (
            {"kind": "and", "parts": [RELU, {"kind": "not", "part": RELU}]},
            {"relu_1": ["it is what the selector leaves out"]},
        ),
    ],
)  # fmt: skip
def test_the_nearest_nodes_say_which_condition_fails(explained, where, expected):
    code, (row,) = explained(insert(**where))
    assert (code, row["places"]) == (1, [])
    assert row["problem"]
    found = fails(row)
    assert expected.items() <= found.items(), found


def test_ends_of_a_branch_that_are_not_there(explained):
    code, (row,) = explained({"kind": "add_branch", "source": "relu_1", "target": "relu_9"})
    assert code == 1
    assert row["problem"].startswith("no node is called 'relu_9'")
    assert fails(row)["relu_3"] == ["its name is not 'relu_9'"]


def test_the_text_names_places_reasons_and_near_misses(cli, folder):
    write_json(folder / "m.json", [INSERT, insert(kind="after", op="rel")])
    result = cli("explain", *MODEL, "m.json")
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines() == [
        "1  insert_layer: bottleneck, 4 units, gelu, at: after every relu",
        "   ok       after relu_1",
        "   ok       after relu_3",
        "2  insert_layer: bottleneck, 4 units, gelu, at: after every rel",
        "   nothing  no node has the operation 'rel'; nearest: relu; `inspect` lists all nodes",
        "   near     relu_1 (relu): its operation is 'relu', not 'rel'",
        "   near     relu_3 (relu): its operation is 'relu', not 'rel'",
        "1 of 2 mutations can be done somewhere",
    ]


def test_what_a_run_has_already_counts(applied):
    result = applied("explain", *MODEL, "insert.json", "--run", "run")
    assert (result.code, result.err) == (0, "")
    assert "   applied  already; a plan leaves it out" in result.out


def test_what_the_model_is_like_already_is_done(cli, folder):
    write_json(folder / "m.json", {"kind": "unfreeze", "where": {"kind": "named", "pattern": "0"}})
    result = cli("explain", *MODEL, "m.json")
    assert (result.code, result.err) == (0, "")
    assert "   done     linear_0: " in result.out


def test_errors_are_one_message_and_change_nothing(cli, folder):
    before = tree(folder)
    refused(cli("explain", MODEL[0], "insert.json"), "traced without example inputs")
    refused(cli("explain", *MODEL, "nowhere.json"), "nowhere.json: no such file")
    refused(cli("explain", "cli_models:nothing", "insert.json"), "has no 'nothing'")
    assert tree(folder) == before


def test_what_is_near_fails_at_least_one_condition_and_is_sorted():
    nodes = [
        tg.Node(name="x", kind="input", op="input", target="x"),
        tg.Node(name="gelu_1", kind="module", op="gelu", target="act", inputs=("x",)),
        tg.Node(name="add", kind="function", op="add", target="operator.add", inputs=("gelu_1",)),
    ]
    topology = tg.Topology(name="Net", nodes=tuple(nodes))
    assert nearest(tg.after(op="gelu"), topology) == ()
    assert [near.node for near in nearest(tg.after(op="gelus"), topology)] == ["gelu_1"]
    both = tg.after(op="add") & tg.named("act")
    assert [near.node for near in nearest(both, topology)] == ["gelu_1", "add"]
    assert nearest(tg.named("zzzz"), topology) == ()
    assert len(nearest(both, topology, most=1)) == 1
    either = tg.after(op="gelus") | tg.named("zzzz")
    assert nearest(either, topology)[0].fails == ("its operation is 'gelu', not 'gelus'",)
