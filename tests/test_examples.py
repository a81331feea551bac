"""The examples run, and show what they say they show."""

import json
import runpy
from pathlib import Path

import pytest

from topograph.spec import Policy

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments)


def test_insert_layer_lowers_the_loss_at_the_moment_of_growth_and_after(capsys):
    losses = run("insert_layer")
    assert losses["after"] < losses["start"] < losses["before"]
    printed = capsys.readouterr().out
    assert "planned again: no changes" in printed
    assert "undone: True" in printed


def test_grow_on_plateau_grows_and_keeps_a_run(capsys, tmp_path):
    first, last = run("grow_on_plateau", str(tmp_path / "run"))
    assert last < first / 2
    assert "grew: val_loss has not improved" in capsys.readouterr().out
    assert (tmp_path / "run" / "journal.sqlite").exists()


def test_inspect_diff_finds_the_widened_layers_and_the_dropout():
    found = {change.name: change.change for change in run("inspect_diff").changes}
    assert found["dropout"] == "added"
    assert (found["conv"], found["head"]) == ("resized", "changed")


def test_change_widths_keeps_the_function_where_it_says_so(capsys):
    moved = run("change_widths")
    assert moved["widen"] < 1e-6
    assert moved["undo"] == 0
    assert moved["narrow"] > 1e-3
    printed = capsys.readouterr().out
    assert "heads: 4 -> 2" in printed
    assert "space 0.fc1: 128 -> 192 units in 3 tensors" in printed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("policies/*.json")), ids=lambda p: p.stem)
def test_policies_are_valid_and_name_their_schema(path):
    assert Policy.load(path).candidates
    named = path.parent / json.loads(path.read_text())["$schema"]
    assert json.loads(named.read_text())["title"]
