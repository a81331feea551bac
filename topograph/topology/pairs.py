"""Two topologies by numbers, and which nodes of them are matched so far."""

import re
from collections.abc import Hashable
from functools import cached_property

from topograph.topology.model import Node, Topology

CALLS = ("module", "function", "method")


def compatible(one: Node, other: Node) -> bool:
    """Return whether two nodes do the same, whether a module or a function does it."""
    return one.op == other.op and (one.kind == other.kind or {one.kind, other.kind} <= {*CALLS})


def is_weak(node: Node) -> bool:
    """Return whether a name is the operation's and a number: the order of calls, no more."""
    stem = re.sub(r"(_?\d+)+$", "", node.name).replace("_", "")
    return node.kind in CALLS and stem == node.op.replace("_", "")


class Side:
    """A topology by numbers: each node's inputs, its readers with slots, and what it is."""

    def __init__(self, topology: Topology) -> None:
        self.nodes = topology.nodes
        self.state = {parameter.path: parameter for parameter in topology.parameters}
        self.index = {node.name: i for i, node in enumerate(topology.nodes)}
        self.inputs = [tuple(self.index[name] for name in node.inputs) for node in topology.nodes]
        self.readers: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for i, inputs in enumerate(self.inputs):
            for slot, source in enumerate(inputs):
                self.readers[source].append((i, slot))  # in order

    @cached_property
    def exact(self) -> list[Hashable]:
        """What each node is, without its names: operation, constants, value, tensors."""
        return [
            (
                node.op, node.kind, node.target if node.kind in ("function", "method") else "",
                node.detail, node.shape, node.dtype, node.axes, node.opaque, len(node.inputs),
                tuple(
                    (p.shape, p.dtype, p.trainable, p.buffer)
                    for p in map(self.state.get, node.parameters) if p
                ),
            )
            for node in self.nodes
        ]  # fmt: skip

    @cached_property
    def loose(self) -> list[Hashable]:
        """What each node does, of whatever size."""
        return [(n.op, "call" if n.kind in CALLS else n.kind) for n in self.nodes]


class Pairs:
    """The nodes matched so far, in both directions."""

    def __init__(self, one: Side, two: Side) -> None:
        self.one, self.two = one, two
        self.to: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def add(self, i: int, j: int) -> None:
        """Match two nodes."""
        self.to[i], self.back[j] = j, i

    def free(self, i: int | None, j: int | None) -> bool:
        """Return whether both are there and neither is matched."""
        return i is not None and j is not None and i not in self.to and j not in self.back
