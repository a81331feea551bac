"""A second process: forks one child for each line it reads, so that torch is imported once.

Lines are ``<what> <path> [number]``; every child prints its process id first.
"""

import os
import resource
import sys
import time
from pathlib import Path

import torch
from store_networks import grown, traced_network, train

import topograph as tg
from topograph.store import Run

torch.set_num_threads(1)
TRACED = traced_network()
REVISION = grown(TRACED)


def say(text: object) -> None:
    os.write(1, f"{text}\n".encode())  # one write: lines of several children do not mix


def hold(path: Path, _: int) -> None:
    with Run.open(path):
        say("holding")
        time.sleep(60)


def commit(path: Path, _: int) -> None:
    """Write entries until killed; say each number once it is committed."""
    with Run.open(path) as run:
        say("open")
        for seed in range(10_000):
            train(TRACED, seed)
            say(run.commit(REVISION).number)
            say(run.undo().number)
            run.measure(seed, {"loss": float(seed)})


def limited(path: Path, largest: int) -> None:
    """Commit under a limit on the size of files, which fails like a full disk."""
    with Run.open(path) as run:
        fail_to_commit(run, largest)
        report(lambda: run.head)


def retried(path: Path, largest: int) -> None:
    """Commit again after the disk was full."""
    with Run.open(path) as run:
        fail_to_commit(run, largest)
        report(lambda: run.commit(REVISION))


def fail_to_commit(run: Run, largest: int) -> None:
    train(TRACED)
    for step in range(10):
        run.measure(step, {"loss": 0.0})  # the write-ahead log is now larger than 30,000 bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    report(lambda: run.commit(REVISION))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def child(path: Path, _: int) -> None:
    """Use a run in a forked child, and close it there."""
    with Run.open(path) as run:
        if os.fork() == 0:
            report(lambda: run.checkpoint(TRACED))
            run.close()
            os._exit(0)
        os.wait()
        report(lambda: Run.open(path))


def unprivileged(path: Path, _: int) -> None:
    """Read and write as a user who may not write there."""
    os.setuid(65534)
    report(lambda: tg.store.read_history(path).entries[-1])
    report(lambda: Run.open(path))
    report(lambda: Run.create(path / "new", TRACED, model="m"))


def report(action) -> None:
    try:
        result = action()
        say(f"number {result.number}" if hasattr(result, "number") else "done")
    except tg.TopographError as error:
        say(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    say("ready")
    for line in iter(sys.stdin.readline, ""):
        what, path, number = line.split()
        if os.fork() == 0:
            say(os.getpid())
            try:
                globals()[what](Path(path), int(number))
            finally:
                os._exit(0)
        os.wait()
        say("gone")
