"""Find the places that a selector means."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from topograph.errors import SelectorError
from topograph.spec.selectors import After, At, Between, Everywhere, Named
from topograph.topology import Topology

AnySelector = After | At | Between | Everywhere | Named
Place = At | Between


def places(selector: AnySelector, topology: Topology) -> tuple[Place, ...]:
    """Return the single places that a selector stands for, in topological order.

    A place is either `At` (a node's value, for all that read it) or `Between` with a slot (one
    use of a value).

    Raises:
        SelectorError: Nothing matches; the message shows the nearest names.
    """
    nodes = (node for node in topology.nodes if node.kind != "output")
    match selector:
        case At(node=name):
            node = topology.by_name.get(name)
            if node is None or node.kind == "output":
                raise _miss(f"no node is called {name!r}", name, topology.by_name)
            return (selector,)
        case Named(pattern=pattern):
            found = [
                node
                for node in nodes
                if fnmatchcase(node.name, pattern) or fnmatchcase(node.target, pattern)
            ]
            if not found:
                names = [name for node in topology.nodes for name in (node.name, node.target)]
                raise _miss(f"no node's name or module path matches {pattern!r}", pattern, names)
        case After(op=op):
            wanted = canonical_operation(op)
            found = [node for node in nodes if node.op == wanted]
            if not found:
                operations = [node.op for node in topology.nodes]
                raise _miss(f"no node has the operation {op!r}", wanted, operations)
        case Between():
            return tuple(_edges(selector, topology))
        case Everywhere():
            found = [node for node in nodes if node.channels is not None]
            if not found:
                raise _miss("no node has a value with a certain channel axis", "", [])
    return tuple(At(node=node.name) for node in found)


def canonical_operation(name: str) -> str:
    """Return an operation's name as topologies spell it: ``LayerNorm`` and ``layer_norm`` agree."""
    return name.replace("_", "").lower()


def _edges(selector: Between, topology: Topology) -> list[Between]:
    for name in (selector.source, selector.target):
        if name not in topology.by_name:
            raise _miss(f"no node is called {name!r}", name, topology.by_name)
    uses = [e for e in topology.edges if (e.source, e.target) == (selector.source, selector.target)]
    if not uses:
        readers = ", ".join(topology.users[selector.source]) or "nothing"
        raise SelectorError(
            f"no edge goes from {selector.source!r} to {selector.target!r}; "
            f"{selector.source!r} is read by {readers}"
        )
    slots = [edge.slot for edge in uses]
    if selector.slot is not None and selector.slot not in slots:
        raise SelectorError(
            f"{selector.target!r} does not read {selector.source!r} in slot {selector.slot}; "
            f"it does in {', '.join(map(str, slots))}"
        )
    return [
        Between(source=edge.source, target=edge.target, slot=edge.slot)
        for edge in uses
        if selector.slot in (None, edge.slot)
    ]


def _miss(problem: str, wanted: str, known: Iterable[str]) -> SelectorError:
    """Return the error for a selector that matches nothing, with the nearest names."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4) or names[:6]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return SelectorError(f"{problem}{hint}; `inspect` lists all nodes")
