"""Graphs as Mermaid flowcharts, which Markdown viewers draw."""

from topograph.report import words
from topograph.report.dot import COLOURS, node_lines
from topograph.report.overlay import Overlay, overlay
from topograph.topology import Topology

PLAIN = frozenset(" _.,+-:=/")


def topology_mermaid(topology: Topology) -> str:
    """Return a topology as a Mermaid flowchart.

    Args:
        topology: The network; each use of a value is one arrow. Viewers refuse charts of more
            than 500 arrows unless their ``maxEdges`` is raised.

    Returns:
        The text of a flowchart, without the Markdown fence.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> print(topology_mermaid(Topology(name="Net", nodes=(x,))).splitlines()[1])
          n0["x<br/>input"]

    References:
        https://mermaid.js.org/syntax/flowchart.html
    """
    return diff_mermaid(topology, topology)


def diff_mermaid(before: Topology, after: Topology) -> str:
    """Return two topologies as one Mermaid flowchart: coloured as on a page.

    Args:
        before: The first topology.
        after: The second; nodes are matched as `topograph.diff` does.

    Returns:
        The text of a flowchart with every node and edge of both, without the Markdown fence.

    Raises:
        TypeError: An argument is not a `Topology`.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> print(diff_mermaid(Topology(name="Net"), Topology(name="Net", nodes=(x,))))
        flowchart TB
          n0["+ x<br/>input"]:::added
          classDef added fill:#e6f4ea,stroke:#1a7f37,color:#1c2128,stroke-width:2px
        <BLANKLINE>

    References:
        https://mermaid.js.org/syntax/flowchart.html
    """
    return _mermaid(overlay(before, after))


def _mermaid(graph: Overlay) -> str:
    identity = {item.key: f"n{index}" for index, item in enumerate(graph.nodes)}
    lines = ["flowchart TB"]
    for item in graph.nodes:
        label = "<br/>".join(_escaped(line) for line in node_lines(item))
        style = f":::{item.mark}" if item.mark else ""
        lines.append(f'  {identity[item.key]}["{label}"]{style}')
    for use in graph.uses:
        arrow = "-.->" if use.mark == "removed" else "-->"
        lines.append(f"  {identity[use.source]} {arrow} {identity[use.target]}")
    for mark in dict.fromkeys(item.mark for item in graph.nodes if item.mark):
        border, fill = COLOURS[mark]
        lines.append(
            f"  classDef {mark} fill:{fill},stroke:{border},color:#1c2128,stroke-width:2px"
        )
    for index, use in enumerate(graph.uses):
        if use.mark:
            lines.append(f"  linkStyle {index} stroke:{COLOURS[use.mark][0]},stroke-width:2px")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return a label's text in which only letters, digits and plain signs stand for themselves.

    Mermaid looks for ``%%{`` directives, Markdown and HTML even inside a quoted label, so all
    other characters become its entities, ``#34;`` for the quotation mark.
    """
    return "".join(c if c.isalnum() or c in PLAIN else f"#{ord(c)};" for c in words.visible(text))
