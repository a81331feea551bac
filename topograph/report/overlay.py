"""Two topologies as one graph: every node and edge of either, with what happened to it."""

from typing import NamedTuple

from topograph.report.words import Mark
from topograph.topology import Node, Topology, TopologyDiff, diff


class Use(NamedTuple):
    """One edge of the overlay: which value is read where, and its mark if it is not in both."""

    source: str
    target: str
    slot: int
    mark: Mark | None


class Item(NamedTuple):
    """One node of the overlay: its own key, the record, what happened to it, its earlier name."""

    key: str
    node: Node
    mark: Mark | None
    was: str | None


class Overlay(NamedTuple):
    """Nodes of `after`, then the removed ones; edges likewise, between their keys."""

    name: str
    nodes: tuple[Item, ...]
    uses: tuple[Use, ...]


def overlay(before: Topology, after: Topology) -> Overlay:
    """Return both topologies in one graph; an edge of both joins matched nodes at one slot."""
    found = diff(before, after)
    marks = marks_after(found)
    was = {change.name: change.was for change in found.changes}
    now = {change.was: change.name for change in found.changes if change.was is not None}
    taken = set(after.by_name)
    gone = []
    for change in found.changes:
        if change.change == "removed":  # its name may have been given to another node
            now[change.name] = _free(change.name, taken)
            taken.add(now[change.name])
            gone.append(before.by_name[change.name])
    old = [(now.get(e.source, e.source), now.get(e.target, e.target), e.slot) for e in before.edges]
    new = [(e.source, e.target, e.slot) for e in after.edges]
    first, second = set(old), set(new)
    return Overlay(
        name=after.name if before.name == after.name else f"{before.name} -> {after.name}",
        nodes=(
            *(Item(n.name, n, marks.get(n.name), was.get(n.name)) for n in after.nodes),
            *(Item(now[n.name], n, "removed", None) for n in gone),
        ),
        uses=(
            *(Use(*edge, None if edge in first else "added") for edge in new),
            *(Use(*edge, "removed") for edge in old if edge not in second),
        ),
    )


def marks_before(found: TopologyDiff) -> dict[str, Mark]:
    """Return what happens to the nodes of the first topology, by their names there."""
    return {c.was or c.name: c.change for c in found.changes if c.change != "added"}


def marks_after(found: TopologyDiff) -> dict[str, Mark]:
    """Return what happened to the nodes of the second topology, by their names there."""
    return {c.name: c.change for c in found.changes if c.change != "removed"}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name} (before)"
    return name
