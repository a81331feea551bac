"""Is a network that grows while it trains better than its fixed rivals at equal wall-clock?

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
import io
import math
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nets import ConvNet
from PIL import Image
from reporting import RESULTS, arguments, report, table
from torch import Tensor, nn
from torch.nn import functional as F

import topograph as tg

BATCH = 128
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
SPREAD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


def read(path: Path, limit: int) -> tuple[Tensor, Tensor]:
    """Return normalised images [N, 3, 32, 32] and labels [N]."""
    with np.load(path) as stored:
        jpeg, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
    count = min(limit, len(labels))
    rows = [jpeg[offsets[i] : offsets[i + 1]] for i in range(count)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(row))) for row in rows])
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    return (scaled - MEAN) / SPREAD, torch.from_numpy(labels[:count].astype(np.int64))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return random crops of the padded images, half of them flipped."""
    count = len(images)
    shift = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows, columns = shift + torch.arange(32)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    padded = F.pad(images, (4, 4, 4, 4))
    every = torch.arange(count)[:, None, None]
    crops = padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2).contiguous()


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


Data = dict[str, tuple[Tensor, Tensor]]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified rightly."""
    model.eval()
    with torch.no_grad():
        right = [
            (model(x).argmax(1) == y).sum()
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    return (torch.stack(right).sum() / len(labels)).item()


def train(arm: Arm, optimizer: torch.optim.Optimizer, data: Data, seconds: float, rate: float) -> Arm:
    """Train until the time is up; evaluation stops the clock."""
    images, labels = data["train"]
    probe = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, 4 * BATCH, BATCH)]
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
    policy = tg.Policy(
        trigger=tg.Every(steps=options.every),
        candidates=tuple(tg.InsertLayer(where=tg.after(op=op), block=block) for op in ("add", "relu")),
        budget=tg.Budget(revisions=options.revisions),
    )
    small = copy.deepcopy(start)
    optimizer = make(small.parameters())
    example = data["train"][0][:2]
    grower = tg.Grower(
        small, policy, example_inputs=(example,), loss=F.cross_entropy, optimizer=optimizer
    )
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
    last, best = arm.curve[-1][1], max(value for _, value in arm.curve)
    times = f"{arm.epochs:.1f}", f"{arm.spent:.1f}", growths, f"{arm.growing:.2f}"
    scores = f"{last:.4f}", f"{best:.4f}", f"{arm.train_loss:.4f}"
    return (arm.name, arm.seed, f"{size:,}", *times, *scores)


def options_of() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0, help="of every arm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[12, 24, 48])
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
    options = options_of()
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
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        result = f"{statistics.fmean(values):.4f} ± {spread:.4f}"
        rows.append((f"{name}, mean", "all", "", "", "", "", "", result, "", ""))
    header = ["arm", "seed", "parameters", "epochs", "seconds", "growths", "in growth s"]
    header += ["test accuracy", "best", "train loss"]
    configuration = (
        f"{len(data['train'][1]):,} training and {len(data['test'][1]):,} test images, batch "
        f"{BATCH}, AdamW (weight decay 0.05), cosine from {options.rate:g}; residual BatchNorm net, "
        f"widths {options.widths}, {options.pairs} pair(s) a stage; {options.revisions} growths "
        f"{options.every} epochs apart of ConvBottleneck(units={options.units}, kernel=3), line "
        "search. Mean ± standard deviation over seeds. Train loss: mean over the last epoch."
    )
    title = "Growing on CIFAR-10 at equal wall-clock"
    report(__file__, title, configuration, table(header, rows), not options.no_write)
    if not options.no_write:
        with (RESULTS / "grow_cifar10.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["arm", "seed", "seconds", "test accuracy"])
            for arm in done:
                writer.writerows((arm.name, arm.seed, f"{t:.2f}", f"{a:.4f}") for t, a in arm.curve)


if __name__ == "__main__":
    main()
