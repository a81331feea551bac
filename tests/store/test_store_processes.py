"""Other processes: a second writer, readers, SIGKILL, a full disk, a user without rights."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from store_networks import MODEL, files_of, traced_network

import topograph as tg
from tests.store.conftest import Worker
from topograph.store import Run, read_history, read_tensors, read_topology
from topograph.tracing import TracedModel


@pytest.fixture
def closed(path: Path, traced: TracedModel) -> Path:
    Run.create(path, traced, model=MODEL).close()
    return path


def kill(worker: Worker, child: int) -> list[str]:
    os.kill(child, signal.SIGKILL)
    return worker.rest()


def test_second_writer_is_told_who_writes(worker: Worker, closed: Path) -> None:
    child = worker.ask("hold", closed)
    assert worker.line() == "holding"
    message = rf"run: process {child} on \S+ \(since 20\S+\) is writing to it; wait until"
    with pytest.raises(tg.LockedError, match=message):
        Run.open(closed)
    with pytest.raises(tg.LockedError, match=message):
        tg.store.undo_run(closed)
    assert len(read_history(closed).entries) == 1  # reading needs no lock
    kill(worker, child)
    Run.open(closed).close()  # the kernel has dropped the lock of the dead process


def test_second_writer_in_one_process(run: Run, path: Path) -> None:
    with pytest.raises(tg.LockedError, match=rf"process {os.getpid()} on"):
        Run.open(path)


def test_child_of_a_fork_can_neither_write_nor_unlock(worker: Worker, closed: Path) -> None:
    worker.ask("child", closed)
    said = worker.rest()
    assert "used in its child" in said[0]
    assert said[1].startswith("LockedError")


MORE = [pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 200)]


@pytest.mark.parametrize("seed", [*range(10), *MORE])
def test_killed_while_committing(worker: Worker, closed: Path, seed: int) -> None:
    chance = random.Random(seed)
    child = worker.ask("commit", closed)
    assert worker.line() == "open"
    acknowledged = [int(worker.line()) for _ in range(chance.randint(0, 4))]
    assert len(read_history(closed).entries) > max(acknowledged, default=0)  # while it writes
    time.sleep(chance.uniform(0, 0.06))
    acknowledged += [int(line) for line in kill(worker, child)]

    history = read_history(closed)
    assert len(history.entries) - 1 >= max(acknowledged, default=0)
    head = history.entries[-1]
    assert read_topology(closed).fingerprint == head.topology_sha256
    state = read_tensors(closed)
    with Run.open(closed) as run:
        assert run.head == head
        assert run.history == history
        named = {entry.folder for entry in history.entries}
        assert set(os.listdir(closed / "revisions")) == named  # swept
        run.undo(to=0)
    for entry in history.entries:
        read_tensors(closed, entry.number)
    assert list(read_tensors(closed, head.number)) == list(state)


FULL = [(0, "topology.json"), (6_000, "topology.json"), (20_000, "journal.sqlite")]


@pytest.mark.parametrize(("largest", "file"), FULL)
def test_full_disk_changes_nothing(worker: Worker, closed: Path, largest: int, file: str) -> None:
    """The limit stops the first revision, the second (after a checkpoint's), or the journal."""
    before, entries = files_of(closed), read_history(closed).entries
    worker.ask("limited", closed, largest)
    failure, head = worker.rest()
    assert failure.startswith("StoreError: ")
    assert f"/{file}: " in failure
    assert failure.endswith("nothing was changed")
    assert head == "number 0"
    assert read_history(closed).entries == entries
    Run.open(closed).close()
    assert files_of(closed) == before


@pytest.mark.parametrize(("largest", "file"), FULL)
def test_commit_again_after_a_full_disk(
    worker: Worker, closed: Path, largest: int, file: str
) -> None:
    worker.ask("retried", closed, largest)
    failure, success = worker.rest()
    assert f"/{file}: " in failure
    assert success == "number 2"
    assert [e.kind for e in read_history(closed).entries] == ["base", "checkpoint", "apply"]
    for number in range(3):
        read_tensors(closed, number)


def test_user_without_rights(worker: Worker, traced: TracedModel) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user without rights")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        Run.create(folder / "run", traced, model=MODEL).close()
        worker.ask("unprivileged", folder / "run")
        reading, opening, creating = worker.rest()
    finally:
        shutil.rmtree(folder)
    assert reading == "number 0"
    assert opening.startswith("StoreError: ")
    assert opening.endswith("lock: cannot be opened for writing (Permission denied); "
                            "choose a folder that you may write to")  # fmt: skip
    assert "new: cannot be made (Permission denied)" in creating


def test_runs_of_one_network_are_independent(tmp_path: Path) -> None:
    for name in "ab":
        Run.create(tmp_path / name, traced_network(), model=MODEL).close()
    shutil.rmtree(tmp_path / "a")
    assert len(read_tensors(tmp_path / "b")) > 0
