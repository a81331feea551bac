"""The networks that the benchmarks share; `activation` makes one layer, e.g. ``nn.ReLU``."""

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


def normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    """Return what a norm makes of a value, or the value where there is none."""
    return x if norm is None else norm(x)


class Dense(nn.Module):
    """One layer of an `Mlp`: ``act(W x)``, or ``x + act(W g(x))`` where it is residual."""

    def __init__(self, width: int, activation: Activation, residual: bool, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else None
        self.linear, self.act, self.residual = nn.Linear(width, width), activation(), residual

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        made = self.act(self.linear(normed(x, self.norm)))
        return x + made if self.residual else made


class Mlp(nn.Module):
    """A stem, `depth` layers of one width, and a head; plain, residual or pre-norm residual."""

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        outputs: int,
        activation: Activation = nn.ReLU,
        residual: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        layers = [Dense(width, activation, residual, norm) for _ in range(depth)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        return self.head(self.layers(self.stem(x)))


class Pair(nn.Module):
    """Two 3 x 3 convolutions, with a shortcut around them where it is residual."""

    def __init__(
        self, inputs: int, width: int, activation: Activation, residual: bool, norm: bool
    ) -> None:
        super().__init__()
        stride = 1 if inputs == width else 2
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=not norm)
        self.norm1, self.norm2 = (nn.BatchNorm2d(width) if norm else None for _ in range(2))
        self.act1, self.act2, self.residual = activation(), activation(), residual
        self.shortcut = nn.Sequential()
        if residual and stride == 2:
            self.shortcut.append(nn.Conv2d(inputs, width, 1, 2, bias=not norm))
            if norm:
                self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        made = self.act1(normed(self.conv1(x), self.norm1))
        made = normed(self.conv2(made), self.norm2)
        return self.act2(made + self.shortcut(x) if self.residual else made)


class ConvNet(nn.Module):
    """Stages of convolution pairs on 3-channel images; ``(16, 32, 64), 3`` is ResNet-20."""

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        pairs: int = 3,
        outputs: int = 10,
        activation: Activation = nn.ReLU,
        residual: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(widths[0]) if norm else None
        self.act = activation()
        before = [widths[0], *(w for w in widths for _ in range(pairs))]
        self.pairs = nn.Sequential(
            *(Pair(a, b, activation, residual, norm) for a, b in itertools.pairwise(before))
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        return self.head(self.pairs(self.act(normed(self.stem(x), self.norm))).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention with four plain linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        n, t, c = x.shape
        q, k, v = (
            part.reshape(n, t, self.heads, c // self.heads).transpose(1, 2)
            for part in (self.q(x), self.k(x), self.v(x))
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class Encoder(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width),
            activation(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for a batch."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Vit(nn.Module):
    """A vision transformer on square 3-channel images, with the mean of the tokens at its head."""

    def __init__(
        self,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        size: int = 32,
        patch: int = 4,
        outputs: int = 10,
        activation: Activation = nn.GELU,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Embedding((size // patch) ** 2, width)
        self.blocks = nn.Sequential(*(Encoder(width, heads, activation) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the value for a batch."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position.weight
        return self.head(self.norm(self.blocks(tokens)).mean(1))
