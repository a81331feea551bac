"""What README says can be typed, can be typed."""

import json
import re
import runpy
from pathlib import Path

import pytest
import typer.main

from topograph.cli.app import app
from topograph.spec import Policy

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_use_runs_as_it_stands(tmp_path, capsys):
    program = tmp_path / "use.py"
    program.write_text(blocks("python")[0], encoding="utf-8")
    runpy.run_path(str(program))
    printed = capsys.readouterr().out
    assert "conv_bottleneck after" in printed
    assert "ok  output in eval: max |Δy| = 0" in printed
    assert "6 kept, 3 added, 0 dropped" in printed


def test_the_policy_is_valid():
    assert Policy.parse(blocks("json")[0]).budget.revisions == 3
    json.loads(blocks("json")[0])


def test_every_command_that_readme_names_exists():
    known = typer.main.get_command(app).commands
    named = set(re.findall(r"(?:^|`)topograph +([a-z]+)", README, re.MULTILINE)) - {"edits"}
    assert {"inspect", "plan", "apply", "undo", "diff", "grow", "demo"} <= named
    assert named <= known.keys()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_readme_quotes_the_first_table_of_every_result(path):
    first = re.search(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[0] in README
    assert (ROOT / "benchmarks" / f"{path.stem}.py").exists()
