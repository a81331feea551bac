"""A small network with all that is awkward to store, and what the tests do to it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import topograph as tg
from topograph.rewrite import Revision
from topograph.tracing import TracedModel

IMAGES = torch.linspace(-1, 1, 12).reshape(3, 4)
MODEL = "tests.store:Awkward"


class Awkward(nn.Module):
    """Tied weights, BatchNorm's integer counter, a 0-dimensional buffer, bfloat16, one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight
        self.low = nn.Linear(4, 2).bfloat16()
        self.low.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.embed(images)))
        return self.low((self.head(hidden) * self.scale).bfloat16())


def build(seed: int = 0) -> Awkward:
    torch.manual_seed(seed)
    return Awkward()


def traced_network(seed: int = 0) -> TracedModel:
    return tg.trace(build(seed), (IMAGES,))


def grown(traced: TracedModel) -> Revision:
    wanted = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
    # the second growth asks for another size: one that is already there would be no change
    wanted = wanted.model_copy(
        update={"block": tg.Bottleneck(units=4 + len(traced.topology.applied))}
    )
    return tg.apply(traced, tg.plan(traced, [wanted]))


def train(traced: TracedModel, seed: int = 1) -> None:
    """Move every tensor of the state, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in traced.module.state_dict().values():
            noise = torch.randint(1, 9, value.shape, generator=generator)
            value.add_(noise.to(value.dtype))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same keys in the same order, dtypes, shapes and bytes."""
    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


def files_of(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every revision file of a run."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((path / "revisions").rglob("*"))
        if file.is_file()
    }
