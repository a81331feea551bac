"""A topology as a drawing: one SVG text, without scripts, that follows light and dark screens."""

from collections.abc import Mapping
from types import MappingProxyType
from xml.sax.saxutils import escape

from topograph.report import words
from topograph.report.layout import HEIGHT, Point, layout
from topograph.report.palette import HUES, scheme
from topograph.report.words import Mark
from topograph.topology import Edge, Node, Topology

UNMARKED: Mapping[str, Mark] = MappingProxyType({})
NARROWEST, WIDEST = 15, 27  # characters in a box
LETTER = 6.65  # width of one in pixels, at 11 pixels in a fixed-width font
PADDING = 8.0
BEND = 5.0  # radius of a line's corner, at most
STYLE = scheme(".tg-graph") + (
    ".tg-graph{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".tg-graph rect{fill:var(--panel);stroke:var(--wire);stroke-width:1}"
    ".tg-graph text{fill:var(--ink)}.tg-graph .quiet{fill:var(--muted)}"
    ".tg-graph .op{font-weight:600}"
    ".tg-graph .edge{fill:none;stroke:var(--wire);stroke-width:1.3}"
    ".tg-graph .head{fill:var(--wire)}"
    ".tg-graph .terminal rect{stroke-dasharray:1 2}"
    ".tg-graph .sign{font-weight:700;font-size:14px}"
    + "".join(
        f".tg-graph .{mark} rect{{fill:var(--{hue}-fill);stroke:var(--{hue});stroke-width:2}}"
        f".tg-graph .{mark} .sign{{fill:var(--{hue})}}"
        f".tg-graph .edge.{mark}{{stroke:var(--{hue});stroke-width:2}}"
        f".tg-graph .head.{mark}{{fill:var(--{hue})}}"
        for mark, hue in HUES.items()
    )
    + ".tg-graph .removed rect,.tg-graph .edge.removed{stroke-dasharray:5 3}"
)


def graph_svg(
    topology: Topology, marks: Mapping[str, Mark] = UNMARKED, *, anchor: str = "change"
) -> str:
    """Return a drawing of a topology: rows of boxes from top to bottom, wrapped into columns.

    A box holds the operation with its constants, the node's name and the value's shape, and shows
    all of it, uncut, when pointed at. Drawings are as large as they need to be, 76 pixels a row;
    put them where they can be scrolled.

    Args:
        topology: The network.
        marks: What happened to nodes, by name; names that the topology does not have are left
            out, so that one mapping serves the graphs before and after.
        anchor: Id of the first marked node, for links; unique on a page that shows several.

    Returns:
        The text of an SVG image. Each node is one ``<g class="node">`` and each use of a value
        one ``<path class="edge">``.

    Raises:
        ValueError: A mark is none of those of a `NodeChange`.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> graph_svg(Topology(name="Net", nodes=(x,)), {"x": "added"}).count('class="node')
        1

    References:
        https://www.w3.org/TR/SVG2/; Sugiyama, Tagawa, Toda,
        https://doi.org/10.1109/TSMC.1981.4308636.
    """
    for name, mark in marks.items():
        if mark not in words.SIGN:
            raise ValueError(
                f"node {name!r} is marked {mark!r}; a mark is one of {', '.join(words.SIGN)}"
            )
    room = _room(topology)
    plan = layout(topology, room * LETTER + 2 * PADDING)
    colours = {
        edge: marks[name]
        for edge, _ in plan.routes
        for name in (edge.source, edge.target)
        if marks.get(name) in ("added", "removed")  # any other node keeps most of its edges
    }
    routes = sorted(plan.routes, key=lambda route: route[0] in colours)  # marked ones on top
    width, height = max(plan.width, 40.0), max(plan.height, 40.0)
    label = (
        f"{words.visible(topology.name)}: {len(topology.nodes)} nodes, {len(topology.edges)} edges"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tg-graph" role="img" '
        f'aria-label="{words.xml(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><style>{escape(STYLE)}</style>'
    ]
    parts += [_edge(edge, legs, colours.get(edge, "")) for edge, legs in routes]
    first = next((node.name for node in topology.nodes if node.name in marks), None)
    parts += [
        _node(
            node, plan.boxes[node.name], room, marks.get(node.name), anchor * (node.name == first)
        )
        for node in topology.nodes
    ]
    return "\n".join([*parts, "</svg>"])


def _room(topology: Topology) -> int:
    """Return how many characters a box holds: as many as the longest line, within limits."""
    lengths = (words.cells(line) for node in topology.nodes for line in _lines(node))
    return min(max(NARROWEST, *lengths, 0), WIDEST)


def _lines(node: Node) -> tuple[str, str, str]:
    return (
        words.visible(f"{node.op} {node.detail}".strip()),
        words.visible(node.name),
        words.visible(words.shape(node)),
    )


def _node(node: Node, corner: Point, room: int, mark: Mark | None, anchor: str) -> str:
    x, y = corner
    width = room * LETTER + 2 * PADDING
    call, name, shape = _lines(node)
    first = words.clip(call, room - len(words.SIGN[mark]) - 1 if mark else room)
    op, space, detail = first.partition(" ")
    kind = " terminal" if node.kind in ("input", "output", "parameter") else ""
    identity = f' id="{words.xml(words.visible(anchor))}"' if anchor else ""
    parts = [
        f'<g{identity} class="node{kind}{f" {mark}" if mark else ""}">'
        f"<title>{words.xml(_story(node, mark))}</title>",
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT:.0f}" rx="3"/>',
        f'<text x="{x + PADDING:.1f}" y="{y + 15:.1f}"><tspan class="op">{words.xml(op)}</tspan>'
        f"{space}{words.xml(detail)}</text>",
        f'<text x="{x + PADDING:.1f}" y="{y + 29:.1f}">'
        f"{words.xml(words.clip(name, room, keep='end'))}</text>",
        f'<text class="quiet" x="{x + PADDING:.1f}" y="{y + 43:.1f}">'
        f"{words.xml(words.clip(shape, room))}</text>",
    ]
    if mark:
        parts.append(
            f'<text class="sign" x="{x + width - PADDING:.1f}" y="{y + 15:.1f}" '
            f'text-anchor="end">{words.SIGN[mark]}</text>'
        )
    return "".join([*parts, "</g>"])


def _story(node: Node, mark: Mark | None) -> str:
    """Return all that is known of a node, one thing a line."""
    lines = [
        f"{node.name} ({mark})" if mark else node.name,
        f"{node.op}({node.detail})",
        f"{node.kind} {node.target}",
        f"reads {', '.join(node.inputs)}" if node.inputs else "",
        f"{words.shape(node)} {node.dtype or ''} {', '.join(node.axes)}".strip(),
        f"parameters {', '.join(node.parameters)}" if node.parameters else "",
        f"{node.flops:,} FLOPs a sample" if node.flops else "",
        f"opaque: {node.opaque}" if node.opaque else "",
    ]
    return "\n".join(words.visible(line) for line in lines if line)


def _edge(edge: Edge, legs: tuple[tuple[Point, ...], ...], mark: str) -> str:
    """Return an edge's line and head; heads are drawn, as markers need ids unique on a page."""
    start, end = legs[0][0], legs[-1][-1]
    line = f"M{start[0]:.1f},{start[1]:.1f}" + "".join(map(_leg, legs))
    kind = f" {mark}" if mark else ""
    return (
        f'<path class="edge{kind}" d="{line}">'
        f"<title>{words.xml(words.visible(str(edge)))}</title></path>"
        f'<path class="head{kind}" d="M{end[0]:.1f},{end[1]:.1f}l-3.5,-7h7z"/>'
    )


def _leg(points: tuple[Point, ...]) -> str:
    if len(points) == 2:
        (x, y), (to_x, to_y) = points
        if x == to_x:
            return f"V{to_y:.1f}"
        middle = (y + to_y) / 2
        return f"C{x:.1f},{middle:.1f} {to_x:.1f},{middle:.1f} {to_x:.1f},{to_y:.1f}"
    parts = []
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        enter, leave = _towards(corner, before), _towards(corner, after)
        parts.append(
            f"L{enter[0]:.1f},{enter[1]:.1f}Q{corner[0]:.1f},{corner[1]:.1f} "
            f"{leave[0]:.1f},{leave[1]:.1f}"
        )
    return "".join(parts) + f"L{points[-1][0]:.1f},{points[-1][1]:.1f}"


def _towards(corner: Point, other: Point) -> Point:
    """Return the point where a line leaves its straight course to round a corner."""
    across, down = other[0] - corner[0], other[1] - corner[1]
    distance = abs(across) + abs(down)  # lines are horizontal or vertical
    if distance == 0:
        return corner
    share = min(BEND, distance / 2) / distance
    return corner[0] + share * across, corner[1] + share * down
