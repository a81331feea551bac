"""Save what two networks look like, and read what is different between them.

Run it: ``python examples/inspect_diff.py``
"""

import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

import topograph as tg


def make_model(width: int, dropout: bool) -> nn.Module:
    """Return one of two networks that share most of their layers."""
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(3, width, 3, padding=1),
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    if dropout:
        layers["dropout"] = nn.Dropout(0.1)
    layers["head"] = nn.Linear(width, 10)
    return nn.Sequential(layers)


def main() -> tg.TopologyDiff:
    """Run the example; return the difference."""
    images = torch.zeros(2, 3, 16, 16)
    folder = Path(tempfile.mkdtemp())
    for name, model in (("a", make_model(8, False)), ("b", make_model(12, True))):
        traced = tg.trace(model, example_inputs=(images,))
        print(f"{name}: {traced.topology}")
        traced.topology.save(folder / f"{name}.json")

    before, after = (tg.Topology.load(folder / f"{name}.json") for name in "ab")
    difference = tg.diff(before, after)
    print(f"\n{difference}")
    print(f"\nthe same in a shell: topograph diff {folder / 'a.json'} {folder / 'b.json'}")
    return difference


if __name__ == "__main__":
    main()
