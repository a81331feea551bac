"""Blocks of random models that are about how people write Python: modes, sizes, state."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.random_blocks import axis, channels, layer, per_channel


class ByMode(nn.Module):
    """Computes one thing in train and another in eval."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.first, self.second = form, layer(shape), layer(shape)

    def noisy(self, x, training):
        return x + 0.1 * torch.randn_like(x) if training else x

    def forward(self, x):
        match self.form:
            case "noise":
                return self.noisy(self.first(x), self.training)
            case "function":
                return torch.tanh(x) if self.training else F.silu(x)
            case "layer":
                return self.first(x) if self.training else self.second(x)
            case "constant":
                return self.first(x) * (0.5 if self.training else 2.0)
        if not self.training:
            return x
        return self.first(x)


class Loop(nn.Module):
    """Goes through a container of layers."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.axis, self.width = form, axis(shape), channels(shape)
        layers = [layer(shape) for _ in range(2)]
        if form == "features":
            self.layers = nn.ModuleList([layer(shape, 2), layer((self.width + 2, *shape[1:]), 2)])
            if len(shape) < 3:
                self.layers = nn.ModuleList([layer(shape, 2), nn.Linear(self.width + 2, 2)])
        elif form == "dict":
            self.layers = nn.ModuleDict({"first": layers[0], "second": layers[1]})
        elif form == "sequential":
            self.layers = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(0.2), layers[1])
        else:
            self.layers = nn.ModuleList(layers)
        scales = per_channel(shape, torch.ones(self.width))
        self.scales = nn.ParameterList(nn.Parameter(scales.clone()) for _ in range(2))

    def forward(self, x):
        match self.form:
            case "enumerate":
                for index, one in enumerate(self.layers):
                    x = one(x) if index % 2 else torch.tanh(one(x))
            case "reversed":
                for one in reversed(self.layers):
                    x = F.gelu(one(x))
            case "dict":
                for name, one in self.layers.items():
                    x = one(x) if name == "first" else x + one(x)
            case "sequential":
                x = self.layers[:2](x) + self.layers[3](x)
            case "parameters":
                for scale, one in zip(self.scales, self.layers, strict=True):
                    x = scale * one(x)
            case "features":
                features = [x]
                for one in self.layers:
                    features.append(one(torch.cat(features, self.axis)))
                x = torch.cat(features, self.axis)
            case _:
                for one in self.layers:
                    x = torch.tanh(one(x))
        return x


class ByShape(nn.Module):
    """Reads sizes: branches on them, reshapes and computes with them."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.first, self.second = form, layer(shape), layer(shape)

    def forward(self, x):
        match self.form:
            case "branch":
                assert x.ndim in (2, 3, 4)
                return self.first(x) if x.shape[-1] > 4 and x.size(0) > 0 else self.second(x)
            case "rank":
                x = x.reshape(x.size(0), -1).view(x.shape)
            case "length":
                x = x.reshape(len(x), x.size()[1:].numel()).reshape(x.size())
            case "star":
                batch, *rest = x.shape
                x = x.reshape(batch * rest[0], *rest[1:]).reshape(batch, *rest)
            case "minus one":
                x = x.flatten().view(-1, *x.shape[1:])
            case "sum / batch":
                x = x - x.sum(0, keepdim=True) / x.shape[0]
            case "1 / batch":
                x = x * (1 / x.shape[0])
            case "root of batch":
                x = x / x.shape[0] ** 0.5
            case "int(batch)":
                x = x.reshape(int(x.shape[0]), *x.shape[1:])
            case "numel":
                x = x * (x.numel() // x.shape[0])
            case "shape.numel":
                x = x.reshape(x.shape.numel()).reshape(x.shape)
            case "loop":
                x = torch.stack([x[..., index] * index for index in range(x.shape[-1])], -1)
        return self.first(x)


class Buffer(nn.Module):
    """Reads buffers; those that are not persistent have the same numbers in every model."""

    def __init__(self, shape, form):
        super().__init__()
        width = channels(shape)
        self.form, self.axis = form, axis(shape)
        self.register_buffer("none", None)
        self.register_buffer("order", torch.arange(width).flip(0), persistent=False)
        self.register_buffer("mask", torch.arange(shape[-1]) % 2 == 0)
        scale = per_channel(shape, torch.linspace(0.5, 1.5, width))
        self.register_buffer("scale", scale, persistent=form != "not persistent")

    def forward(self, x):
        match self.form:
            case "order":
                return x.index_select(self.axis, self.order)
            case "mask":
                return x.masked_fill(self.mask, 0.5)
        return x * self.scale if self.none is None else x * self.none


class Running(nn.Module):
    """Writes to its buffers while training."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.axes = form, tuple(range(len(shape) + 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.form == "always":
            self.steps += 1
            return x + self.mean
        if self.training:
            mean = x.detach().mean(self.axes)
            match self.form:
                case "lerp_":
                    self.mean.lerp_(mean, 0.1)
                case "copy_":
                    self.mean.copy_(0.9 * self.mean + 0.1 * mean)
                case "rebound":
                    self.mean = 0.9 * self.mean + 0.1 * mean
                case "no_grad":
                    with torch.no_grad():
                        self.mean.mul_(0.9).add_(0.1 * mean)
            self.steps += 1
        return x - self.mean


class Stopped(nn.Module):
    """Keeps gradients, or a lower precision, from a part of the computation."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.first, self.second = form, layer(shape), layer(shape)

    @torch.no_grad()
    def target(self, x):
        return self.second(x)

    def forward(self, x):
        h = self.first(x)
        match self.form:
            case "detach":
                return h + (self.second(x) - h).detach()
            case "no_grad":
                with torch.no_grad():
                    target = self.second(x)
                return h * target
            case "decorated":
                return h * self.target(x)
            case "no autocast":
                with torch.autocast("cpu", enabled=False):
                    return h + self.second(x.float())
            case "autocast":
                with torch.autocast("cpu", torch.bfloat16):
                    return h + self.second(x)


class Raw(nn.Module):
    """Uses parameters of its own, without a layer."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.axis, width = form, axis(shape), channels(shape)
        self.weight = nn.Parameter(torch.randn(width, width) / width)
        self.bias = nn.Parameter(per_channel(shape, torch.zeros(width)))
        self.parts = nn.ParameterDict({"scale": nn.Parameter(torch.ones(()))})
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        last = x.movedim(self.axis, -1)
        match self.form:
            case "matmul":
                last = last @ self.weight
            case "einsum":
                last = torch.einsum("...c,cd->...d", last, self.weight)
            case "linear":
                last = F.linear(last, self.weight.softmax(-1))
            case "tensordot":
                last = torch.tensordot(last, self.weight, dims=1)
        return torch.addcmul(self.bias, last.movedim(-1, self.axis), self.parts["scale"])


class Constants(nn.Module):
    """Makes tensors of its own."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.layer = form, layer(shape)

    def forward(self, x):
        h = self.layer(x)
        match self.form:
            case "arange":
                return h + torch.arange(h.shape[-1], device=h.device, dtype=h.dtype)
            case "zeros":
                return torch.maximum(h, torch.zeros(h.shape, device=h.device))
            case "like":
                return torch.where(h > 0, h, torch.zeros_like(h))
            case "new":
                return h * h.new_ones(h.shape[0], *[1] * (h.ndim - 1))
            case "tensor":
                return h * torch.tensor(0.5)
            case "masked":
                mask = torch.ones(h.shape[-1], h.shape[-1], dtype=torch.bool).tril()
                return (h.unsqueeze(-1) * mask).sum(-1)
        return h.to(torch.float64).clamp(min=-1, max=1.0).to(x.dtype).type_as(x)
