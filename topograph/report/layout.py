"""Where the boxes and lines of a drawn graph go.

Nodes stand in rows, each below all that it reads (networkx's topological generations). A value
read further down passes the rows between through a lane, a narrow place of its own; all readers
of one value share its lane. Rows are ordered by barycentres, long graphs are cut into columns
where few lines cross the cut, and positions in a row are the nearest ones to what the rows above
and below ask for. Lines bend only between rows, so they cross no box.
"""

import math
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import networkx as nx

from topograph.report.spread import spread
from topograph.topology import Edge, Topology

HEIGHT = 50.0  # of a box, in pixels
ROW = HEIGHT + 26.0  # from one row to the next
LANE = 8.0  # width of a lane
GAP = 16.0  # between two places of a row
TRACK = 7.0  # between two lines that go to the next column
PORT = 14.0  # between two lines that enter a box
MARGIN = 12.0
ASPECT = 1.5  # width : height that a drawing is wrapped towards
SHORTEST = 10  # rows of a column, at least

Place = tuple[str, int]  # a node or a lane of its value, and the row
Point = tuple[float, float]


class Layout(NamedTuple):
    """A drawing's size, each box's upper left corner, and each edge's legs, all in pixels.

    A leg of two points is a curve that starts and ends vertically; a longer one is a line with
    right angles.
    """

    width: float
    height: float
    boxes: dict[str, Point]
    routes: tuple[tuple[Edge, tuple[tuple[Point, ...], ...]], ...]


def layout(topology: Topology, width: float) -> Layout:
    """Place a topology's nodes and edges; every box is `width` pixels wide.

    References:
        Sugiyama, Tagawa, Toda, Methods for visual understanding of hierarchical system
        structures, https://doi.org/10.1109/TSMC.1981.4308636.
    """
    rows_of = _rows(topology)
    paths = {edge: _path(edge, rows_of) for edge in topology.edges}
    links = dict.fromkeys(pair for path in paths.values() for pair in pairwise(path))
    above: defaultdict[Place, list[Place]] = defaultdict(list)
    below: defaultdict[Place, list[Place]] = defaultdict(list)
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    rows = _order(topology, rows_of, paths, above, below)
    is_node = {place: rows_of[place[0]] == place[1] for row in rows for place in row}
    columns = _cut(rows, links, is_node, width)

    crossing = [
        [(upper, lower) for upper, lower in links if upper[1] == column[-1]]
        for column in columns[:-1]
    ]
    most = max(map(len, crossing), default=0)
    top = MARGIN + (TRACK * (most + 1) if most else 0.0)
    x: dict[Place, float] = {}
    y: dict[Place, float] = {}
    right_of: list[float] = []
    offset = MARGIN
    for number, column in enumerate(columns):
        found = _across([rows[row] for row in column], above, below, is_node, width)
        half = {place: (width if is_node[place] else LANE) / 2 for place in found}
        left = min(found[place] - half[place] for place in found)
        x |= {place: found[place] - left + offset for place in found}
        y |= {place: top + ROW * (place[1] - column[0]) for place in found}
        right_of.append(max(x[place] + half[place] for place in found))
        offset = right_of[-1] + 2 * GAP
        if number < len(crossing):
            offset += TRACK * len(crossing[number])

    track = {
        link: index
        for links_over in crossing
        for index, link in enumerate(sorted(links_over, key=lambda link: -x[link[0]]))
    }
    column_of = {row: number for number, column in enumerate(columns) for row in column}
    ports = _ports(topology, paths, x, width)
    routes = []
    for edge, path in paths.items():
        legs: list[tuple[Point, ...]] = []
        for upper, lower in pairwise(path):
            start = (x[upper], y[upper] + HEIGHT)
            end = (ports[edge] if lower == path[-1] else x[lower], y[lower])
            if column_of[upper[1]] == column_of[lower[1]]:
                legs.append((start, end))
            else:
                index = track[upper, lower]
                under = start[1] + GAP + TRACK * index
                beside = right_of[column_of[upper[1]]] + GAP + TRACK * index
                over = top - GAP - TRACK * (most - 1 - index)
                turns = ((start[0], under), (beside, under), (beside, over), (end[0], over))
                legs.append((start, *turns, end))
            if lower != path[-1]:
                legs.append((end, (end[0], end[1] + HEIGHT)))
        routes.append((edge, tuple(legs)))
    tallest = max((len(column) for column in columns), default=0)
    return Layout(
        width=(right_of[-1] if right_of else 0.0) + MARGIN,
        height=top + ROW * tallest - (ROW - HEIGHT) + MARGIN + (GAP + TRACK * most if most else 0),
        boxes={name: (x[name, row] - width / 2, y[name, row]) for name, row in rows_of.items()},
        routes=tuple(routes),
    )


def _rows(topology: Topology) -> dict[str, int]:
    """Return each node's row: below all it reads; one that reads nothing just above its reader."""
    rows = {
        name: row
        for row, names in enumerate(nx.topological_generations(topology.graph))
        for name in names
    }
    for node in topology.nodes:
        readers = topology.users[node.name]
        if not node.inputs and readers:
            rows[node.name] = min(rows[reader] for reader in readers) - 1
    used = sorted(set(rows.values()))  # rows may have become empty
    return {node.name: used.index(rows[node.name]) for node in topology.nodes}


def _path(edge: Edge, rows: dict[str, int]) -> tuple[Place, ...]:
    lanes = [(edge.source, row) for row in range(rows[edge.source], rows[edge.target])]
    return (*lanes, (edge.target, rows[edge.target]))


def _order(
    topology: Topology,
    rows_of: dict[str, int],
    paths: dict[Edge, tuple[Place, ...]],
    above: dict[Place, list[Place]],
    below: dict[Place, list[Place]],
) -> list[list[Place]]:
    """Return each row's places from left to right, by barycentres of the rows around it."""
    rows: list[list[Place]] = [[] for _ in range(max(rows_of.values(), default=-1) + 1)]
    for node in topology.nodes:
        rows[rows_of[node.name]].append((node.name, rows_of[node.name]))
    for place in dict.fromkeys(place for path in paths.values() for place in path[1:-1]):
        rows[place[1]].append(place)
    for _ in range(4):
        for around, sweep in ((below, reversed(rows)), (above, iter(rows))):
            position: dict[Place, float] = {}
            for row in sweep:
                aims = {}
                for index, place in enumerate(row):
                    seen = [position[other] for other in around[place] if other in position]
                    aims[place] = sum(seen) / len(seen) if seen else index / len(row)
                row.sort(key=aims.__getitem__)
                position |= {place: (i + 0.5) / len(row) for i, place in enumerate(row)}
    return rows


def _cut(
    rows: list[list[Place]],
    links: dict[tuple[Place, Place], None],
    is_node: dict[Place, bool],
    width: float,
) -> list[range]:
    """Return the columns as ranges of rows, about as long, cut where the fewest lines pass."""
    if not rows:
        return []
    passing = [0] * len(rows)
    for _, row in {upper for upper, _ in links}:
        passing[row] += 1  # values, not lines: a block is rather cut off whole than cut in two
    places = ((width if is_node[place] else LANE) + GAP for row in rows for place in row)
    usual = sum(places) / len(rows) + 3 * GAP
    wanted = max(SHORTEST, math.sqrt(len(rows) * usual / (ASPECT * ROW)))
    columns, start = [], 0
    for left in range(max(1, round(len(rows) / wanted)), 1, -1):
        aim = (len(rows) - start) / left
        choices = range(start + math.ceil(aim * 0.8), start + math.floor(aim * 1.2) + 1)
        stop = min(choices, key=lambda row: (passing[row - 1], abs(row - start - aim)))
        columns.append(range(start, stop))
        start = stop
    return [*columns, range(start, len(rows))]


def _across(
    rows: list[list[Place]],
    above: dict[Place, list[Place]],
    below: dict[Place, list[Place]],
    is_node: dict[Place, bool],
    width: float,
) -> dict[Place, float]:
    """Return the horizontal centre of each place of one column.

    Boxes follow boxes and lanes follow lanes; where they meet, the lane gives way.
    """
    size = {place: width if is_node[place] else LANE for row in rows for place in row}
    x: dict[Place, float] = {}
    for sweep in range(7):
        around, ordered = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in ordered:
            aims = []
            for place in row:
                near = [other for other in around[place] if other in x]
                alike = [other for other in near if is_node[other] == is_node[place]] or near
                still = x.get(place, 0.0)
                aims.append(sum(x[o] for o in alike) / len(alike) if alike else still)
            gaps = [(size[a] + size[b]) / 2 + GAP for a, b in pairwise(row)]
            weights = [1.0 if is_node[place] else 1e-4 for place in row]
            x |= zip(row, spread(aims, gaps, weights), strict=True)
    return x


def _ports(
    topology: Topology, paths: dict[Edge, tuple[Place, ...]], x: dict[Place, float], width: float
) -> dict[Edge, float]:
    """Return where each edge enters its box: side by side, in the order in which they come."""
    entering: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in topology.edges:
        entering[edge.target].append(edge)
    found = {}
    for edges in entering.values():
        edges.sort(key=lambda edge: x[paths[edge][-2]])
        step = min(PORT, (width - PORT) / len(edges))
        for index, edge in enumerate(edges):
            found[edge] = x[paths[edge][-1]] + step * (index - (len(edges) - 1) / 2)
    return found
