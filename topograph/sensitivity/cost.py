"""What a candidate costs, without building it."""

from typing import NamedTuple

from topograph.spec import AddBranch, Bottleneck, ConvBottleneck, InsertLayer, Linear
from topograph.topology import Node, Topology


class Cost(NamedTuple):
    """New parameters, and new floating-point operations per sample."""

    parameters: int
    flops: int


def cost(mutation: InsertLayer | AddBranch, node: Node) -> Cost:
    """Return the cost of a mutation at a node; additions and activations are not counted."""
    if isinstance(mutation, AddBranch):
        return Cost(1, 0)
    channels, positions = node.channels or 0, _positions(node)
    match mutation.block:
        case Linear(bias=bias):
            weights, others = channels * channels, channels * bias
        case Bottleneck(units=units, norm=norm):
            weights, others = 2 * channels * units, units + 2 * channels * norm
        case ConvBottleneck(units=units, kernel=kernel):
            taps = kernel ** (len(node.axes) - 2)
            weights, others = channels * units * (taps + 1), units
    return Cost(weights + others, 2 * weights * positions)


def place_node(mutation: InsertLayer | AddBranch, topology: Topology) -> Node:
    """Return the node whose value a mutation at a single place changes."""
    if isinstance(mutation, AddBranch):
        return topology.by_name[mutation.target]
    where = mutation.where
    return topology.by_name[where.node if where.kind == "at" else where.source]  # type: ignore[union-attr]


def _positions(node: Node) -> int:
    product = 1
    for size, axis in zip(node.shape or (), node.axes, strict=True):
        if axis not in ("batch", "channel") and isinstance(size, int):
            product *= size
    return product
