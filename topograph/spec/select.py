"""Find the places that a selector means."""

import difflib
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
    nodes = [node for node in topology.nodes if node.kind != "output"]
    match selector:
        case At(node=name):
            found: list[Place] = [At(node=node.name) for node in nodes if node.name == name]
            _some(found, f"no node is called {name!r}", name, [node.name for node in nodes])
        case Named(pattern=pattern):
            found = [
                At(node=node.name)
                for node in nodes
                if fnmatchcase(node.name, pattern) or fnmatchcase(node.target, pattern)
            ]
            known = [name for node in nodes for name in (node.name, node.target)]
            _some(found, f"no node's name or module path matches {pattern!r}", pattern, known)
        case After(op=op):
            wanted = canonical_operation(op)
            found = [At(node=node.name) for node in nodes if node.op == wanted]
            _some(found, f"no node has the operation {op!r}", wanted, [n.op for n in nodes])
        case Between():
            found = list(_edges(selector, topology))
        case Everywhere():
            found = [At(node=node.name) for node in nodes if node.channels is not None]
            _some(found, "no node has a value with a certain channel axis", "", [])
    return tuple(found)


def canonical_operation(name: str) -> str:
    """Return an operation's name as topologies spell it: ``LayerNorm`` and ``layer_norm`` agree."""
    return name.replace("_", "").lower()


def _edges(selector: Between, topology: Topology) -> list[Between]:
    for name in (selector.source, selector.target):
        if name not in topology.by_name:
            _some([], f"no node is called {name!r}", name, list(topology.by_name))
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


def _some(found: list[Place], problem: str, wanted: str, known: list[str]) -> None:
    if found:
        return
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4) or names[:6]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise SelectorError(f"{problem}{hint}; `inspect` lists all nodes")
