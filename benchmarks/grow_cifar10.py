"""Answers whether a net that grows while it trains beats fixed rivals at equal wall-clock.

On CIFAR-10, from `--data` (cifar10_train.npz and cifar10_test.npz: ``jpeg`` bytes, ``offsets``,
``labels``). Three arms with one seed, one order of the data, one augmentation (crop and flip):

* *grown*: starts small; a `Grower` inserts the best `ConvBottleneck` behind an add or a ReLU every
  few epochs, three times, with a line search on probe batches.
* *fixed*: the same start, never grown.
* *scratch*: the architecture that *grown* ended with, drawn anew by its own reset_parameters.

The first arm trains for `--seconds`, growth included; the others for as long as it really took.
The learning rate follows a cosine over that time. Evaluation on the test set, after every epoch, is
not counted for any arm. "best" is chosen on the test set and shown only for comparison.
"""

import argparse
import copy
import csv
import math
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from cifar10 import augmented, read
from nets import ConvNet
from reporting import RESULTS, arguments, report, table
from torch import Tensor, nn
from torch.nn import functional as F

import topograph as tg

BATCH = 128
Data = dict[str, tuple[Tensor, Tensor]]


@dataclass
class Arm:
    """One training run and what was measured of it."""

    name: str
    seed: int
    model: nn.Module
    grower: tg.Grower | None = None
    epochs: float = 0.0
    spent: float = 0.0
    growing: float = 0.0
    train_loss: float = math.nan
    curve: list[tuple[float, float]] = field(default_factory=list)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified rightly."""
    model.eval()
    with torch.no_grad():
        right = [
            (model(x).argmax(1) == y).sum()
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    return (torch.stack(right).sum() / len(labels)).item()


def train(
    arm: Arm, optimizer: torch.optim.Optimizer, data: Data, seconds: float, rate: float
) -> Arm:
    """Train until the time is up; evaluation stops the clock."""
    images, labels = data["train"]
    probe = list(zip(images[:256].split(64), labels[:256].split(64), strict=True))
    generator = torch.Generator().manual_seed(arm.seed)
    losses: list[float] = []
    while arm.spent < seconds:
        order = torch.randperm(len(images), generator=generator)
        arm.model.train()
        parts = order.split(BATCH)[: len(images) // BATCH]
        for part in parts:
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * min(arm.spent / seconds, 1))) / 2
            loss = F.cross_entropy(arm.model(augmented(images[part], generator)), labels[part])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            arm.epochs += 1 / len(parts)
            arm.spent += time.perf_counter() - began
            if arm.spent >= seconds:
                break
        arm.train_loss = statistics.fmean(losses[-len(parts) :])
        arm.curve.append((arm.spent, accuracy(arm.model, *data["test"])))
        if arm.grower is not None and arm.spent < seconds:
            began = time.perf_counter()
            arm.grower.step({"train_loss": arm.train_loss}, batches=probe)
            arm.model = arm.grower.model
            passed = time.perf_counter() - began
            arm.spent, arm.growing = arm.spent + passed, arm.growing + passed
    return arm


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with all layers drawn anew."""
    torch.manual_seed(seed)
    twin = copy.deepcopy(model)
    for module in twin.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return twin


def arms(seed: int, data: Data, options: argparse.Namespace) -> list[Arm]:
    """Train the three arms of one seed."""
    torch.manual_seed(seed)
    start = ConvNet(options.widths, options.pairs)
    make = partial(torch.optim.AdamW, lr=options.rate, weight_decay=0.05)
    block = tg.ConvBottleneck(units=options.units, kernel=3)
    wanted = [tg.InsertLayer(where=tg.after(op=op), block=block) for op in ("add", "relu")]
    when, budget = tg.Every(steps=options.every), tg.Budget(revisions=options.revisions)
    policy = tg.Policy(trigger=when, candidates=tuple(wanted), budget=budget)
    small, example = copy.deepcopy(start), (data["train"][0][:2],)
    optimizer = make(small.parameters())
    given = {"loss": F.cross_entropy, "optimizer": optimizer}
    grower = tg.Grower(small, policy, example_inputs=example, **given)
    grown = Arm("grown", seed, grower.model, grower)
    train(grown, optimizer, data, options.seconds, options.rate)
    done = [grown]
    for name, model in (("fixed", start), ("scratch", redrawn(grown.model, seed))):
        rival = Arm(name, seed, model)
        done.append(train(rival, make(model.parameters()), data, grown.spent, options.rate))
    return done


def cells(arm: Arm) -> tuple[object, ...]:
    """Return one row of the table."""
    size = sum(p.numel() for p in arm.model.parameters())
    growths = arm.grower.growths if arm.grower is not None else 0
    times = f"{arm.epochs:.1f}", f"{arm.spent:.1f}", growths, f"{arm.growing:.2f}"
    values = [value for _, value in arm.curve]
    scores = f"{values[-1]:.4f}", f"{max(values):.4f}", f"{arm.train_loss:.4f}"
    return (arm.name, arm.seed, f"{size:,}", *times, *scores)


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0, help="of every arm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--pairs", type=int, default=1, help="residual pairs of a stage")
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--every", type=int, default=4, help="epochs from one growth to the next")
    parser.add_argument("--revisions", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.seeds, options.images, options.every = 6.0, 1, 1_000, 1
    return options


def main() -> None:
    options = parsed()
    paths = {split: options.data / f"cifar10_{split}.npz" for split in ("train", "test")}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        print(f"skipped: no {' and no '.join(missing)} in the folder given by --data")
        return
    torch.set_num_threads(options.threads)
    limits = {"train": options.images, "test": options.images // 5}
    data = {split: read(path, limits[split]) for split, path in paths.items()}
    done = [arm for seed in range(options.seeds) for arm in arms(seed, data, options)]
    rows = [cells(arm) for arm in sorted(done, key=lambda arm: arm.name)]
    finals: defaultdict[str, list[float]] = defaultdict(list)
    for arm in done:
        finals[arm.name].append(arm.curve[-1][1])
    for name, values in finals.items():
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        result = f"{statistics.fmean(values):.4f}{spread}"
        rows.append((f"{name}, mean", "all", *[""] * 5, result, "", ""))
    header = "arm,seed,parameters,epochs,seconds,growths,in growth s,test accuracy,best,train loss"
    configuration = (
        f"{len(data['train'][1]):,} training and {len(data['test'][1]):,} test images, batch "
        f"{BATCH}, AdamW (weight decay 0.05), cosine from {options.rate:g}; residual BatchNorm "
        f"net, widths {options.widths}, {options.pairs} pairs a stage; {options.revisions} "
        f"growths {options.every} epochs apart of ConvBottleneck(units={options.units}) by line "
        "search. Mean ± standard deviation over seeds. Train loss: mean over the last epoch."
    )
    write, title = not options.no_write, "Growing on CIFAR-10 at equal wall-clock"
    report(__file__, title, configuration, table(header.split(","), rows), write)
    if write:
        with (RESULTS / "grow_cifar10.csv").open("w", newline="", encoding="utf-8") as file:
            lines = [(a.name, a.seed, f"{t:.2f}", f"{v:.4f}") for a in done for t, v in a.curve]
            csv.writer(file).writerows([("arm", "seed", "seconds", "test accuracy"), *lines])


if __name__ == "__main__":
    main()
