"""Two topologies as one graph: every node and edge of either, with what happened to it."""

from typing import NamedTuple

from topograph.report.words import Mark
from topograph.topology import Node, Topology, diff


class Use(NamedTuple):
    """One edge of the overlay: which value is read where, and its mark if it is not in both."""

    source: str
    target: str
    slot: int
    mark: Mark | None


class Overlay(NamedTuple):
    """Nodes of `after`, then the removed ones; edges likewise."""

    name: str
    nodes: tuple[tuple[Node, Mark | None], ...]
    uses: tuple[Use, ...]


def overlay(before: Topology, after: Topology) -> Overlay:
    """Return both topologies in one graph; nodes are matched by name, edges by name and slot."""
    marks: dict[str, Mark] = {c.name: c.change for c in diff(before, after).changes}
    old = {(e.source, e.target, e.slot) for e in before.edges}
    new = {(e.source, e.target, e.slot) for e in after.edges}
    gone = [node for node in before.nodes if node.name not in after.by_name]
    name = after.name if before.name == after.name else f"{before.name} -> {after.name}"
    return Overlay(
        name=name,
        nodes=tuple((node, marks.get(node.name)) for node in (*after.nodes, *gone)),
        uses=(
            *(Use(*e[:3], None if e[:3] in old else "added") for e in after.edges),
            *(Use(*e[:3], "removed") for e in before.edges if e[:3] not in new),
        ),
    )
