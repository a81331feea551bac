"""Blocks of random models for one kind of value: images, tokens; and from one kind to another."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.random_blocks import channels, norm


class Conv(nn.Module):
    """Convolution, norm, activation in place."""

    def __init__(self, shape, width, kernel, stride, padding, dilation, groups, norm_kind):
        super().__init__()
        kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        reach = tuple(dilation * (k - 1) for k in kernels)
        if padding == "half" or any(r >= s for r, s in zip(reach, shape[1:], strict=True)):
            padding = tuple(r // 2 for r in reach)
        if padding == "same":
            stride = 1  # torch has no "same" with strides
        width = shape[0] if groups == "depthwise" else width
        groups = shape[0] if groups == "depthwise" else math.gcd(groups, math.gcd(shape[0], width))
        self.conv = nn.Conv2d(
            shape[0], width, kernel, stride, padding, dilation, groups, bias=norm_kind is None
        )
        self.norm = nn.Identity() if norm_kind is None else norm((width, 1, 1), norm_kind)
        self.act = nn.ReLU(inplace=norm_kind != "layer")

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Pool(nn.Module):
    def __init__(self, shape, form):
        super().__init__()
        size = tuple(min(2, s) for s in shape[1:])
        self.form, self.max, self.mean = form, nn.MaxPool2d(size), nn.AvgPool2d(size)

    def forward(self, x):
        match self.form:
            case "max":
                return self.max(x)
            case "mean":
                return self.mean(x)
            case "function":
                return F.max_pool2d(x, 3, stride=2, padding=1)
            case "adaptive":
                return F.adaptive_avg_pool2d(x, (2, 1))
            case "pad":
                return F.pad(x, (0, 1, 1, 0))[:, :, 1:, 1:]
        small = F.avg_pool2d(x, 3, 1, 1)[..., ::2, ::2]
        return F.interpolate(small, size=x.shape[-2:], mode="nearest")


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.down, self.up = form, nn.Linear(shape[0], 2), nn.Linear(2, shape[0])

    def forward(self, x):
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))), inplace=True)))
        if self.form == "view":
            return x * gate.view(x.size(0), x.size(1), 1, 1)
        return x * gate[:, :, None, None].expand_as(x)


class Linear(nn.Module):
    """Linear, norm, activation."""

    def __init__(self, shape, width, norm_kind, bias):
        super().__init__()
        self.linear = nn.Linear(shape[-1], width, bias=bias)
        sizes = (*shape[:-1], width)
        self.norm = nn.Identity() if norm_kind is None else norm(sizes, norm_kind)
        self.act = nn.GELU() if bias else nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.norm(self.linear(x)))


class Norm(nn.Module):
    def __init__(self, shape, norm_kind):
        super().__init__()
        self.norm = norm(shape, norm_kind)

    def forward(self, x):
        return self.norm(x)


class TorchAttention(nn.Module):
    """`nn.MultiheadAttention`, which returns a tuple."""

    def __init__(self, shape, form, batch_first):
        super().__init__()
        self.form, self.batch_first, width = form, batch_first, shape[-1]
        self.attention = nn.MultiheadAttention(
            width, math.gcd(2, width), dropout=0.2, batch_first=batch_first
        )
        self.register_buffer("mask", torch.ones(shape[0], shape[0]).triu(1).bool())

    def forward(self, x):
        h = x if self.batch_first else x.transpose(0, 1)
        match self.form:
            case "weights":
                h, weights = self.attention(h, h, h)
                h = h * weights.mean()
            case "masked":
                h, _ = self.attention(h, h, h, attn_mask=self.mask, need_weights=False)
            case _:
                h = self.attention(query=h, key=h, value=h, need_weights=False)[0]
        return h if self.batch_first else h.transpose(0, 1)


class OwnAttention(nn.Module):
    """Attention written out: heads by view or unflatten, scores by torch or by hand."""

    def __init__(self, shape, heads, scores):
        super().__init__()
        self.width, self.style, self.scores = shape[-1], heads, scores
        self.heads = math.gcd(2, self.width)
        self.qkv, self.out = (
            nn.Linear(self.width, 3 * self.width),
            nn.Linear(self.width, self.width),
        )
        self.drop = nn.Dropout(0.1)

    def split(self, x):
        batch, tokens, width = x.shape
        size = width // self.heads
        if self.style == "permute":
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, size)
            return qkv.permute(2, 0, 3, 1, 4)
        parts = self.qkv(x).chunk(3, dim=-1)
        if self.style == "view":
            return [p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts]
        return [p.unflatten(-1, (self.heads, size)).transpose(-3, -2) for p in parts]

    def forward(self, x):
        q, k, v = self.split(x)
        match self.scores:
            case "causal":
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "dropout":
                p = 0.2 if self.training else 0.0
                y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
            case "softmax":
                scores = (q @ k.transpose(-2, -1)) * q.size(-1) ** -0.5
                y = self.drop(scores.softmax(dim=-1)) @ v
            case "masked":
                tokens = x.shape[1]
                mask = torch.ones(tokens, tokens, device=x.device).tril() == 0
                scores = torch.matmul(q, k.mT) / math.sqrt(q.shape[-1])
                y = F.softmax(scores.masked_fill(mask, float("-inf")), -1) @ v
            case _:
                y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).contiguous().view(x.shape[0], -1, self.width))


class Recurrent(nn.Module):
    def __init__(self, shape, cell, layers, bidirectional, batch_first):
        super().__init__()
        self.cell, self.batch_first, width = cell, batch_first, shape[-1]
        made = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[cell]
        self.rnn = made(
            width, 4, layers, batch_first=batch_first, bidirectional=bidirectional,
            dropout=0.2 if layers > 1 else 0.0,
        )  # fmt: skip
        self.out = nn.Linear(8 if bidirectional else 4, width)
        self.last = nn.Linear(4, width)

    def forward(self, x):
        h = x if self.batch_first else x.transpose(0, 1)
        h, state = self.rnn(h)
        state = state[0] if self.cell == "lstm" else state
        h = h if self.batch_first else h.transpose(0, 1)
        return x + self.out(h) + self.last(state[-1])[:, None]


class TokenMixer(nn.Module):
    """A layer over tokens."""

    def __init__(self, shape, form):
        super().__init__()
        self.form = form
        self.linear, self.norm = nn.Linear(shape[0], shape[0]), nn.LayerNorm(shape[-1])
        self.conv = nn.Conv1d(shape[-1], shape[-1], 3, padding=1, groups=shape[-1])

    def forward(self, x):
        h = self.norm(x).transpose(1, 2)
        return x + (self.conv(h) if self.form == "conv" else self.linear(h)).transpose(1, 2)


class Position(nn.Module):
    """Positions added to tokens, or a class token before them."""

    def __init__(self, shape, form):
        super().__init__()
        tokens, width = shape
        self.form, self.embedding = form, nn.Embedding(tokens + 2, width)
        self.table = nn.Parameter(torch.randn(1, tokens + 2, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x):
        match self.form:
            case "embedding":
                return x + self.embedding(torch.arange(x.shape[1], device=x.device))
            case "class token":
                return torch.cat([self.token.expand(x.size(0), -1, -1), x], 1)
            case "repeated":
                return torch.cat((x, self.token.repeat(x.shape[0], 1, 1)), dim=1)
        return x + self.table[:, : x.size(1)]


class Encoder(nn.Module):
    """A whole layer of torch, which has a path of its own in eval."""

    def __init__(self, shape, norm_first):
        super().__init__()
        width = shape[-1]
        heads = math.gcd(2, width)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 8, batch_first=True, norm_first=norm_first
        )

    def forward(self, x):
        return self.layer(x)


class Patchify(nn.Module):
    """Images to tokens."""

    def __init__(self, shape, form, width):
        super().__init__()
        self.form, self.size = form, tuple(math.ceil(s / 2) for s in shape[1:])
        self.conv = nn.Conv2d(shape[0], width, self.size, self.size)
        self.linear = nn.Linear(shape[0] * math.prod(self.size), width)

    def forward(self, x):
        if self.form == "unfold":
            return self.linear(F.unfold(x, self.size, stride=self.size).transpose(1, 2))
        if self.form == "pool":
            pooled = F.adaptive_avg_pool2d(x, 2).permute(0, 2, 3, 1)
            return pooled.reshape(x.shape[0], -1, x.shape[1])
        return self.conv(x).flatten(2).transpose(1, 2)


class ToRow(nn.Module):
    """Images or tokens to one row for each sample."""

    def __init__(self, shape, form, width):
        super().__init__()
        self.form, self.axes = form, (2, 3) if len(shape) == 3 else (1,)
        self.images, self.flat = len(shape) == 3, nn.Flatten()
        self.out = nn.Linear(math.prod(shape) if "flat" in form else channels(shape), width)

    def forward(self, x):
        match self.form:
            case "flatten":
                h = torch.flatten(x, 1)
            case "flat module":
                h = self.flat(x)
            case "max":
                h = x.flatten(2).max(2).values if self.images else torch.max(x, 1)[0]
            case "pool":
                h = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1) if self.images else x[:, 0]
            case _:
                h = x.mean(self.axes)
        return self.out(h)
