"""Which nodes a selector that matches nothing comes nearest to, and what keeps each from it."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from topograph.spec.select import AnySelector, canonical_operation
from topograph.spec.selectors import (
    After,
    And,
    At,
    Before,
    Between,
    Everywhere,
    InstancesOf,
    Named,
    Not,
    Or,
)
from topograph.topology import Node, Topology

FAR = 0.4  # names less alike than this are no near miss
WILD = str.maketrans("", "", "*?[]!")


class Near(NamedTuple):
    """A node that a selector almost means: its operation, and each condition that fails."""

    node: str
    operation: str
    fails: tuple[str, ...]


class _Miss(NamedTuple):
    """The conditions of a selector that fail at a node, and how near it comes, 0 to 1."""

    fails: tuple[str, ...]
    likeness: float


def nearest(selector: AnySelector, topology: Topology, most: int = 3) -> tuple[Near, ...]:
    """Return the nodes that fail the fewest conditions of a selector, the most alike first.

    Args:
        selector: One that matches nothing; of one that matches, the nodes that it leaves out.
        topology: The network.
        most: How many to return at most.

    Returns:
        None where no node is alike: neither its name nor its operation.
    """
    found = []
    for node in topology.nodes:
        if node.kind == "output":
            continue
        miss = _miss(selector, node, topology)
        if miss.fails and miss.likeness >= FAR:
            found.append((len(miss.fails), -miss.likeness, Near(node.name, node.op, miss.fails)))
    found.sort(key=lambda item: item[:2])
    return tuple(near for _, _, near in found[:most])


def _miss(selector: AnySelector, node: Node, topology: Topology) -> _Miss:
    match selector:
        case At(node=name):
            return _unless(node.name == name, f"its name is not {name!r}", _alike(name, node))
        case Named(pattern=pattern):
            matches = fnmatchcase(node.name, pattern) or fnmatchcase(node.target, pattern)
            path = f" and its path {node.target!r}" if node.kind == "module" else ""
            words = f"its name{path} {'do' if path else 'does'} not match {pattern!r}"
            return _unless(matches, words, _alike(pattern.translate(WILD), node))
        case After(op=op):
            wanted = canonical_operation(op)
            words = f"its operation is {node.op!r}, not {wanted!r}"
            return _unless(node.op == wanted, words, _alike(wanted, node))
        case InstancesOf(type_name=name):
            return _instance(canonical_operation(name), node)
        case Before(op=op):
            return _reader(canonical_operation(op), node, topology)
        case Between(source=source, target=target):
            return _edge(source, target, node, topology)
        case Everywhere():
            shape = ", ".join(map(str, node.shape or ()))
            words = f"its value [{shape}] has no certain channel axis"
            return _unless(node.channels is not None, words, 1.0 if node.shape else 0.0)
        case Not(part=part):
            inner = _miss(part, node, topology)
            return _unless(bool(inner.fails), "it is what the selector leaves out", 1.0)
        case And(parts=parts):
            found = [_miss(part, node, topology) for part in parts]
            fails = tuple(word for miss in found for word in miss.fails)
            wanted_parts = [
                m for m, part in zip(found, parts, strict=True) if type(part) is not Not
            ]
            return _Miss(fails, max((m.likeness for m in wanted_parts), default=1.0))
        case Or(parts=parts):
            return min(
                (_miss(part, node, topology) for part in parts),
                key=lambda miss: (len(miss.fails), -miss.likeness),
            )


def _instance(wanted: str, node: Node) -> _Miss:
    fails = []
    if node.kind != "module":
        fails.append(f"it calls a {node.kind}, no module")
    if node.op != wanted:
        fails.append(f"its class is {node.op!r}, not {wanted!r}")
    return _Miss(tuple(fails), _likeness(wanted, (node.op,)) if fails else 1.0)


def _reader(wanted: str, node: Node, topology: Topology) -> _Miss:
    readers = topology.users[node.name]
    operations = [topology.by_name[name].op for name in readers]
    words = f"it is read by {_listed(operations)}, not by {wanted!r}"
    return _unless(wanted in operations, words, _likeness(wanted, operations))


def _edge(source: str, target: str, node: Node, topology: Topology) -> _Miss:
    readers = topology.users[node.name]
    fails = [] if node.name == source else [f"its name is not {source!r}"]
    if target not in readers:
        fails.append(f"it is read by {_listed(readers)}, not by {target!r}")
    return _Miss(tuple(fails), max(_alike(source, node), float(target in readers)))


def _unless(holds: bool, words: str, likeness: float) -> _Miss:
    return _Miss((), 1.0) if holds else _Miss((words,), likeness)


def _alike(wanted: str, node: Node) -> float:
    """Return how much a node's name, path or operation is like what is wanted."""
    return _likeness(wanted, (node.name, node.target, node.op))


def _likeness(wanted: str, names: Iterable[str]) -> float:
    low = wanted.lower()
    return max((_ratio(low, name.lower()) for name in names), default=0.0)


def _ratio(wanted: str, name: str) -> float:
    if min(len(wanted), len(name)) > 2 and (wanted in name or name in wanted):
        return 0.95
    return difflib.SequenceMatcher(None, wanted, name).ratio()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "nothing"
