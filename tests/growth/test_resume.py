"""A run that is killed, or closed, goes on bit-equal to one that never was."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

import topograph as tg
from tests.growth.training import STEPS, Training
from tests.nets import same
from tests.often import often


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    path, training = tmp_path_factory.mktemp("whole") / "run", Training()
    with training.begin(path) as grower:
        training.run(grower)
    return path, training.end(grower), tg.read_history(path)


def test_the_run_has_seen_everything(whole):
    outcomes = [decision.outcome for decision in whole[2].decisions]
    assert {"grew", "trial", "undone", "waiting"} <= set(outcomes)
    assert outcomes.count("undone") == 2
    assert {d.rule for d in whole[2].decisions if d.outcome == "grew"} == {
        "wider",
        "rule 2",
        "rule 3",
    }


@pytest.mark.parametrize("stop", often(range(STEPS), range(0, STEPS, 2)))
def test_stopped_after_any_step_it_goes_on_bit_equal(stop, whole, tmp_path):
    first = Training()
    grower = first.begin(tmp_path / "run")
    first.run(grower, until=stop)
    grower.run.close()
    torch.manual_seed(99)
    second = Training()
    grower = second.resume(tmp_path / "run")
    assert grower.steps == stop
    with grower:
        second.run(grower)
    assert same(second.end(grower), whole[1])
    history = tg.read_history(tmp_path / "run")
    assert history.curve == whole[2].curve
    assert history.decisions == whole[2].decisions
    assert [e.topology_sha256 for e in history.entries] == [
        e.topology_sha256 for e in whole[2].entries
    ]


def test_saved_every_fifth_step(whole, tmp_path):
    training = Training()
    grower = training.begin(tmp_path / "run", save=5)
    training.run(grower, until=10)
    training.run(grower, until=11)
    grower.run.close()
    training = Training()
    grower = training.resume(tmp_path / "run", save=5)
    assert grower.steps <= 11
    with grower:
        training.run(grower)
    assert same(training.end(grower), whole[1])
    assert tg.read_history(tmp_path / "run").curve == whole[2].curve


def test_a_closed_run_can_be_trained_further(tmp_path):
    training = Training()
    with training.begin(tmp_path / "run") as grower:
        training.run(grower, until=5)
    training = Training()
    with training.resume(tmp_path / "run") as grower:
        training.run(grower, until=7)
    assert [entry.kind for entry in tg.read_history(tmp_path / "run").entries].count(
        "checkpoint"
    ) >= 2


WORKER = "from tests.growth.test_resume import serve; serve()"


def serve():
    """Fork a child for each path on standard input, so that torch is imported once."""
    import torch._dynamo  # an optimizer imports it at its first step, for seconds

    import topograph.growth  # noqa: F401  (else every child imports it)

    torch.set_num_threads(1)
    for line in sys.stdin:
        if os.fork() == 0:
            work(Path(line.strip()))
            os._exit(0)
        os.wait()
        say("gone")


def work(path):
    """Train, or go on; say this process, each step once it is saved, and the end."""
    say(os.getpid())
    training = Training()
    grower = training.resume(path) if (path / "journal.sqlite").exists() else training.begin(path)
    with grower:
        for until in range(grower.steps + 1, STEPS + 1):
            training.run(grower, until=until)
            say(until)
    say(f"end {fingerprint(training.end(grower))}")


def say(text):
    os.write(1, f"{text}\n".encode())


def fingerprint(value):
    """Return a digest of nested values, bit by bit."""
    found = hashlib.sha256()
    for leaf in pytree.tree_leaves(value):
        found.update(leaf.numpy().tobytes() if isinstance(leaf, torch.Tensor) else b"")
        found.update(repr(leaf).encode() if not isinstance(leaf, torch.Tensor) else b"")
    return found.hexdigest()


def test_killed_at_random_and_started_again_until_it_is_done(tmp_path):
    """Both runs in processes of their own, so that they use the same number of threads."""
    dice, kills = random.Random(5), 3
    server = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def told(path, killed):
        """Return what a training said that is killed after its next saved step, or not at all."""
        print(path, file=server.stdin, flush=True)
        child, lines = int(server.stdout.readline()), []
        for line in server.stdout:
            if line == "gone\n":
                return lines
            lines.append(line.strip())
            if killed and len(lines) == 1:
                time.sleep(dice.uniform(0.0, 0.1))
                with suppress(ProcessLookupError):  # it was done before
                    os.kill(child, signal.SIGKILL)

    with server:
        whole = told(tmp_path / "whole", killed=False)
        reached = [told(tmp_path / "killed", killed=True)[-1] for _ in range(kills)]
        last = told(tmp_path / "killed", killed=False)
        server.stdin.close()
    assert whole[-1].startswith("end ")
    assert last[-1] == whole[-1]
    assert reached[0] == "1" or int(reached[0]) > 1
    steps = [int(step) for step in reached if not step.startswith("end")]
    assert steps == sorted(steps)  # nothing that was said to be saved was lost
    assert len(set(steps)) == len(steps)
