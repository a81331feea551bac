"""A run to test with, and a second process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_networks import MODEL, traced_network

import topograph as tg
from topograph.store import Run
from topograph.tracing import TracedModel


class Worker:
    """The process of `store_worker.py`: ask it for a child, read the lines that the child says."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("store_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(tg.__file__).parents[1]),
                "OMP_NUM_THREADS": "1",
            },
        )
        assert self.line() == "ready"

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self, what: str, path: Path, number: int = 0) -> int:
        """Start a child; return its process id."""
        self.process.stdin.write(f"{what} {path} {number}\n")
        self.process.stdin.flush()
        return int(self.line())

    def rest(self) -> list[str]:
        """Return all lines until the child is gone."""
        return list(iter(self.line, "gone"))


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.process.stdin.close()
    worker.process.wait(timeout=10)
    worker.process.stdout.close()


@pytest.fixture
def traced() -> TracedModel:
    return traced_network()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(path: Path, traced: TracedModel) -> Iterator[Run]:
    with Run.create(path, traced, model=MODEL) as run:
        yield run
