"""What the tests of the guard outside its own room share: attack strings, and two canaries."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent / room) for room in ("tracing", "store", "cli")]
guards = import_module("test_guard")  # under the name that pytest gives it: there is one canary

EVIL = guards.EVIL  # would append to `guards.RAN`
TOUCH = "__import__('os').system('touch broken')"  # would make a file
BAD = [EVIL, TOUCH, "a\nb", "x\x1b[31m", "ａ", "a.b"]
nothing_ran = guards._nothing_ran


@pytest.fixture(autouse=True)
def no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "broken").exists()


def shown(name):
    """Return a name as an error shows it, without the quotes around it."""
    return repr(name)[1:-1]


def known(reason):
    """Mark what is a defect now; the test says how it should be."""
    return pytest.mark.xfail(strict=True, reason=reason)
