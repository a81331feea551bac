"""Growing from the command line: grow, the demo, and how both stop."""

import json
import re

import pytest
from cli_words import refused, tree, write_json

import topograph as tg

GROW = ("--policy", "every.json", "--run", "run")


def test_grow_shows_every_growth_and_leaves_the_run(cli, folder):
    found = cli("grow", "cli_models:experiment", *GROW)
    assert found.code == 0, found.err
    assert found.err == ""
    assert "\x1b" not in found.out
    assert "━" not in found.out  # no progress bar in a file
    assert "\nstep 2 of 6: growth 1\nwhy this edge" in found.out
    assert re.search(r"\n \*  after (linear|relu)_\d: bottleneck, 4 units, gelu +\d", found.out)
    assert re.search(r"\n6 steps, 2 growths; parameters 303 -> 503; val_loss \d", found.out)
    assert found.out.endswith(
        "\nthe run: run\nthe final model: run/model.safetensors\nthe report: run/report.html\n"
    )
    history = tg.read_history("run")
    assert [entry.kind for entry in history.entries].count("apply") == 2
    assert tg.Policy.load("run/policy.json") == tg.Policy.load("every.json")
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "bottleneck_1" in page
    replayed = cli(
        "replay", "run", "--model", "cli_models:make_model", "--data", "cli_models:probe"
    )
    assert "503 parameters" in replayed.out


def test_grow_says_why_it_did_not(cli):
    found = cli("grow", "cli_models:experiment", "--policy", "plateau.json", "--run", "run")
    assert found.code == 0
    assert "6 steps, 0 growths; parameters 303 -> 303" in found.out
    assert "\nlast decision: step 6: waiting: val_loss improved to 2.072\n" in found.out


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        ("no_experiment", ("returns a Sequential", "topograph.Experiment")),
        ("loose_inputs", ("example_inputs is a Tensor", "give a tuple")),
        ("no_steps", ("steps is 0", "at least 1")),
        ("raises", ("ValueError", "(cli_broken.py, line ")),
    ],
)
def test_an_experiment_that_is_none_makes_no_run(cli, folder, name, phrases):
    before = tree(folder)
    refused(cli("grow", f"cli_broken:{name}", *GROW), *phrases)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("name", "policy", "phrases"),
    [
        ("failing_training", "every", ("train fails: KeyError", "(cli_broken.py, line ")),
        ("one_metric", "every", ("validate returns a float", "metrics by name")),
        ("unprobed", "every", ("probe returns nothing", "(inputs, target)")),
        ("diverging", "every", ("'val_loss' is nan",)),
        ("unwatched", "plateau", ("watches 'val_loss'", "given accuracy")),
    ],
)
def test_an_experiment_that_fails_leaves_a_run_that_can_be_read(cli, name, policy, phrases):
    words = ("grow", f"cli_broken:{name}", "--policy", f"{policy}.json", "--run", "run")
    refused(cli(*words), *phrases)
    assert cli("history", "run").code == 0
    assert cli("undo", "run", "--to", 0).code == 0  # the lock was given back


def test_a_policy_that_fits_nowhere_makes_no_run(cli, folder):
    text = (folder / "every.json").read_text()
    (folder / "every.json").write_text(text.replace('"relu"', '"conv2d"'))
    refused(cli("grow", "cli_models:experiment", *GROW), "'conv2d'", "nearest")
    assert not (folder / "run").exists()


def test_an_interruption_ends_with_130_and_gives_the_lock_back(cli):
    found = cli("grow", "cli_broken:interrupted", *GROW)
    assert found.code == 130
    assert found.err == "error: interrupted; what was finished is kept\n"
    assert cli("undo", "run", "--to", 0).code == 0


def test_what_the_system_refuses_is_one_message(cli, folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refused(cli("inspect", "cli_models:ResNet"), "No such file or directory; check the path")


def test_the_demo_grows_and_leaves_everything_in_its_run(cli, folder):
    found = cli("demo", "--run", "run", "--epochs", "12")
    assert found.code == 0, found.err
    assert "\n1 growth in 12 epochs" in found.out
    assert "held-out digits  before it grew  at the end  not grown" in found.out
    assert re.search(r"\n parameters +830 +1,806 +830 ", found.out)
    assert found.out.endswith(
        "\nthe run: run\nthe final model: run/model.safetensors\nthe report: run/report.html\n"
    )
    names = {path.name for path in (folder / "run").iterdir()}
    assert {
        "policy.json",
        "journal.sqlite",
        "model.safetensors",
        "report.html",
        "revisions",
    } <= names
    history = tg.read_history("run")
    assert {path.name for path in (folder / "run" / "revisions").iterdir()} == {
        entry.folder for entry in history.entries
    }
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    for phrase in ("predicted", "measured", "conv bottleneck", "<table", "<svg", "val_accuracy"):
        assert phrase in page
    words = ("--model", "topograph.cli.demo:make_model", "--input", "2,1,8,8")
    assert "1,806 parameters" in cli("replay", "run", *words).out


def test_the_demo_without_a_growth_still_compares(cli):
    found = cli("demo", "--run", "short", "--epochs", "2", "--seed", "3")
    assert found.code == 0, found.err
    assert found.out.startswith("0 growths in 2 epochs")


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"trigger": {"kind": "significance", "every": 2}}, "significance needs at least 4"),
        ({"scorer": "natural"}, "natural needs at least 2"),
        ({"scorer": "features"}, "features needs at least 2"),
    ],
)
def test_a_probe_of_too_few_batches_makes_no_run(cli, folder, change, phrase):
    policy = json.loads((folder / "every.json").read_text()) | change
    write_json(folder / "every.json", policy)
    (folder / "short.py").write_text(SHORT)
    refused(cli("grow", "short:one", *GROW), f"{phrase} probe batches; short:one: probe gives 1")
    assert not (folder / "run").exists()
    assert cli("grow", "short:enough", *GROW).code == 0


SHORT = """
from dataclasses import replace
import cli_models

def one():
    return replace(cli_models.experiment(), probe=lambda: cli_models.probe()[:1])

def enough():
    return replace(cli_models.experiment(), probe=lambda: iter(cli_models.probe() * 2))
"""
