"""Graphs as DOT, the language of Graphviz."""

from topograph.report import words
from topograph.report.overlay import Item, Overlay, overlay
from topograph.report.words import Mark
from topograph.topology import Topology

COLOURS: dict[Mark, tuple[str, str]] = {
    "added": ("#1a7f37", "#e6f4ea"),
    "removed": ("#b42318", "#fdecea"),
    "changed": ("#8a5a00", "#fff4d6"),
    "resized": ("#8a5a00", "#fff4d6"),
    "renamed": ("#0b5cad", "#e3effb"),
    "moved": ("#0b5cad", "#e3effb"),
    "replaced": ("#7b3fa0", "#f3e8f9"),
}


def topology_dot(topology: Topology) -> str:
    r"""Return a topology as a DOT graph.

    Args:
        topology: The network; each use of a value is one edge, sizes stand in the labels.

    Returns:
        The text of a ``.dot`` file; ``dot -Tsvg`` draws it.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> print(topology_dot(Topology(name="Net", nodes=(x,))).splitlines()[4])
          "x" [label="x\ninput"];

    References:
        https://graphviz.org/doc/info/lang.html
    """
    return diff_dot(topology, topology)


def diff_dot(before: Topology, after: Topology) -> str:
    """Return two topologies as one DOT graph: added green, removed red, others as on the page.

    Args:
        before: The first topology.
        after: The second; nodes are matched as `topograph.diff` does.

    Returns:
        The text of a ``.dot`` file with every node and edge of both.

    Raises:
        TypeError: An argument is not a `Topology`.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> after = Topology(name="Net", nodes=(x,))
        >>> "#1a7f37" in diff_dot(Topology(name="Net"), after)
        True

    References:
        https://graphviz.org/doc/info/lang.html
    """
    return _dot(overlay(before, after))


def _dot(graph: Overlay) -> str:
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        "  rankdir=TB;",
        '  node [shape=box, style="rounded,filled", fillcolor="#ffffff", fontname="monospace"];',
        '  edge [color="#57606a"];',
    ]
    for item in graph.nodes:
        label = r"\n".join(_escaped(line) for line in node_lines(item))
        colour = ""
        if item.mark:
            border, fill = COLOURS[item.mark]
            colour = f', color="{border}", fillcolor="{fill}", penwidth=2'
        lines.append(f'  {_quoted(item.key)} [label="{label}"{colour}];')
    for use in graph.uses:
        style = ""
        if use.mark:
            dashed = ", style=dashed" if use.mark == "removed" else ""
            style = f' [color="{COLOURS[use.mark][0]}", penwidth=2{dashed}]'
        lines.append(f"  {_quoted(use.source)} -> {_quoted(use.target)}{style};")
    return "\n".join([*lines, "}"]) + "\n"


def node_lines(item: Item) -> list[str]:
    """Return the lines of a node's label: name, operation with its constants, shape."""
    node = item.node
    sign = f"{words.SIGN[item.mark]} " if item.mark else ""
    was = f" (was {item.was})" if item.was is not None else ""
    call = f"{node.op}({node.detail})" if node.detail else node.op
    return [line for line in (sign + node.name + was, call, words.shape(node)) if line]


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Return a text that stands for itself in a quoted string: no escapes, no entities."""
    shown = words.visible(text)
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
