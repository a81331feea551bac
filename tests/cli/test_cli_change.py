"""Plan, apply, and what a run directory answers: history, report, undo, replay."""

import json
import os
import stat

import pytest
from cli_words import MODEL, refused, tree, write_json
from safetensors.torch import load_file

import topograph as tg

REPLAY = ("replay", "run", "--model", *MODEL)


def test_plan_prints_changes_and_exits_with_2(cli, folder):
    found = cli("plan", *MODEL, "insert.json", "-o", "plan.json")
    assert found.code == 2
    assert found.err == ""
    assert "\n    + bottleneck_1_sum  add of relu_1, bottleneck_1_expand -> [N, 12]\n" in found.out
    assert "\n~ linear_2  linear\n    inputs: [relu_1] -> [bottleneck_1_sum]\n" in found.out
    assert "\nparameters: 303 -> 503 (+200, +66.0%)\n" in found.out
    assert "\nok  output in eval: max |Δy| = 0\n" in found.out
    assert found.out.endswith("\n\nwrote plan.json\n")
    as_json = cli("plan", *MODEL, "insert.json", "--json")
    assert as_json.code == 2
    assert as_json.out == (folder / "plan.json").read_text()


def test_plan_and_apply_write_nothing_else(planned, folder):
    before = tree(folder)
    planned("plan", *MODEL, "insert.json")
    assert tree(folder) == before
    assert planned("apply", *MODEL, "plan.json", "--run", "run").code == 0
    assert {name: c for name, c in tree(folder).items() if not name.startswith("run/")} == before


def test_a_second_plan_on_the_run_says_no_changes(applied):
    found = applied("plan", *MODEL, "insert.json", "--run", "run")
    assert found.code == 0
    assert found.out.startswith("no changes")
    as_json = applied("plan", *MODEL, "insert.json", "--run", "run", "--json")
    assert as_json.code == 0
    assert json.loads(as_json.out)["changes"] == []


def test_apply_to_a_run_goes_on_from_its_last_entry(applied, folder):
    where = {"kind": "at", "node": "bottleneck_1_sum"}
    block = {"kind": "linear"}
    write_json(folder / "more.json", {"kind": "insert_layer", "where": where, "block": block})
    assert applied("plan", *MODEL, "more.json", "--run", "run", "-o", "more.plan").code == 2
    found = applied("apply", *MODEL, "more.plan", "--run", "run")
    assert found.code == 0, found.err
    assert "\nentry 2 of run: revisions/000002-" in found.out
    assert [entry.kind for entry in tg.read_history("run").entries] == ["base", "apply", "apply"]


def test_an_empty_plan_changes_nothing(applied, folder):
    applied("plan", *MODEL, "insert.json", "--run", "run", "-o", "empty.json")
    before = tree(folder)
    found = applied("apply", *MODEL, "empty.json", "--run", "run")
    assert (found.code, found.out) == (0, "no changes: the plan is empty\n")
    refused(applied("apply", *MODEL, "empty.json", "--run", "other"), "made for the topology")
    assert tree(folder) == before


def test_score_and_plan_follow_each_other_on_a_run(applied):
    words = ("--data", "cli_models:probe", "--run", "run")
    model = "cli_models:make_model"
    best = ("--loss", "cross_entropy", "--top", 1, "-o", "best.json")
    scored = applied("score", model, *words, *best)
    assert scored.code == 0, scored.err
    assert f"next: topograph plan {model} best.json --data cli_models:probe" in scored.out
    assert applied("plan", model, "best.json", *words).code == 2


def test_history_lists_entries_and_is_json_on_request(applied):
    found = applied("history", "run")
    assert found.code == 0
    assert found.out.startswith("cli_models:make_model")
    assert "bottleneck_1, bottleneck_2" in found.out
    assert "+200" in found.out
    as_json = applied("history", "run", "--json")
    assert tg.History.parse(as_json.out) == tg.read_history("run")


def test_report_is_one_file_in_the_run_or_elsewhere(applied, folder):
    assert applied("report", "run").out == "wrote run/report.html\n"
    assert applied("report", "run", "-o", "r.html").out == "wrote r.html\n"
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert page == (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "bottleneck_1" in page
    assert "src=" not in page


def test_undo_goes_back_and_forth_and_deletes_nothing(applied, folder):
    before = tree(folder / "run" / "revisions")
    base, grown = (entry.topology_sha256 for entry in tg.read_history("run").entries)
    found = applied("undo", "run")
    assert found.code == 0
    assert found.out.startswith(f"entry 2: back at topology {base[:12]}, weights of revisions/0000")
    refused(applied("undo", "run"), "nothing to undo")
    assert applied("undo", "run", "--to", 1).out.startswith(
        f"entry 3: back at topology {grown[:12]}"
    )
    assert tree(folder / "run" / "revisions") == before
    refused(applied("undo", "run", "--to", 99), "there is no entry 99", "topograph history")


def test_replay_builds_any_entry_and_writes_its_weights(applied, folder):
    found = applied(*REPLAY, "-o", "last.safetensors")
    assert found.code == 0, found.err
    assert "503 parameters" in found.out
    assert found.out.endswith("\nwrote last.safetensors\n")
    assert sum(t.numel() for t in load_file(folder / "last.safetensors").values()) == 503
    first = applied(*REPLAY, "--at", 0)
    assert "303 parameters" in first.out
    refused(applied(*REPLAY, "--at", 7), "there is no entry 7")


def test_replay_of_another_model_shows_the_difference(applied):
    result = applied("replay", "run", "--model", "cli_models:ResNet", "--input", "2,3,8,8")
    refused(result, "entry 0 was made from cli_models:make_model", "+ conv1")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("inspect", *MODEL), "-o"),
        (("inspect", *MODEL), "--html"),
        (("plan", *MODEL, "insert.json"), "-o"),
        (("report", "run"), "-o"),
        (REPLAY, "-o"),
        (("diff", "a.json", "b.json"), "-o"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(applied, folder, command, option):
    tg.read_topology("run", 0).save(folder / "a.json")
    tg.read_topology("run", 1).save(folder / "b.json")
    before = tree(folder)
    refused(applied(*command, option, "run"), "run: is a folder")
    refused(applied(*command, option, "."), ".: is a folder")
    refused(applied(*command, option, "insert.json/out"), "insert.json/out: cannot be written")
    assert tree(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(planned, folder):
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(planned("plan", *MODEL, "insert.json", "-o", "closed/p"), "Permission denied")
    refused(planned("apply", *MODEL, "plan.json", "--run", "closed/run"), "Permission denied")
