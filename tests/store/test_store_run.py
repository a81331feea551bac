"""What is written comes back: entries, tensors, undo, the curve."""

import os
from pathlib import Path

import pytest
from store_networks import (
    MODEL,
    files_of,
    grown,
    same_bits,
    snapshot,
    traced_network,
    train,
)

import topograph as tg
from topograph.spec import Growth
from topograph.store import Run, read_history, read_tensors, read_topology, undo_run
from topograph.tracing import TracedModel


def test_base_comes_back(run: Run, path: Path, traced: TracedModel) -> None:
    history = read_history(path)
    assert history.model == MODEL
    assert [(e.number, e.kind, e.stack) for e in history.entries] == [(0, "base", ())]
    assert read_topology(path) == traced.topology
    tensors = read_tensors(path, 0)
    assert same_bits(tensors, traced.module.state_dict())
    assert tensors["head.weight"] is tensors["embed.weight"]
    assert tensors["norm.num_batches_tracked"].shape == ()
    assert "hidden" not in tensors


def test_layout_of_the_folder(run: Run, path: Path) -> None:
    names = sorted(file.name for file in (path / "revisions" / run.head.folder).iterdir())
    assert names == ["manifest.json", "model.safetensors", "topology.json"]
    assert run.head.folder == f"000000-{run.head.manifest_sha256[:12]}"
    run.close()
    assert sorted(os.listdir(path)) == ["journal.sqlite", "lock", "revisions"]
    read_history(path)
    leftovers = set(os.listdir(path)) - {"journal.sqlite", "lock", "revisions"}
    assert leftovers <= {"journal.sqlite-shm", "journal.sqlite-wal"}


def test_commit_writes_a_checkpoint_only_if_tensors_changed(
    run: Run, path: Path, traced: TracedModel
) -> None:
    first = grown(traced)
    entry = run.commit(first, metrics={"loss": 1.5})
    assert (entry.number, entry.kind, entry.stack) == (1, "apply", (1,))
    train(first.after)
    trained = snapshot(first.after.module)
    second = grown(first.after)
    growth = Growth(
        reason="plateau", step=0.5, loss_before=2.0, loss_after=1.0, predicted=-1.0, ranking=(),
        seconds=0.1,
    )  # fmt: skip
    entry = run.commit(second, growth=growth)
    assert (entry.number, entry.kind, entry.stack) == (3, "apply", (1, 3))
    history = read_history(path)
    assert [e.kind for e in history.entries] == ["base", "apply", "checkpoint", "apply"]
    assert history.entries[1].metrics == {"loss": 1.5}
    assert history.entries[1].plan == first.plan
    assert history.entries[3].growth == growth
    assert history.entries[2].stack == (1,)
    assert same_bits(read_tensors(path, 2), trained)


def test_undo_is_bit_equal_to_any_entry(run: Run, path: Path, traced: TracedModel) -> None:
    states, current = [snapshot(traced.module)], traced
    for seed in (1, 2):
        train(current, seed)
        states.append(snapshot(current.module))
        revision = grown(current)
        run.commit(revision)
        current = revision.after
        states.append(snapshot(current.module))
    before = files_of(path)
    for number, state in enumerate(states):
        entry = run.undo(to=number)
        assert entry.kind == "undo"
        assert entry.folder == read_history(path).entries[number].folder
        assert same_bits(read_tensors(path), state)
        assert read_topology(path) == read_topology(path, number)
    assert files_of(path) == before


def test_undo_walks_back_one_plan_at_a_time(run: Run, traced: TracedModel) -> None:
    first = grown(traced)
    run.commit(first)
    run.commit(grown(first.after))
    assert run.undo().stack == (1,)
    assert run.undo().stack == ()
    with pytest.raises(tg.StoreError, match=r"nothing to undo, entry 4 .*; name an entry"):
        run.undo()
    assert run.undo(to=2).stack == (1, 2)  # an undo can be undone


def test_commit_after_an_undo(run: Run, path: Path, traced: TracedModel) -> None:
    revision = grown(traced)
    run.commit(revision)
    run.undo()
    entry = run.commit(revision)
    assert (entry.number, entry.stack) == (3, (3,))
    assert [e.kind for e in read_history(path).entries] == ["base", "apply", "undo", "apply"]


def test_undo_run_needs_no_model(run: Run, path: Path, traced: TracedModel) -> None:
    run.commit(grown(traced))
    run.close()
    before = files_of(path)
    assert undo_run(path).number == 2
    assert undo_run(path, to=1).stack == (1,)
    assert files_of(path) == before
    assert [e.kind for e in read_history(path).entries] == ["base", "apply", "undo", "undo"]


@pytest.mark.parametrize("number", [9, -1, True, 10**30])
def test_unknown_entry(run: Run, path: Path, number: int) -> None:
    for action in (run.undo, lambda n: read_topology(path, n), lambda n: read_tensors(path, n)):
        with pytest.raises(tg.StoreError, match=r"there is no entry .*it has 0 to 0; .*history"):
            action(number)


def test_commit_must_start_at_the_head(run: Run, path: Path, traced: TracedModel) -> None:
    revision = grown(traced)
    before = files_of(path)
    with pytest.raises(tg.StoreError, match=r"expected revision\.before .*entry 0, \w{12}, got"):
        run.commit(grown(revision.after))
    with pytest.raises(tg.StoreError, match=r"expected the model .*entry 0, \w{12}, got \w{12}"):
        run.checkpoint(revision.after)
    assert files_of(path) == before


def test_a_model_that_left_its_topology_is_refused(run: Run, traced: TracedModel) -> None:
    traced.module.double()
    message = r"trace it again:\n  embed\.weight: the topology lists \[4, 4\] float32, .*float64"
    with pytest.raises(tg.StoreError, match=message):
        run.checkpoint(traced)
    assert run.head.number == 0


def test_checkpoint_keeps_the_stack(run: Run, path: Path, traced: TracedModel) -> None:
    revision = grown(traced)
    run.commit(revision)
    train(revision.after)
    entry = run.checkpoint(revision.after, metrics={"accuracy": 1})
    assert (entry.number, entry.kind, entry.stack) == (2, "checkpoint", (1,))
    assert entry.metrics == {"accuracy": 1.0}
    assert same_bits(read_tensors(path), revision.after.module.state_dict())


def test_curve(run: Run, path: Path) -> None:
    run.measure(0, {"loss": 2, "accuracy": 0.5})
    run.measure(10, {"loss": 1e-300})
    curve = read_history(path).curve
    assert [(m.step, m.name, m.value) for m in curve] == [
        (0, "loss", 2.0),
        (0, "accuracy", 0.5),
        (10, "loss", 1e-300),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_metrics_must_be_finite(run: Run, traced: TracedModel, value: float) -> None:
    for action in (
        lambda metrics: run.measure(1, metrics),
        lambda metrics: run.checkpoint(traced, metrics=metrics),
        lambda metrics: run.commit(grown(traced), metrics=metrics),
    ):
        with pytest.raises(tg.NonFiniteError, match=rf"metric 'loss' is {value}; find out"):
            action({"fine": 1.0, "loss": value})
    assert run.history.curve == ()
    assert run.head.number == 0


@pytest.mark.parametrize("step", [-1, 1.5, True, 2**63])
def test_steps_count_from_0(run: Run, step: object) -> None:
    with pytest.raises(tg.StoreError, match=r"step: expected a whole number from 0, got"):
        run.measure(step, {"loss": 1.0})


@pytest.mark.parametrize("name", ["\ud800", "", "a\nb"])
def test_names_can_be_printed(run: Run, tmp_path: Path, traced: TracedModel, name: str) -> None:
    with pytest.raises(tg.StoreError, match=r"metric .*: expected printable text"):
        run.measure(1, {name: 1.0})
    with pytest.raises(tg.StoreError, match=r"model .*: expected printable text"):
        Run.create(tmp_path / "other", traced, model=name)
    assert not (tmp_path / "other").exists()


def test_policy_is_kept(path: Path, traced: TracedModel) -> None:
    wanted = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
    policy = tg.Policy(trigger=tg.Every(steps=5), candidates=(wanted,))
    with Run.create(path, traced, model=MODEL, policy=policy):
        assert tg.Policy.load(path / "policy.json") == policy


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        Run.create(tmp_path / name, traced_network(seed=3), model=MODEL).close()
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_closed_run(run: Run, traced: TracedModel) -> None:
    run.close()
    run.close()
    with pytest.raises(tg.StoreError, match=r"this run is closed; use Run\.open"):
        run.checkpoint(traced)
    with Run.open(run.path) as again:
        assert again.head.number == 0
