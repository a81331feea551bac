"""Small models that bring what real models bring; used by the tests of several rooms."""
# ruff: noqa: E501  (a table has one case in a line)

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ResidualMLP(nn.Module):
    """In-place relu on a fresh value, and sums."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        for layer in self.layers:
            h = h + self.act(layer(h))
        return self.head(h)


class BasicBlock(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        change = nn.Conv2d(inner, outer, 1, stride, bias=False)
        self.downsample = nn.Identity() if (inner, stride) == (outer, 1) else change

    def forward(self, x):
        identity = self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """BatchNorm, ``out += identity``, ``nn.Identity`` shortcuts, flatten."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 6, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.blocks(self.conv(x))), 1))


class VisionTransformer(nn.Module):
    """Pre-norm, own attention with sizes in views, a class token that expands to the batch."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.head = nn.Linear(width, 3)

    def attention(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1) + self.position
        h = h + self.attention(self.norm1(h))
        h = h + self.mlp(self.norm2(h))
        return self.head(h[:, 0])


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        h = self.norm(x)
        y, _ = self.attention(h, h, h, need_weights=False)
        return self.fc(x + y)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(6, 2, 1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in (self.a, self.b):
            features += [F.relu(layer(torch.cat(features, 1)))]
        return self.fc(self.norm(torch.cat(features, 1)).mean((2, 3)))


class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 6)

    def forward(self, x):
        value, gate = self.up(x).chunk(2, dim=-1)
        first, second = self.down(value * F.silu(gate)).split([2, 4], dim=-1)
        return {"first": first, "second": second}


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.fc(self.embedding(tokens) * math.sqrt(8))))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.alias = self.shared

    def forward(self, x):
        return self.head(torch.tanh(self.alias(torch.tanh(self.shared(x)))))


class KeywordsAndNone(nn.Module):
    """Keyword inputs, one of them None, and a dict of outputs with a constant in it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, x, *, other, mask=None, scale=2.0):
        h = self.a(x) + scale * self.b(other)
        h = h if mask is None else h * mask
        return {"logits": h, "parts": (h.sum(1), None), "scale": scale}


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(F.dropout(torch.relu(self.a(x)), 0.5, self.training))


class Odds(nn.Module):
    """A buffer that is not persistent, one that is, and parameters that nothing uses."""

    def __init__(self):
        super().__init__()
        self.fc, self.idle, self.frozen = nn.Linear(6, 6), nn.Linear(2, 2), nn.Linear(6, 3)
        self.spare = nn.Parameter(torch.randn(2))
        self.register_buffer("scale", torch.rand(6), persistent=False)
        self.register_buffer("shift", torch.rand(6))
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(torch.tanh(self.fc(x) * self.scale + self.shift))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.gru, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        h, (state, _) = self.lstm(x)
        return self.fc(self.gru(h)[0][:, -1] + state[-1])


class MeanOfTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(11, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.fc(self.embedding(tokens).mean(dim=1))


class OnData(nn.Module):
    """Which way it goes depends on values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x * 2


class Doubled(torch.autograd.Function):
    """Its backward is not the derivative of its forward, so that losing it shows."""

    forward = staticmethod(lambda ctx, x: x * 2)
    backward = staticmethod(lambda ctx, gradient: gradient * 3)


class Foreign(nn.Module):
    def forward(self, x):
        return Doubled.apply(x)


def with_opaque(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), part, nn.Linear(8, 3))


def norms() -> nn.Module:
    body = (
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.InstanceNorm2d(4, affine=True),
    )
    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *body, nn.Flatten(), nn.Linear(64, 3))


def grouped() -> nn.Module:
    convolutions = (nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Conv2d(4, 6, 1, groups=2))
    return nn.Sequential(nn.Conv2d(3, 4, 1), *convolutions, nn.GELU(), nn.AdaptiveAvgPool2d(2))


@dataclass(frozen=True)
class Example:
    """One model of the zoo with inputs; `model` gives the same weights on every call."""

    name: str
    factory: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return self.factory()

    def __str__(self) -> str:
        return self.name


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(3))


IMAGE, ROW = drawn(2, 3, 8, 8), drawn(3, 6)
ZOO = [
    Example("mlp", lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)), (ROW,)),
    Example("residual", ResidualMLP, (ROW,)),
    Example("resnet", ResNet, (IMAGE,)),
    Example("conv1d", lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 5, 1)), (drawn(2, 3, 8),)),
    Example("conv3d", lambda: nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)), (drawn(2, 2, 4, 4, 4),)),
    Example("vit", VisionTransformer, (IMAGE,)),
    Example("attention", SelfAttention, (drawn(2, 5, 8),)),
    Example("encoder", lambda: nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 3)), (drawn(2, 5, 6),)),
    Example("densenet", DenseNet, (IMAGE,)),
    Example("gated", GatedMLP, (ROW,)),
    Example("grouped", grouped, (IMAGE,)),
    Example("tied", TiedLanguageModel, (tokens(2, 5),)),
    Example("twice", CalledTwice, (ROW,)),
    Example("keywords", KeywordsAndNone, (ROW,), {"other": drawn(3, 5), "mask": None}),
    Example("dropout", FunctionalDropout, (ROW,)),
    Example("odds", Odds, (ROW,)),
    Example("recurrent", Recurrent, (drawn(2, 5, 6),)),
    Example("channels_last", lambda: ResNet().to(memory_format=torch.channels_last), (IMAGE.contiguous(memory_format=torch.channels_last),)),
    Example("bfloat16", lambda: ResidualMLP().bfloat16(), (ROW.bfloat16(),)),
    Example("norms", norms, (drawn(2, 3, 4, 4),)),
    Example("pooling", MeanOfTokens, (tokens(3, 5),)),
    Example("on_data", lambda: with_opaque(OnData()), (ROW,)),
    Example("foreign", lambda: with_opaque(Foreign()), (ROW,)),
    Example("weight_norm", lambda: nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)), (ROW,)),
]  # fmt: skip
BY_NAME = {example.name: example for example in ZOO}
