"""Small tasks with a training and a test set: generated ones, and three of public data.

Public data is read from a folder that is given: ``mnist10k-*.gz``, ``california_housing.csv.gz``
and ``cifar10_train.npz``. A task whose file is not there is left out.
"""

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cifar10 import read as read_cifar
from nets import ConvNet, Mlp, Vit
from torch import Tensor, nn
from torch.nn import functional as F

import topograph as tg

Pair = tuple[Tensor, Tensor]
WIDTH = 32
LATER = ("Friedman", "teacher", "spirals")


@dataclass(frozen=True)
class Task:
    """A data set, the nets that learn it, and what may be inserted into them."""

    name: str
    train: Pair
    test: Pair
    loss: Callable[[Tensor, Tensor], Tensor]
    nets: dict[str, Callable[[], nn.Module]]
    block: tg.Bottleneck | tg.ConvBottleneck


def tasks(folder: Path, samples: int) -> Iterator[Task]:
    """Yield every task for which there is data, with so many samples to train on."""
    yield dense("RBF", rbf(3 * samples), samples, F.mse_loss)
    yield dense("heat", heat(3 * samples), samples, F.mse_loss)
    if (folder / "california_housing.csv.gz").exists():
        yield dense("housing", housing(folder, 3 * samples), samples, F.mse_loss)
    if (folder / "mnist10k-images-idx3-ubyte.gz").exists():
        yield dense("MNIST", mnist(folder, 3 * samples), samples, F.cross_entropy)
    if (folder / "cifar10_train.npz").exists():
        images, labels = read_cifar(folder / "cifar10_train.npz", 3 * samples)
        small = F.avg_pool2d(images, 2)
        yield Task(
            "CIFAR-10",
            (small[:samples], labels[:samples]),
            (small[samples:], labels[samples:]),
            F.cross_entropy,
            {"ResNet": lambda: ConvNet((8, 16), 2)},
            tg.ConvBottleneck(units=8),
        )
        yield Task(
            "CIFAR-10",
            (small[:samples], labels[:samples]),
            (small[samples:], labels[samples:]),
            F.cross_entropy,
            {"ViT": lambda: Vit(WIDTH, 2, 2, 16)},
            tg.Bottleneck(units=WIDTH, norm=True),
        )


def later_tasks(samples: int) -> Iterator[Task]:
    """Yield tasks that came when the defaults had been chosen by the others."""
    yield dense("Friedman", friedman(3 * samples), samples, F.mse_loss)
    yield dense("teacher", teacher(3 * samples), samples, F.mse_loss)
    yield dense("spirals", spirals(3 * samples), samples, F.cross_entropy)


def dense(name: str, data: Pair, samples: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Task:
    """Return a task for a plain and a residual MLP."""
    inputs, targets = data
    outputs = targets.shape[1] if targets.is_floating_point() else int(targets.max()) + 1
    wide = inputs.shape[1]
    return Task(
        name,
        (inputs[:samples], targets[:samples]),
        (inputs[samples:], targets[samples:]),
        loss,
        {
            "MLP": lambda: Mlp(wide, WIDTH, 3, outputs),
            "residual MLP": lambda: Mlp(wide, WIDTH, 3, outputs, nn.Tanh, residual=True),
        },
        tg.Bottleneck(units=WIDTH, activation="tanh"),
    )


def rbf(count: int) -> Pair:
    """Return sums of 20 Gaussian bumps in six dimensions, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 6, generator=generator) * 2 - 1
    centres = torch.rand(20, 6, generator=generator) * 2 - 1
    heights = torch.randn(20, 1, generator=generator)
    y = torch.exp(-3 * torch.cdist(x, centres).square() / 2) @ heights
    y = (y - y.mean()) / y.std()
    return x, y + 0.05 * torch.randn(y.shape, generator=generator)


def heat(count: int) -> Pair:
    """Return temperatures on a rod, with noise, and the eight modes that they began with."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.arange(1, 9)
    began = torch.randn(count, 8, generator=generator) / modes.sqrt()
    points = torch.linspace(0, 1, 32)[:, None] * modes * torch.pi
    later = (began * torch.exp(-0.02 * modes.square())) @ points.sin().T
    return later + 0.01 * torch.randn(later.shape, generator=generator), began


def friedman(count: int) -> Pair:
    """Return Friedman's first function of five of ten numbers, with noise of a fifth."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 10, generator=generator)
    y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5).square()
    y = (y + 10 * x[:, 3] + 5 * x[:, 4])[:, None]
    y = (y - y.mean()) / y.std()
    return 4 * x - 2, y + 0.2 * torch.randn(y.shape, generator=generator)


def teacher(count: int) -> Pair:
    """Return four outputs of a random network with two hidden layers, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(count, 12, generator=generator)
    for wide, narrow in ((12, 32), (32, 32), (32, 4)):
        weight = torch.randn(wide, narrow, generator=generator) * 2 / wide**0.5
        y = y @ weight if narrow == 4 else torch.tanh(y @ weight)
    y = (y - y.mean(0)) / y.std(0)
    return x, y + 0.05 * torch.randn(y.shape, generator=generator)


def spirals(count: int) -> Pair:
    """Return points on three arms of a spiral, blurred, and which arm each is on."""
    generator = torch.Generator().manual_seed(0)
    arm = torch.randint(0, 3, (count,), generator=generator)
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 9 * radius + arm * 2 * torch.pi / 3
    angle = angle + 0.25 * torch.randn(count, generator=generator)
    return 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), arm


def housing(folder: Path, count: int) -> Pair:
    """Return standardised features of Californian districts and their prices."""
    with gzip.open(folder / "california_housing.csv.gz", "rt") as stored:
        rows = [row for row in csv.DictReader(stored) if all(row.values())]
    names = [name for name in rows[0] if name not in ("median_house_value", "ocean_proximity")]
    table = np.array([[float(row[n]) for n in (*names, "median_house_value")] for row in rows])
    order = np.random.default_rng(0).permutation(len(table))[:count]
    picked = torch.from_numpy(table[order]).float()
    scaled = (picked - picked.mean(0)) / picked.std(0)
    return scaled[:, :-1], scaled[:, -1:]


def mnist(folder: Path, count: int) -> Pair:
    """Return digits of 14 x 14 pixels as vectors, and their classes."""
    images = gzip.decompress((folder / "mnist10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "mnist10k-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    small = F.avg_pool2d(torch.from_numpy(pixels.astype(np.float32)) / 255, 2).flatten(1)
    classes = np.frombuffer(labels, np.uint8, offset=8)[:count].astype(np.int64)
    return (small - small.mean()) / small.std(), torch.from_numpy(classes)
