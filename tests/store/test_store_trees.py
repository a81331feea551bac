"""A state in a folder of its own: written over another one, at any moment one of them is whole."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from store_campaign import state_of

from tests.often import often
from tests.store.conftest import Worker
from topograph.errors import CorruptError, StoreError
from topograph.store import read_tree, write_tree
from topograph.store.folders import exchange_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_tree_takes_the_place_of_another_and_leaves_nothing(tmp_path: Path) -> None:
    for number in range(3):
        write_tree(tmp_path / "state", {"number": number})
        assert read_tree(tmp_path / "state") == {"number": number}
        assert names(tmp_path) == ["state"]


def test_what_a_crash_leaves_is_read_then_swept(tmp_path: Path) -> None:
    place, old, staging = (tmp_path / name for name in ("state", ".old-state", ".staging-state"))
    write_tree(place, {"number": 1})
    place.rename(old)  # killed between the two renames
    staging.mkdir()
    (staging / "state.json").write_text("{")
    assert read_tree(place) == {"number": 1}
    write_tree(place, {"number": 2})
    assert read_tree(place) == {"number": 2}
    assert names(tmp_path) == ["state"]
    write_tree(old, {"number": 1})  # killed before the old one was deleted
    assert read_tree(place) == {"number": 2}
    write_tree(place, {"number": 3})
    assert (read_tree(place), names(tmp_path)) == ({"number": 3}, ["state"])


def test_a_tree_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "state"
    write_tree(place, {"number": 1})
    with pytest.raises(StoreError, match=r"\.staging-state/no/such/file: cannot be written"):
        exchange_folder(place, {"state.json": b"{}", "no/such/file": b""})
    assert (read_tree(place), names(tmp_path)) == ({"number": 1}, ["state"])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"state: is missing, .* take another one"):
        read_tree(tmp_path / "state")


@pytest.mark.parametrize("kills", often([8, 100], [8]))
def test_kills(worker: Worker, tmp_path: Path, kills: int) -> None:
    place, chance = tmp_path / "state", random.Random(1)
    write_tree(place, {"number": 0, "state": state_of(0)})
    for _ in range(kills):
        before = read_tree(place)["number"]
        child = worker.ask("trees", place, before)
        said = [worker.line() for _ in range(1 + chance.randint(0, 3))]
        time.sleep(chance.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        done = [int(line) for line in [*said, *worker.rest()] if line != "open"]
        found = read_tree(place)
        assert found["number"] - max([before, *done]) in (0, 1)
        assert str(found["state"]) == str(state_of(found["number"]))
    assert names(tmp_path)[-1] == "state"
