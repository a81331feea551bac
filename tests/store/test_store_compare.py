"""Two checkpoints: which tensors differ, by how much, and what the order of units explains."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import topograph as tg
from topograph import CheckpointDiff
from topograph.topology.tensors import number


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def shuffled(model):
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in state.items():
        if value.ndim and key[0] in "01":
            state[key] = value[order]
    state["3.weight"] = state["3.weight"][:, order]
    return state


def test_a_state_and_itself_do_not_differ():
    model = net()
    found = tg.compare(model, model.state_dict())
    assert not found
    assert str(found) == "no changes in 9 tensors"


def test_numbers_are_those_of_the_definitions():
    before = {"w": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "same": torch.ones(2)}
    after = {"w": torch.tensor([[3.0, 0.0], [1.0, 2.0]]), "same": torch.ones(2)}
    (change,) = tg.compare(before, after).tensors
    gap = after["w"] - before["w"]
    assert change.relative == pytest.approx(float(torch.linalg.matrix_norm(gap)) / 5)
    assert (change.largest, change.entries, change.of) == (2.0, 2, 4)
    expected = torch.cosine_similarity(before["w"].flatten(), after["w"].flatten(), dim=0)
    assert change.cosine == pytest.approx(float(expected))
    assert str(change) == (
        "~ w  [2, 2] float32  relative 0.4472, largest 2, cosine 0.9087, 2 of 4 entries"
    )


def test_what_is_in_one_only_comes_first_and_the_rest_by_its_size():
    before = {"a": torch.ones(2), "b": torch.ones(2), "gone": torch.ones(3), "z": torch.ones(2)}
    after = {"a": torch.ones(2) * 1.1, "b": torch.ones(2) * 2, "new": torch.ones(1, 2)}
    found = tg.compare(before, after | {"z": torch.ones(5)})
    assert [(c.path, c.change) for c in found.tensors] == [
        ("gone", "removed"), ("new", "added"), ("z", "resized"), ("b", "changed"), ("a", "changed"),
    ]  # fmt: skip
    assert str(found).splitlines()[:3] == [
        "- gone  [3] float32", "+ new  [1, 2] float32", "* z  [2] float32 -> [5] float32",
    ]  # fmt: skip
    assert CheckpointDiff.parse(found.dump()) == found


@pytest.mark.parametrize(
    ("before", "after", "relative", "entries"),
    [
        (torch.zeros(2), torch.ones(2), None, 2),
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 2.0]), None, 1),
        (torch.tensor([math.inf]), torch.tensor([1.0]), None, 1),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), 0.0, 0),
        (torch.tensor(3), torch.tensor(6), 1.0, 1),
        (torch.tensor([3 + 4j]), torch.tensor([0j]), 1.0, 2),
    ],
)
def test_odd_numbers_are_compared_and_stay_json(before, after, relative, entries):
    found = tg.compare({"w": before}, {"w": after})
    (change,) = found.tensors
    assert (change.relative, change.entries) == (relative, entries)
    assert CheckpointDiff.parse(found.dump()) == found


def test_equal_nans_tied_keys_and_empty_tensors_are_no_difference():
    tied = torch.ones(2)
    state = {"nan": torch.tensor([math.nan]), "a": tied, "b": tied, "empty": torch.ones(0, 3)}
    found = tg.compare(state, {key: value.clone() for key, value in state.items()})
    assert not found
    assert found.same == 4
    assert tg.compare(state, state).same == 3


def test_a_permutation_of_hidden_units_shows_as_none():
    model = net()
    traced = tg.trace(model, (torch.zeros(2, 4),))
    other = shuffled(model)
    assert len(tg.compare(traced, other).tensors) == 3
    found = tg.compare(traced, other, align=True)
    assert not found
    assert str(found) == "no changes in 9 tensors\n0: 7 of 8 units matched elsewhere"
    assert tg.compare(model, other, align=True, like=traced) == found
    other["3.bias"] = other["3.bias"] + 0.5
    found = tg.compare(other, traced, align=True)
    assert [(c.path, round(c.largest, 6)) for c in found.tensors] == [("3.bias", 0.5)]


def test_files_and_entries_of_runs(tmp_path):
    model = net()
    traced = tg.trace(model, (torch.zeros(2, 4),))
    save_file(shuffled(model), tmp_path / "b.safetensors")
    with tg.Run.create(tmp_path / "run", traced, model="pkg.mod:net") as run:
        with torch.no_grad():
            model[3].bias += 1
        run.checkpoint(traced)
    found = tg.compare(f"{tmp_path}/run@0", f"{tmp_path}/run@1")
    assert [c.path for c in found.tensors] == ["3.bias"]
    assert tg.compare(tmp_path / "run", traced) == tg.compare(traced, traced)
    found = tg.compare(tmp_path / "run", tmp_path / "b.safetensors", align=True, like=traced)
    assert [c.path for c in found.tensors] == ["3.bias"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.pt", b"x", tg.StoreError, r"a\.pt: is a pickle, which can run code .*; load it where"),
        ("a.safetensors", b"x", tg.CorruptError, r"a\.safetensors: not a safetensors file \("),
        ("none.safetensors", None, tg.StoreError, r"none\.safetensors: no such file or run; check"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        tg.compare(tmp_path / name, {})


def test_a_key_that_stands_twice_in_a_file(tmp_path):
    one = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + one + b"," + one + b"}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises((tg.SpecError, tg.CorruptError), match=r"a\.safetensors: "):
        tg.compare(path, {})


@pytest.mark.parametrize(
    ("before", "options", "message"),
    [
        (3, {}, r"compare takes traced models, .* got a int; pass model\.state_dict\(\)"),
        ({"w": 3}, {}, r"state dict: 'w' is a int, not a tensor; pass the state dict of"),
        ({}, {"align": True}, r"align: tensors do not say .*; pass a traced model as one"),
    ],
)
def test_what_cannot_be_compared(before, options, message):
    with pytest.raises(tg.SpecError, match=message):
        tg.compare(before, {}, **options)


def test_a_cosine_near_one_is_told_from_one():
    assert [number(v) for v in (1.0, 1 - 2e-7, 0.5, None)] == ["1", "1-2e-07", "0.5", "none"]
