"""Small networks, their data, and the oracles that several rooms are tested against."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topograph as tg
from tests.often import often
from topograph.sensitivity import mean_loss

Batches = list[tuple[Any, Any]]


class ResidualMlp(nn.Module):
    """Two residual blocks without a norm, so that the stream is read by several layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + torch.tanh(self.first(h))
        h = h + torch.tanh(self.second(h))
        return self.head(h)


class Twice(nn.Module):
    """Reads one value in two slots of one call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(h + h)


class Skip(nn.Module):
    """A layer that hands back its input, on one side of a sum."""

    def __init__(self, passing: nn.Module) -> None:
        super().__init__()
        self.a, self.passing, self.b = nn.Linear(5, 5), passing, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(self.passing(h).sin() + h * h)


class Cnn(nn.Module):
    """Convolutions of 1, 2 or 3 dimensions, BatchNorm, ReLU in place, pooling."""

    def __init__(self, dimensions: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
        self.conv1, self.norm1 = conv(2, 4, 3, padding=1), norm(4)
        self.conv2, self.norm2 = conv(4, 3, 3, padding=1, stride=2), norm(3)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm1(self.conv1(x)))
        h = self.act(self.norm2(self.conv2(h)))
        return self.head(h.flatten(2).mean(2))


class Vit(nn.Module):
    """One pre-LN block of attention and token MLP, written out."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 8), nn.Linear(8, width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = self.qkv(self.norm1(h)).chunk(3, -1)
        h = h + self.dropout(self.out(F.scaled_dot_product_attention(q, k, v)))
        h = h + self.dropout(self.down(F.gelu(self.up(self.norm2(h)))))
        return self.head(h.mean(1))


class Named(nn.Module):
    """Two named inputs, a dict as output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.a(left))
        return {"logits": h * self.b(right), "hidden": h}


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3))


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "residual": (ResidualMlp, (5,)),
    "twice": (Twice, (5,)),
    "identity": (lambda: Skip(nn.Identity()), (5,)),
    "dropout": (lambda: Skip(nn.Dropout(0.5)), (5,)),
    "cnn1d": (lambda: Cnn(1), (2, 8)),
    "cnn": (Cnn, (2, 6, 6)),
    "cnn3d": (lambda: Cnn(3), (2, 4, 4, 4)),
    "vit": (Vit, (5, 4)),
}
NETS = often(SHAPES, ("mlp", "residual", "cnn", "vit"))
FEW = often(SHAPES, ("mlp", "cnn"))


def make(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tg.TracedModel:
    """Return a traced network with statistics in its norms that are not the trivial ones."""
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    factory, shape = SHAPES[name]
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.bias, 0.2, 1.0)  # most of what a ReLU gets is alive
    traced = tg.trace(model.to(dtype), (torch.randn(2, *shape, dtype=dtype),))
    torch.random.set_rng_state(generator_state)
    return traced


def data(
    name: str, count: int = 1, *, size: int = 8, seed: int = 1, dtype: torch.dtype = torch.float64
) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        x = torch.randn(size, *SHAPES[name][1], generator=generator, dtype=dtype)
        batches.append((x, torch.randint(0, 3, (size,), generator=generator)))
    return batches


def rings(count: int = 128, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points in the plane and the ring each lies in: no line parts them."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randint(0, 2, (count,), generator=generator)
    angle = torch.rand(count, generator=generator) * 6.2832
    radius = 1 + 1.5 * ring + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring


def places_of(traced: tg.TracedModel, block: Any, *, edges: bool = False) -> list[Any]:
    """Return the block at every node that takes it, or on every use of a value."""
    if not edges:
        wanted = [tg.InsertLayer(where=tg.all(), block=block)]
    else:
        wanted = [
            tg.InsertLayer(where=tg.between(e.source, e.target, e.slot), block=block)
            for e in traced.topology.edges
        ]
    return [c for c in tg.candidates(traced, wanted) if isinstance(c, tg.InsertLayer)]


def measured(
    traced: tg.TracedModel, score: tg.Score, batches: Batches, step: float, loss: Any = None
) -> float:
    """Return the decrease of the loss at a step along a score's direction, by ``step ** order``."""
    loss = loss or F.cross_entropy
    plan = tg.plan(traced, [score.mutation])
    revision = tg.apply(traced, plan, directions=[score], step=step)
    before = mean_loss(traced, batches, loss)
    return (before - mean_loss(revision.after, batches, loss)) / step**score.order


def frozen_copy(module: nn.Module) -> dict[str, Any]:
    """Return all that a call must not change, to be compared by `same`."""
    return {
        "state": {name: t.detach().clone() for name, t in module.state_dict().items()},
        "identity": {name: id(t) for name, t in module.state_dict(keep_vars=True).items()},
        "grads": {
            n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()
        },
        "asked": {n: p.requires_grad for n, p in module.named_parameters()},
        "modes": {n: m.training for n, m in module.named_modules()},
        "hooks": {n: len(m._forward_hooks) for n, m in module.named_modules()},
        "rng": torch.random.get_rng_state(),
    }


def same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, tensors bit by bit, NaN equal to NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return (
            first.shape == second.shape
            and first.dtype == second.dtype
            and bool(torch.equal(first.nan_to_num(nan=1.23), second.nan_to_num(nan=1.23)))
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, Sequence) and not isinstance(first, str):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
