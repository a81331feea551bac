"""Net2DeeperNet: identity layers at a random place, as a way to grow that peers go.

Chen, Goodfellow, Shlens, Net2Net, arXiv:1511.05641.
"""

import random
from collections.abc import Sequence

from tasks import Task
from torch import nn

import topograph as tg
from topograph.spec import digest


def deeper(width: int, count: int, flat: bool) -> nn.Module:
    """Return identity layers with ReLUs around them, which keep what a ReLU gives."""
    layers: list[nn.Module] = [nn.ReLU()]
    for _ in range(count):
        layer = nn.Linear(width, width) if flat else nn.Conv2d(width, width, 3, padding=1)
        (nn.init.eye_ if flat else nn.init.dirac_)(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


tg.register_block("deeper", deeper)


def net2deeper(
    traced: tg.TracedModel, task: Task, places: Sequence[tg.InsertLayer], draw: random.Random
) -> tg.Revision:
    """Return a net with identity layers at one of some places, of about the size of a block."""
    wide = traced.module.get_submodule("head").in_features
    flat = isinstance(task.block, tg.Bottleneck)
    size = 2 * task.block.units * wide if flat else 10 * task.block.units * wide
    free = [p.where.node for p in places]
    nodes = [traced.topology.by_name[name] for name in free]
    rectified = [node for node in nodes if node.op == "relu"]
    if not rectified:
        into = [tg.at(node.name) for node in nodes if node.op == "add"]
        layers = [tg.InsertLayer(where=place, block=tg.Linear()) for place in into]
        fresh = [layer for layer in layers if not traced.topology.contains(digest(layer))]
        return tg.apply(traced, tg.plan(traced, draw.sample(fresh, round(size / wide**2))))
    node = draw.choice(rectified)
    each = node.channels**2 * (1 if flat else 9)
    given = {"width": node.channels, "count": max(1, round(size / each)), "flat": flat}
    block = tg.Module(factory="deeper", arguments=given)
    change = tg.ReplaceLayer(where=tg.at(node.name), block=block)
    return tg.apply(traced, tg.plan(traced, [change]))
