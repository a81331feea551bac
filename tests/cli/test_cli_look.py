"""Commands that look at a model or at documents: inspect, score, diff, doctor, schema, policy."""

import json
from pathlib import Path

import pytest
from cli_words import MODEL, write_json

import topograph as tg
from topograph.spec import load_mutations

SCORE = ("score", "cli_models:make_model", "--data", "cli_models:probe", "--loss", "cross_entropy")


def test_inspect_nodes_prints_nodes_sizes_and_totals(cli):
    found = cli("inspect", *MODEL, "--nodes")
    assert found.code == 0
    assert found.err == ""
    shown = " ".join(found.out.split())
    assert " linear in_features=8, out_features=12, bias=True [N, 12] bc 108 192 " in shown
    assert "7 nodes" in found.out
    assert " 303 552 " in shown
    fingerprint = tg.Topology.parse(cli("inspect", *MODEL, "--json").out).fingerprint
    assert found.out.endswith(f"\nfingerprint {fingerprint}\n")


def test_inspect_json_is_the_document_that_o_writes_and_html_is_one_file(cli, folder):
    found = cli("inspect", *MODEL, "--json", "-o", "a/b.json", "--html", "net.html")
    assert found.out == (folder / "a" / "b.json").read_text()
    assert found.err == ""
    assert not found.out.endswith("\n\n")
    assert tg.Topology.parse(found.out).parameter_count == 303
    assert (folder / "net.html").read_text().startswith("<!DOCTYPE html>")
    assert "wrote net.html\n" in cli("inspect", *MODEL, "--html", "net.html").out
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("ResNet", "--input", "2,3,8,8"), "[N, 6, 8, 8]"),
        (("ResNet", "--data", "cli_models:images"), "[N, 6, 6, 6]"),
        (("Transformer", "--input", "2,5:int64"), "[N, 5, 16]"),
        (("Transformer", "--data", "cli_models:tokens"), "[N, 5, 16]"),
        (("Two", "--input", "2,4", "--input", "2:int64"), "[N, 6]"),
        (("Two", "--data", "cli_models:by_name"), "[N, 6]"),
        (("make_model",), "give --input or --data for shapes and FLOPs"),
    ],
)
def test_inspect_takes_inputs_by_shape_and_from_data(cli, words, phrase):
    name, *rest = words
    found = cli("inspect", f"cli_models:{name}", *rest)
    assert found.code == 0, found.err
    assert phrase in found.out


@pytest.mark.parametrize(
    ("where", "first", "count"),
    [
        ("all", "after linear_4", 6),
        ("after:relu", "after relu_3", 2),
        ("after:ReLU", "after relu_3", 2),
        ("named:linear_*", "after linear_4", 3),
        ("named:?", "after linear_4", 5),
        ("at:relu_1", "after relu_1", 1),
        ("between:relu_1,linear_2", "edge relu_1 -> linear_2[0]", 1),
    ],
)
def test_score_ranks_the_places_of_every_selector(cli, where, first, count):
    found = cli(*SCORE, "--where", where)
    assert found.code == 0, found.err
    assert f"where a bottleneck lowers the loss most: {count} of {count} places" in found.out
    assert found.out.splitlines()[4].strip().startswith(first)
    assert "value, loss per step²" in found.out


def test_score_top_and_json_hold_the_best_as_mutations(cli, folder):
    found = cli(*SCORE, "--top", "2", "--json", "-o", "best.json")
    assert found.err == ""
    rows = json.loads(found.out)
    assert [row["mutation"]["where"] for row in rows] == [
        {"kind": "at", "node": "linear_4"},
        {"kind": "at", "node": "relu_3"},
    ]
    assert rows[0]["value"] > rows[1]["value"] > 0
    assert rows[0]["order"] == 2
    assert rows[0]["parameters"] == 3 * 16 + 16 + 16 * 3
    asked = load_mutations(str(folder / "best.json"))
    assert [mutation.where.node for mutation in asked] == ["linear_4", "relu_3"]


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (("make_model", "probe", "bottleneck"), "step²"),
        (("make_model", "probe", "linear"), "step"),
        (("ResNet", "images", "conv_bottleneck"), "step²"),
        (("Transformer", "tokens", "bottleneck"), "step²"),
    ],
)
def test_score_knows_every_block_and_a_loss_by_reference(cli, words, unit):
    model, data, block = words
    options = ["--data", f"cli_models:{data}", "--block", block, "--top", 1]
    options += [] if block == "linear" else ["--units", 3]
    found = cli("score", f"cli_models:{model}", *options, "--loss", "cli_models:loss")
    assert found.code == 0, found.err
    assert f"where a {block} lowers the loss most: 1 of " in found.out
    assert f"value, loss per {unit} " in found.out


@pytest.mark.parametrize(
    ("scorer", "title", "unit"),
    [
        ("topological_derivative", "lowers the loss most", "loss per step²"),
        ("gradmax", "lowers the loss most", "loss per step"),
        ("gradient_norm", "comes first by gradient_norm", "gradient"),
        ("last", "comes first by last", ""),
    ],
)
def test_score_takes_another_rule(cli, scorer, title, unit):
    found = cli(*SCORE, "--scorer", scorer, "--top", "2")
    assert found.code == 0, found.err
    assert f"where a bottleneck {title}: 2 of 6 places" in found.out  # in one line
    assert f" value, {unit} " in found.out if unit else " value " in found.out
    rows = json.loads(cli(*SCORE, "--scorer", scorer, "--json").out)
    assert [row["unit"] for row in rows] == [(unit or "none").split()[0]] * 6
    if scorer == "last":
        assert [row["value"] for row in rows] == [6, 5, 4, 3, 2, 1]


def test_score_takes_several_directions(cli):
    """The value is the mean over as many singular values, the largest of which is the first."""
    one, three = (json.loads(cli(*SCORE, "--directions", n, "--json").out) for n in (1, 3))
    first = {json.dumps(row["mutation"]): row["value"] for row in one}
    assert len(first) == len(three) == 6
    assert all(row["value"] < first[json.dumps(row["mutation"])] for row in three)
    found = cli(*SCORE, "--directions", 2, "--scorer", "gradmax")
    assert found.code == 2
    assert "directions = 2 with gradmax: give 1, or with topological_derivative a" in found.err


QUARTERS = """
import cli_models

def quarters():
    return [pair for x, y in cli_models.probe() for pair in zip(x.split(16), y.split(16))]
"""


def test_score_prints_a_standard_error_where_there_is_one(cli, folder):
    (folder / "quarters.py").write_text(QUARTERS)
    words = ("score", "cli_models:make_model", "--data", "quarters:quarters")
    words += ("--loss", "cross_entropy", "--scorer", "features", "--units", "2")
    found, (row, *_) = cli(*words), json.loads(cli(*words, "--json").out)
    assert found.code == 0, found.err
    assert row["error"] > 0
    assert f" {row['value']:.4g} ± {row['error']:.2g} " in found.out


def test_score_by_an_unknown_rule_lists_what_there_is(cli):
    found = cli(*SCORE, "--scorer", "guess")
    assert (found.code, found.out) == (2, "")
    assert "no scorer is called 'guess'; there are auto, topological_deriv" in found.err


@pytest.fixture
def two(applied, folder):
    """The command line, with topologies before and after a plan in a.json and b.json."""
    assert applied("inspect", *MODEL, "-o", "a.json").code == 0
    tg.read_topology("run").save(folder / "b.json")
    return applied


@pytest.mark.parametrize(
    ("form", "start", "phrase"),
    [
        ("text", "+ bottleneck_1_reduce  linear", "+200 parameters, +384 FLOPs a sample"),
        ("json", '{\n  "format": "topograph.diff/1"', '"parameters": 200'),
        ("html", "<!DOCTYPE html>", "bottleneck_1_sum"),
        ("dot", "digraph", '"relu_1" -> "linear_2"'),
        ("mermaid", "flowchart", "bottleneck_1_sum"),
    ],
)
def test_diff_writes_five_formats_and_tells_by_its_exit_code(two, folder, form, start, phrase):
    found = two("diff", "a.json", "b.json", "--format", form)
    assert found.code == 1
    assert found.err == ""
    assert found.out.startswith(start)
    assert phrase in found.out
    assert not found.out.endswith("\n\n")
    assert two("diff", "a.json", "a.json", "--format", form).code == 0
    kept = two("diff", "a.json", "b.json", "--format", form, "-o", "kept")
    assert (kept.code, kept.out) == (1, "wrote kept\n")
    assert (folder / "kept").read_text() == found.out


def test_diff_of_one_says_no_changes(two):
    assert two("diff", "b.json", "b.json").out == "no changes\n"


def test_hostile_names_in_a_topology_reach_no_terminal_as_codes(cli, folder):
    name = "a[bold red]x[/]\x1b[31m\nb"
    node = {"name": name, "kind": "input", "op": "input", "target": name}
    write_json(folder / "hostile.json", {"name": name, "nodes": [node]})
    write_json(folder / "empty.json", {"name": "Net"})
    for form in ("text", "html", "dot", "mermaid"):
        found = cli("diff", "empty.json", "hostile.json", "--format", form)
        assert found.code == 1
        assert "\x1b" not in found.out
    shown = cli("diff", "empty.json", "hostile.json").out
    assert shown.startswith("+ a[bold red]x[/]\\x1b[31m\\nb")


@pytest.mark.parametrize("name", ["history", "mutation", "plan", "policy", "topology"])
def test_schema_prints_the_exported_file(cli, name):
    exported = Path(__file__).parents[2] / "schemas" / f"{name}.schema.json"
    found = cli("schema", name)
    assert found.code == 0
    assert found.out == exported.read_text(encoding="utf-8")


def test_doctor_lists_versions(cli):
    found = cli("doctor")
    assert found.code == 0
    for name in ("Python", "torch", "safetensors", "SQLite", "C++ compiler", "GPU"):
        assert f"\n {name} " in found.out


def test_version_is_the_packages(cli):
    assert cli("--version").out == f"topograph {__import__('topograph').__version__}\n"


def test_score_compares_the_mutations_of_a_file(cli, folder):
    kinds = [
        {"kind": "add_adapter", "where": {"kind": "after", "op": "linear"}, "rank": 2},
        {
            "kind": "insert_layer",
            "where": {"kind": "after", "op": "relu"},
            "block": {"kind": "linear"},
        },
    ]
    (folder / "wanted.json").write_text(json.dumps(kinds))
    found = cli(*SCORE, "--mutations", "wanted.json")
    assert found.code == 0, found.err
    assert "what lowers the loss most: " in found.out
    rows = json.loads(cli(*SCORE, "--mutations", "wanted.json", "--json").out)
    assert {row["mutation"]["kind"] for row in rows} == {"add_adapter", "insert_layer"}
    assert {row["order"] for row in rows} == {1, 2}
    assert "loss per step²" in found.out
