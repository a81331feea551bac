"""A stranger's folder, and the command line called in this process."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_words import MODEL, Result, write_json

os.environ.pop("FORCE_COLOR", None)  # read by rich when its console is made

from topograph.cli.app import main
from topograph.cli.output import WIDE, console

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An own folder as the working directory, with models, mutations and policies."""
    for name in ("cli_models", "cli_broken"):
        shutil.copy(HERE / f"{name}.py", tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", WIDE)
    insert = {
        "kind": "insert_layer",
        "where": {"kind": "after", "op": "relu"},
        "block": {"kind": "bottleneck", "units": 4},
    }
    write_json(tmp_path / "insert.json", [insert])
    growing = {"trigger": {"kind": "every", "steps": 2}, "candidates": [insert]}
    write_json(tmp_path / "every.json", growing)
    watching = {**growing, "trigger": {"kind": "plateau", "metric": "val_loss"}}
    write_json(tmp_path / "plateau.json", watching)
    return tmp_path


@pytest.fixture
def cli(folder, monkeypatch, capsys):
    """Run the command line on words; return exit code, stdout and stderr."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["topograph", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Result(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def planned(cli):
    """The same, with plan.json for the model."""
    assert cli("plan", *MODEL, "insert.json", "-o", "plan.json").code == 2
    return cli


@pytest.fixture
def applied(planned):
    """The same, with the plan carried out in the run directory ``run``."""
    assert planned("apply", *MODEL, "plan.json", "--run", "run").code == 0
    return planned
