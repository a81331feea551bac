"""What `topograph score` says below its table: the order of mixed scales, and what is left out."""

import json

from cli_words import write_json

from topograph.cli.leaving import REASONS, left_out
from topograph.spec import Refusal

SCORE = ("score", "cli_models:make_model", "--data", "cli_models:probe", "--loss", "cross_entropy")
LINEAR = {"kind": "after", "op": "linear"}
RELU = {"kind": "after", "op": "relu"}
MIXED = [
    {"kind": "add_adapter", "where": LINEAR, "rank": 2},
    {"kind": "insert_layer", "where": RELU, "block": {"kind": "linear"}},
    {"kind": "widen_layer", "where": LINEAR, "to": 16},
]


def test_the_table_says_what_was_left_out_and_why(cli, folder):
    write_json(folder / "mixed.json", MIXED)
    words = (*SCORE, "--mutations", "mixed.json", "--scorer", "natural")
    found = cli(*words)
    assert found.code == 0, found.err
    assert "what lowers the loss most: 2 of 2 places" in found.out
    *_, first, second, third = found.out.splitlines()
    fix = "score add_branch or insert_layer, or use another scorer"
    assert first == f"3 left out, such as linear_0: natural knows no add_adapter; {fix}"
    assert second == f"2 left out, such as linear_0: natural knows no widen_layer; {fix}"
    assert third.startswith("1 left out, linear_4: its width of 3 is fixed: it is a size of")
    assert "ordered by" not in found.out
    assert len(json.loads(cli(*words, "--json").out)) == 2  # a document of scores alone


def test_mixed_scales_say_at_which_step_they_were_compared(cli, folder):
    write_json(folder / "mixed.json", MIXED[:2])
    words = (*SCORE, "--mutations", "mixed.json")
    found = cli(*words)
    rows = json.loads(cli(*words, "--json").out)
    worth = [row["value"] * 0.1 ** row["order"] for row in rows]
    assert {row["order"] for row in rows} == {1, 2}
    assert worth == sorted(worth, reverse=True)
    assert found.out.endswith("\nordered by the predicted decrease at a step of 0.1\n")
    assert "left out" not in found.out


def test_many_reasons_are_told_in_a_few_lines():
    many = [Refusal(node=f"n{i}", reason=f"r{i}", fix="f") for i in range(REASONS + 2)]
    lines = list(left_out([object(), *many, Refusal(node="z", reason="r6", fix="f")]))
    assert lines[0] == "2 left out, such as n6: r6; f"
    assert lines[1] == "1 left out, n0: r0; f"
    assert lines[REASONS:] == ["2 left out for 2 more reasons"]
