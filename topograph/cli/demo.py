"""`demo`: a small network learns scikit-learn's digits, and grows where it pays."""

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from topograph.cli.output import say, show, table
from topograph.cli.training import counted, places, train
from topograph.errors import StoreError
from topograph.growth import Experiment
from topograph.spec import Policy

BATCH = 64
HELD_OUT = 360  # of 1,797 digits


def make_model() -> nn.Module:
    """Return the network that the demo starts from: two narrow convolutions and a head."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 8, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            head=nn.Linear(32, 10),
        )
    )


def digits() -> tuple[Tensor, Tensor]:
    """Return the bundled digits: images [1797, 1, 8, 8] of mean 0 and deviation 1, and labels."""
    bundled = load_digits()
    images = torch.tensor(bundled.images, dtype=torch.float32).unsqueeze(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return ((images - images.mean()) / images.std())[order], torch.tensor(bundled.target)[order]


def experiment(epochs: int, seed: int) -> Experiment:
    """Return the demo's training run."""
    torch.manual_seed(seed)
    images, labels = digits()
    held, held_labels = images[:HELD_OUT], labels[:HELD_OUT]
    images, labels = images[HELD_OUT:], labels[HELD_OUT:]
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)

    def one_epoch(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        network.train()
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()

    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        with torch.no_grad():
            output = network(held)
        hits = (output.argmax(1) == held_labels).float().mean().item()
        return {"val_loss": F.cross_entropy(output, held_labels).item(), "val_accuracy": hits}

    def probe() -> list[tuple[Tensor, Tensor]]:
        return [(images[rows], labels[rows]) for rows in torch.arange(512).split(128)]

    return Experiment(
        model=model,
        example_inputs=(images[:2],),
        loss=F.cross_entropy,
        optimizer=optimizer,
        train=one_epoch,
        validate=validate,
        probe=probe,
        steps=epochs,
        source="topograph.cli.demo:make_model",
    )


def demo(run: Path | None, epochs: int, seed: int) -> None:
    """Train, grow, and show what came of it beside the same network left as it was."""
    if run is None:
        names = itertools.chain(["demo"], (f"demo-{number}" for number in itertools.count(2)))
        run = next(place for name in names if not (place := Path("runs") / name).exists())
    if run.exists():
        raise StoreError(f"{run}: is there already; remove it, or give another --run")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small is fastest on one
    try:
        policy = Policy.load(Path(__file__).with_name("demo_policy.json"))
        steps = train(experiment(epochs, seed), policy, run)
        twin = _ungrown(experiment(epochs, seed))
    finally:
        torch.set_num_threads(threads)
    last = steps[-1]
    first_growth = next((step for step in steps if step.revision is not None), last)
    title = f"{counted(last.grower.growths, 'growth')} in {counted(epochs, 'epoch')}"
    results = table(title, "held-out digits", "before it grew", "at the end", "not grown")
    compared = (first_growth.metrics, last.metrics, twin)
    results.add_row("accuracy", *(f"{metrics['val_accuracy']:.1%}" for metrics in compared))
    results.add_row("loss", *(f"{metrics['val_loss']:.4f}" for metrics in compared))
    before = sum(parameter.numel() for parameter in make_model().parameters())
    after = last.grower.traced.topology.parameter_count
    results.add_row("parameters", f"{before:,}", f"{after:,}", f"{before:,}")
    show(results)
    say("not grown: the same network with the same seed, left as it was")
    places(last, run)


def _ungrown(experiment: Experiment) -> Mapping[str, float]:
    """Return what the network reaches with the same seed and epochs when it is left as it is."""
    for _ in range(experiment.steps):
        experiment.train(experiment.model, experiment.optimizer)
        metrics = experiment.validate(experiment.model)
    return metrics
