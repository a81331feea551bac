"""Renaming the units of all free spaces changes nothing, for each family of operations.

The law says that a space is not too coarse in the wrong place and misses nothing; which spaces are
free, and how large they are, is compared with what the layer's definition says.
"""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.widths.laws import assert_units_may_be_renamed, free, traced
from tests.zoo import ZOO
from topograph.widths.dims import leaves

GEN = torch.Generator().manual_seed(4)


class Calls(nn.Module):
    """Layers by name, and what is done with them as a function of the module and its input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self._forward(self, *inputs)


def shaken(model):
    """Give all parameters and buffers values of their own, so that a wrong order shows."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(0.1 + 0.5 * torch.rand(tensor.shape, generator=GEN))
    return model.double()


def row(*shape):
    return torch.randn(shape, generator=GEN, dtype=torch.float64)


def expect(model, inputs, sizes, *, kwargs=None):
    """Check the law, and that exactly these spaces may change."""
    made = traced(shaken(model), *inputs, **(kwargs or {}))
    known = assert_units_may_be_renamed(made, inputs, kwargs)
    assert {name: dim.size for name, dim in free(known).items()} == sizes
    return known


def seq(*layers):
    return nn.Sequential(*layers)


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_every_model_of_the_zoo(example):
    made = traced(example.model(), *example.inputs, **example.kwargs)
    for seed in range(2):
        assert_units_may_be_renamed(made, example.inputs, example.kwargs, seed=seed)


CONVOLUTIONS = {
    "plain": (lambda: seq(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1)), {"0": 4, "2": 5}),
    "depthwise": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)),
        {"0": 4, "2": 2},
    ),
    "depthwise with a multiplier": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)),
        {"0": 4, "1#2": 2, "2": 2},
    ),
    "grouped": (
        lambda: seq(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(4, 2, 1)),
        {"0#1": 2, "0#2": 3, "1#2": 2, "2": 2},
    ),
    "transposed": (
        lambda: seq(nn.ConvTranspose2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 5, 1)),
        {"0": 4, "2": 5},
    ),
    "transposed and grouped": (
        lambda: seq(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2, groups=2)),
        {"0#1": 2, "0#2": 3, "1": 2},
    ),
    "batch norm and prelu": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 2, 1)),
        {"0": 4, "3": 2},
    ),
    "group norm": (
        lambda: seq(nn.Conv2d(3, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)),
        {"0#1": 3, "0#2": 2, "2": 2},
    ),
    "instance norm": (
        lambda: seq(nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6, affine=True), nn.Conv2d(6, 2, 1)),
        {"0": 6, "2": 2},
    ),
    "flatten": (
        lambda: seq(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)),
        {"0": 4, "3": 5},
    ),
    "pixel shuffle": (
        lambda: seq(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.Conv2d(3, 2, 1)),
        {"0": 3, "2": 2},
    ),
    "pixel unshuffle": (
        lambda: seq(nn.Conv2d(3, 3, 1), nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1)),
        {"0": 3, "2": 2},
    ),
    "channel shuffle": (
        lambda: seq(nn.Conv2d(3, 6, 1), nn.ChannelShuffle(2), nn.Conv2d(6, 2, 1)),
        {"0#1": 2, "0#2": 3, "2": 2},
    ),
    "unfold and fold": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.Unfold(2, stride=2), nn.Fold((8, 8), 2, stride=2)),
        {"0": 4},
    ),
    "unfold and linear": (
        lambda: Calls(
            lambda m, x: m.b(m.u(m.a(x)).mT), a=nn.Conv2d(3, 4, 1), u=nn.Unfold(2), b=nn.Linear(16, 5)
        ),
        {"a": 4, "b": 5},
    ),
    "local response": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.LocalResponseNorm(3), nn.Conv2d(4, 2, 1)),
        {"2": 2},
    ),
    "softmax of channels": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.Softmax2d(), nn.Conv2d(4, 2, 1)),
        {"0": 4, "2": 2},
    ),
    "padding of channels": (
        lambda: Calls(
            lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 1, 2)) + m.c(x)),
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(7, 2, 1), c=nn.Conv2d(3, 7, 1),
        ),
        {"a": 4, "b": 2},
    ),
    "reflected padding of images": (
        lambda: seq(nn.Conv2d(3, 4, 1), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 1)),
        {"0": 4, "2": 2},
    ),
    "interpolation": (
        lambda: Calls(
            lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2.0)),
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1),
        ),
        {"a": 4, "b": 2},
    ),
    "global mean": (
        lambda: Calls(
            lambda m, x: m.b(m.a(x).mean((2, 3))), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2)
        ),
        {"a": 4, "b": 2},
    ),
    "convolution over places as channels": (
        lambda: Calls(
            lambda m, x: m.b(m.a(x).flatten(2).mT), a=nn.Conv2d(3, 4, 1), b=nn.Conv1d(64, 5, 1)
        ),
        {"a": 4, "b": 5},
    ),
    "kernel over units": (
        lambda: Calls(
            lambda m, x: m.b(m.a(x).flatten(2).mT), a=nn.Conv2d(3, 4, 1), b=nn.Conv1d(64, 5, 3)
        ),
        {"b": 5},
    ),
    "pooling over units": (
        lambda: Calls(
            lambda m, x: F.avg_pool1d(m.a(x).flatten(2).mT, 2), a=nn.Conv2d(3, 4, 1)
        ),
        {},
    ),
    "norm over channels whose number is that of pixels": (
        lambda: seq(nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Conv2d(8, 2, 1)),
        {"0": 8, "2": 2},
    ),
    "functional with computed groups": (
        lambda: Calls(
            lambda m, x: m.b(F.conv2d(m.a(x), m.k.weight, groups=m.a(x).shape[1])),
            a=nn.Conv2d(3, 4, 1), k=nn.Conv2d(4, 4, 3, groups=4, bias=False), b=nn.Conv2d(4, 2, 1),
        ),
        {"a": 4, "b": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_images(name):
    make, sizes = CONVOLUTIONS[name]
    expect(make(), (row(2, 3, 8, 8),), sizes)


def test_a_norm_over_the_width_of_images_is_fixed_with_its_tensors():
    model = seq(nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Conv2d(8, 2, 1))
    known = expect(model, (row(2, 3, 8, 8),), {"0": 8, "2": 2})
    [scale] = leaves(known.flow.tensors[id(known.tensors["1.weight"])][0])
    assert scale.lock == "it is a size of the model's input"
