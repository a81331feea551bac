"""What the tests of the command line share: a model, a result, a document, a file tree."""

import json
from pathlib import Path
from typing import NamedTuple

MODEL = ("cli_models:make_model", "--input", "2,8")


class Result(NamedTuple):
    code: int
    out: str
    err: str


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its content.

    Left out are what Python compiles, SQLite's index for readers, and the name of a lock's holder.
    """
    passing = (".pyc", "-shm", "-wal", "lock")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(passing)
    }


def refused(result: Result, *phrases: str) -> None:
    """Assert one message on stderr that says all this, and nothing on stdout."""
    assert result.code == 2, result
    assert result.err.startswith("error: "), result
    assert result.err.count("error:") == 1, result
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err
    assert result.out == ""
    for phrase in phrases:
        assert phrase in result.err, result.err
