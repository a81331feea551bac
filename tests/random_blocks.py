"""Blocks of random models: what people write in real ones, each small; any stage can have them.

Every block takes the sizes of one sample first, (C, H, W), (T, C) or (C,), then its options. Where
an option does not fit the sizes, the nearest one that fits is taken: every description is a model.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDEST = 16


def channels(shape):
    return shape[0] if len(shape) == 3 else shape[-1]


def axis(shape):
    return 1 if len(shape) == 3 else -1


def per_channel(shape, values):
    """Return one number for each channel in a shape that broadcasts over a batch of samples."""
    return values.reshape(-1, 1, 1) if len(shape) == 3 else values


def layer(shape, width=None):
    width = width or channels(shape)
    if len(shape) == 3:
        return nn.Conv2d(shape[0], width, 3, padding=1)
    return nn.Linear(shape[-1], width)


class ChannelsMoved(nn.Module):
    """Gives a layer its channels last, or in axis 1, and moves them back."""

    def __init__(self, inner, images):
        super().__init__()
        self.inner, self.images = inner, images

    def forward(self, x):
        if self.images:
            return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


def norm(shape, kind):
    width, images, tokens = channels(shape), len(shape) == 3, len(shape) == 2
    if kind in ("layer", "rms"):
        inner = nn.LayerNorm(width) if kind == "layer" else nn.RMSNorm(width)
        return ChannelsMoved(inner, True) if images else inner
    batch = (nn.BatchNorm2d if images else nn.BatchNorm1d)(width)
    inner = batch if kind == "batch" else nn.GroupNorm(math.gcd(2, width), width)
    return ChannelsMoved(inner, False) if tokens else inner


MODULES = {
    "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "hardswish": nn.Hardswish, "prelu": nn.PReLU,
}  # fmt: skip


class Activation(nn.Module):
    """As a module, a function of torch or of `F`, or a method."""

    def __init__(self, shape, name, form):
        super().__init__()
        self.name, self.form = name, form
        self.act = MODULES[name]() if form == "module" or name == "prelu" else None

    def forward(self, x):
        if self.act is not None:
            return self.act(x)
        if self.form == "method" and hasattr(x, self.name):
            return getattr(x, self.name)()
        return getattr(torch if hasattr(torch, self.name) else F, self.name)(x)


class InPlace(nn.Module):
    """Writes to a value that a layer has just made, which the backward pass does not need."""

    def __init__(self, shape, form):
        super().__init__()
        self.form = form
        self.layer, self.gate = layer(shape), layer(shape)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.layer(x)
        match self.form:
            case "F.relu_":
                return F.relu_(h)
            case "module":
                return self.act(h)
            case "inplace=True":
                return F.silu(h, inplace=True)
            case "dropout":
                return F.dropout(h, 0.3, self.training, inplace=True)
            case "+=":
                h += x
            case "mul_":
                h.mul_(torch.sigmoid(self.gate(x)))
            case "add_":
                h.add_(x, alpha=0.5)
            case "part":
                h[:, :1] *= 2
            case "setitem":
                h[:, 0] = 1.5
            case "view":
                h.flatten(1).mul_(2)
        return h


class DropPath(nn.Module):
    """Drops whole samples of a residual branch while training."""

    def forward(self, x):
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < 0.7
        return x * kept / 0.7


class Residual(nn.Module):
    """Adds a body's result to its input, projected where their sizes differ."""

    def __init__(self, shape, bodies, shapes, form, norm_kind="layer"):
        super().__init__()
        self.form, self.body, self.project = form, bodies[0], self.projection(shape, shapes[0])
        self.norm = norm(shape if form == "pre-norm" else shapes[0], norm_kind)
        self.out, self.drop = layer(shapes[0]), DropPath()
        self.gate = nn.Parameter(per_channel(shapes[0], torch.ones(channels(shapes[0]))))

    @staticmethod
    def projection(shape, wanted):
        if shape == wanted:
            return nn.Identity()
        if len(shape) < 3:
            return nn.Linear(shape[-1], wanted[-1])
        halved = tuple(math.ceil(size / 2) for size in shape[1:])
        if wanted[1:] in (shape[1:], halved):
            return nn.Conv2d(shape[0], wanted[0], 1, stride=1 if wanted[1:] == shape[1:] else 2)
        return nn.Sequential(nn.AdaptiveAvgPool2d(wanted[1:]), nn.Conv2d(shape[0], wanted[0], 1))

    def forward(self, x):
        shortcut = self.project(x)
        match self.form:
            case "pre-norm":
                return shortcut + self.body(self.norm(x))
            case "post-norm":
                return self.norm(shortcut + self.body(x))
            case "+=":
                h = self.out(self.body(x))
                h += shortcut
                return h.relu_()
            case "scaled":
                return shortcut + self.gate * self.body(x)
            case "drop path":
                return shortcut + self.drop(self.body(x))
            case "checkpoint":
                return shortcut + checkpoint(self.body, x, use_reentrant=False)
        return shortcut + self.body(x)


class Branches(nn.Module):
    """Joins the results of several bodies; images of other sizes are pooled to the first's."""

    def __init__(self, shape, bodies, shapes, form):
        super().__init__()
        self.form, self.bodies, self.axis = form, nn.ModuleList(bodies), axis(shape)
        self.size = shapes[0][1:] if len(shape) == 3 else None
        widths = [channels(s) for s in shapes]
        if form != "cat":
            pairs = zip(bodies, shapes, strict=True)
            self.bodies = nn.ModuleList(nn.Sequential(b, layer(s, widths[0])) for b, s in pairs)
        wide = sum(widths) > WIDEST and form == "cat"
        joined = (sum(widths), *shapes[0][1:]) if self.size else (sum(widths),)
        self.fuse = layer(joined, widths[0]) if wide else None

    def forward(self, x):
        parts = [body(x) for body in self.bodies]
        if self.size:
            parts = [
                p if p.shape[2:] == self.size else F.adaptive_avg_pool2d(p, self.size)
                for p in parts
            ]
        if self.form == "cat":
            joined = torch.cat(parts, self.axis)
            return joined if self.fuse is None else self.fuse(joined)
        return sum(parts) if self.form == "sum" else torch.stack(parts).mean(0)


class Split(nn.Module):
    """Takes a value apart along its channels and puts it together again."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.axis, self.width = form, axis(shape), channels(shape)
        self.up = layer(shape, 2 * self.width)

    def forward(self, x):
        h, width = self.up(x), self.width
        match self.form:
            case "split":
                first, second = h.split([1, 2 * width - 1], dim=self.axis)
                return torch.cat([second, first], dim=self.axis)
            case "unequal":
                return sum(p.mean(self.axis, keepdim=True) for p in h.split(3, self.axis)) * x
            case "narrow":
                return h.narrow(self.axis, 0, width) - h.narrow(self.axis, width, width)
            case "shuffle":
                h = h.movedim(self.axis, 1)
                batch, wide, *rest = h.shape
                h = (
                    h.view(batch, 2, wide // 2, *rest)
                    if h.is_contiguous()
                    else h.unflatten(1, (2, -1))
                )
                return h.transpose(1, 2).reshape(batch, wide, *rest).movedim(1, self.axis)
            case "glu":
                return F.glu(h, self.axis)
        value, gate = h.chunk(2, dim=self.axis)
        return value * torch.sigmoid(gate)


class Shared(nn.Module):
    """One module, called several times, perhaps under two names."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.first = form, layer(shape)
        self.again = self.first if form == "alias" else None

    def forward(self, x):
        if self.form == "loop":
            for _ in range(3):
                x = torch.tanh(self.first(x))
            return x
        h = F.silu(self.first(x))
        return (self.again or self.first)(h)


class Tied(nn.Module):
    """Two layers with one weight, or a weight that is read directly."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.images = form, len(shape) == 3
        self.first = layer(shape)
        self.second = None if form in ("read", "transposed") else layer(shape)
        if form == "weight":
            self.second.weight = self.first.weight
        elif form == "all":
            self.second.weight, self.second.bias = self.first.weight, self.first.bias
        elif form == "parameter":
            self.scale = self.first.bias

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if self.second is not None:
            h = self.second(h)
            return h + self.scale.mean() if self.form == "parameter" else h
        weight = (
            self.first.weight.transpose(0, 1) if self.form == "transposed" else self.first.weight
        )
        return F.conv2d(h, weight, padding=1) if self.images else F.linear(h, weight)


class Dropout(nn.Module):
    def __init__(self, shape, form, p):
        super().__init__()
        self.form, self.p = form, p
        self.drop = nn.Dropout2d(p) if len(shape) == 3 else nn.Dropout(p)

    def forward(self, x):
        match self.form:
            case "function":
                return F.dropout(x, self.p, self.training)
            case "keyword":
                return F.dropout(x, p=self.p, training=self.training)
            case "probability":
                return F.dropout(x, self.p if self.training else 0.0)
            case "alpha":
                return F.alpha_dropout(x, self.p, self.training)
        return self.drop(x)
