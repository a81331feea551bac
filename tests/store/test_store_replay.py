"""Base model + journal = the same network, bit by bit."""

from pathlib import Path

import pytest
import torch
from store_networks import IMAGES, build, grown, same_bits, snapshot, train
from torch import nn

import topograph as tg
from topograph.store import Run, read_topology
from topograph.store.tensors import load_state, pack, unpack
from topograph.tracing import TracedModel


@pytest.fixture
def states(run: Run, traced: TracedModel) -> list[dict[str, torch.Tensor]]:
    """Two growths with training between; the states of entries 0 to 4."""
    found, current = [snapshot(traced.module)], traced
    for seed in (1, 2):
        train(current, seed)
        found.append(snapshot(current.module))
        revision = grown(current)
        run.commit(revision)
        current = revision.after
        found.append(snapshot(current.module))
    return found


@pytest.mark.parametrize("number", [None, 0, 1, 2, 3, 4])
def test_topology_and_weights(
    path: Path, states: list[dict[str, torch.Tensor]], number: int | None
) -> None:
    model = build(seed=9)
    again = tg.replay(path, model, (IMAGES,), number=number)
    assert again.topology.fingerprint == read_topology(path, number).fingerprint
    assert same_bits(again.module.state_dict(), states[-1 if number is None else number])
    assert again.module.get_parameter("head.weight") is again.module.get_parameter("embed.weight")
    assert again.module.get_parameter("embed.weight") is model.embed.weight


def test_outputs_and_a_second_growth(
    run: Run, path: Path, states: list[dict[str, torch.Tensor]]
) -> None:
    first, second = (tg.replay(path, build(seed), (IMAGES,)) for seed in (7, 8))
    for replayed in (first, second):
        replayed.module.eval()
    assert torch.equal(first.module(IMAGES), second.module(IMAGES))
    assert run.commit(grown(first)).number == 5  # what was replayed is the head, no checkpoint


def test_after_an_undo(run: Run, path: Path, states: list[dict[str, torch.Tensor]]) -> None:
    run.undo()
    again = tg.replay(path, build(seed=9), (IMAGES,))
    assert same_bits(again.module.state_dict(), states[3])


def test_another_base_model(run: Run, path: Path) -> None:
    other = build()
    other.act = nn.GELU()
    before = snapshot(other)
    with pytest.raises(tg.DriftError, match=r"(?s)entry 0 was made from tests\.store:Awk.*gelu"):
        tg.replay(path, other, (IMAGES,))
    assert same_bits(other.state_dict(), before)


def test_untied_base_model(run: Run, path: Path) -> None:
    other = build()
    other.head.weight = nn.Parameter(other.head.weight.detach().clone())
    with pytest.raises(tg.DriftError, match=r"Build the same base model"):
        tg.replay(path, other, (IMAGES,))


def test_damage_leaves_the_model_as_it_was(run: Run, path: Path) -> None:
    file = path / "revisions" / run.head.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    model = build(seed=5)
    before = snapshot(model)
    with pytest.raises(tg.CorruptError, match=r"model\.safetensors: expected SHA-256"):
        tg.replay(path, model, (IMAGES,))
    assert same_bits(model.state_dict(), before)


def test_load_state_names_all_that_differs() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tensors = snapshot(model)
    tensors["0.weight"] = torch.zeros(3, 2)
    tensors["1.bias"] = tensors.pop("0.bias")
    tensors["extra"] = torch.zeros(1, dtype=torch.int8)
    before = snapshot(model)
    with pytest.raises(tg.StoreError) as caught:
        load_state(model, tensors, "entry 3")
    for line in (
        "entry 3 does not fit this model",
        "0.bias: only in the model",
        "extra: only in the run",
        "0.weight: the run has [3, 2] float32, the model [2, 2] float32",
    ):
        assert line in str(caught.value)
    assert same_bits(model.state_dict(), before)


def test_load_state_compares_ties() -> None:
    tied, loose = (
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
    )
    tied[1].weight = tied[0].weight
    with pytest.raises(tg.StoreError, match=r"1\.weight: tied to nothing in the run, to 0\.weight"):
        load_state(tied, loose.state_dict(), "x")
    with pytest.raises(tg.StoreError, match=r"1\.weight: tied to 0\.weight in the run, to nothing"):
        load_state(loose, tied.state_dict(), "x")


class Odd(nn.Module):
    """Tensors that share storage without being tied, and other rarities."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.register_buffer("front", whole[:6])
        self.register_buffer("overlap", whole[3:9])
        self.register_buffer("transposed", whole.reshape(3, 4).t())
        self.register_buffer("expanded", torch.tensor([1.0, 2.0])[:, None].expand(2, 3))
        self.register_buffer("image", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
        self.register_buffer("conjugated", torch.tensor([1 + 2j]).conj())
        self.register_buffer("negative", torch.tensor([1 + 2j]).conj().imag)
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("void", torch.zeros(0, 3))
        bits = torch.tensor([0x7FC00001, -1], dtype=torch.int32)  # two NaNs with payloads
        self.register_buffer("not_numbers", bits.view(torch.float32))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("eight", torch.ones(3).to(torch.float8_e4m3fn))


def test_rare_tensors_come_back() -> None:
    model, other = Odd(), Odd()
    state = pack(model)
    assert state.aliases == {}
    tensors = unpack(state.content, state.keys, state.aliases, Path("model.safetensors"))
    with torch.no_grad():
        other.image.zero_()
        other.expanded[:, 0] = 7.0
        other.not_numbers.zero_()
    load_state(other, tensors, "entry 0")
    assert pack(other) == state
    assert other.image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, device="meta"), r"'value' is on the meta device .*materialise"),
        (torch.zeros(2).to_sparse(), r"'value' is sparse or quantized; store a dense one"),
        (torch.zeros(2, dtype=torch.complex128), r"cannot hold torch\.complex128, .* of value"),
    ],
)
def test_tensors_that_cannot_be_stored(value: torch.Tensor, message: str) -> None:
    model = nn.Module()
    model.register_buffer("value", value)
    with pytest.raises(tg.StoreError, match=message):
        pack(model)


def test_extra_state_cannot_be_stored() -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> object:
            return {"a": 1}

    with pytest.raises(tg.StoreError, match=r"'_extra_state' is a dict, not an ordinary tensor"):
        pack(Extra())
