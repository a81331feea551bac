"""A model as a tree: its submodules, the calls that each makes, and what they cost together."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from topograph.topology import Edge, Node, Topology, candidate_edges


@dataclass(frozen=True, repr=False)
class Row:
    """One submodule, one call, or several sibling blocks that are alike.

    Args:
        path: The submodule's path, empty for the model; for a call that of the submodule it calls,
            or of the one that makes it.
        node: The call; None for a submodule and for blocks that are alike.
        children: What is below, in the order of first calls; the blocks where they are alike.
        nodes: Every call in it.
        used: Paths of the parameters that its calls use or that are registered below it.
        parameters: Elements of these, each parameter once.
        flops: Floating-point operations per sample of its calls.
        candidates: Edges that leave its calls and can take an inserted layer.
        alike: How many blocks this row stands for; 1 for a submodule or a call.

    Raises:
        Nothing.

    Example:
        >>> row = module_tree(Topology(name="Net"))
        >>> row.path, row.children, row.parameters
        ('', (), 0)

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module
    """

    path: str
    node: Node | None
    children: tuple["Row", ...]
    nodes: tuple[Node, ...]
    used: frozenset[str]
    parameters: int
    flops: int
    candidates: tuple[Edge, ...]
    alike: int = 1

    @property
    def first(self) -> "Row":
        """The row itself, or the first of the blocks that it stands for."""
        return self.children[0] if self.alike > 1 else self

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why parts of it are opaque, each reason once."""
        return tuple(dict.fromkeys(node.opaque for node in self.nodes if node.opaque))

    @property
    def what(self) -> str:
        """The operation of a call, or how many nodes there are; told if something is opaque."""
        first = self.first
        if first.node is not None:
            text = first.node.op + (" (opaque)" if first.node.opaque else "")
        else:
            closed = sum(node.opaque is not None for node in first.nodes)
            text = _counted(len(first.nodes), "node") + (f", {closed} opaque" if closed else "")
        return f"{self.alike} × {text}" if self.alike > 1 else text

    def walk(self) -> Iterator["Row"]:
        """Yield the row and all below it, a parent before its children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def __repr__(self) -> str:
        name = self.node.name if self.node else self.path
        return f"<Row {name!r}: {self.what}, {self.parameters:,} parameters>"


def module_tree(topology: Topology, *, fold: bool = False) -> Row:
    """Return the tree of a model's submodules and calls; every node stands in it once.

    A call stands below the submodule whose forward makes it. Where a parameter is tied, each
    submodule that uses it counts it, and each row that holds both counts it once.

    Args:
        topology: The network; sizes in elements, FLOPs per sample.
        fold: Whether neighbours that are alike but for their number (``layers.0``, ``layers.1``)
            become children of one row.

    Returns:
        The row of the whole model.

    Raises:
        Nothing.

    Example:
        >>> relu = Node(name="relu", kind="function", op="relu", target="relu", scope="body.act")
        >>> [row.path for row in module_tree(Topology(name="Net", nodes=(relu,))).walk()]
        ['', 'body', 'body.act', 'body.act']

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module
    """
    return _Planter(topology, fold).submodule("")


def tree_json(topology: Topology) -> str:
    """Return the whole tree as indented JSON, nothing folded.

    Each row has ``path``, ``node``, ``op``, ``shape``, ``axes``, ``parameters``, ``flops``,
    ``opaque``, ``candidate_count``, ``candidates`` and ``children``. A submodule has no ``node``,
    ``op`` and ``shape``; its ``candidates`` stand at its calls.

    Args:
        topology: The network; sizes in elements, FLOPs per sample.

    Returns:
        A document with ``format``, ``name``, ``fingerprint`` and ``tree``.

    Raises:
        Nothing.

    Example:
        >>> json.loads(tree_json(Topology(name="Net")))["tree"]["parameters"]
        0

    References:
        RFC 8259.
    """
    document = {
        "format": "topograph.tree/1",
        "name": topology.name,
        "fingerprint": topology.fingerprint,
        "tree": _document(module_tree(topology)),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def lines(row: Row, depth: int | None = None, level: int = 0) -> Iterator[tuple[int, Row]]:
    """Yield the rows below a row with their levels; of blocks that are alike only the first's.

    Where `depth` is given, submodules of the level ``depth - 1`` stay closed.
    """
    for child in row.children:
        yield level, child
        if depth is None or level + 1 < depth:
            yield from lines(child.first, depth, level + 1)


def short_name(node: Node) -> str:
    """Return a node's name, with an ellipsis for the path of the submodule that it stands below."""
    start = node.scope.replace(".", "_") + "_"
    fits = bool(node.scope) and node.name.startswith(start) and len(node.name) > len(start)
    return f"…_{node.name.removeprefix(start)}" if fits else node.name


class _Planter:
    """Makes rows from what was found in one pass over a topology."""

    def __init__(self, topology: Topology, fold: bool) -> None:
        self.fold = fold
        self.counts = {p.path: p.count for p in topology.parameters if not p.buffer}
        self.candidates: defaultdict[str, list[Edge]] = defaultdict(list)
        for edge in candidate_edges(topology):
            self.candidates[edge.source].append(edge)
        self.inside: dict[str, list[Node | str]] = {"": []}
        for node in topology.nodes:
            above = ""
            for path in _prefixes(node.scope):
                if path not in self.inside:
                    self.inside[path] = []
                    self.inside[above].append(path)
                above = path
            self.inside[node.scope].append(node)
        self.registered: defaultdict[str, set[str]] = defaultdict(set)
        for parameter in self.counts:
            for path in ("", *_prefixes(parameter.rpartition(".")[0])):
                self.registered[path].add(parameter)

    def submodule(self, path: str) -> Row:
        found = [
            self.submodule(part) if isinstance(part, str) else self.call(part)
            for part in self.inside[path]
        ]
        children = self.folded(found) if self.fold else found
        return self.row(path, None, children, used=self.registered[path])

    def call(self, node: Node) -> Row:
        path = node.target if node.kind == "module" else node.scope
        return self.row(path, node, (), used=node.parameters)

    def row(
        self,
        path: str,
        node: Node | None,
        children: Iterable[Row],
        used: Iterable[str],
        alike: int = 1,
    ) -> Row:
        children = tuple(children)
        nodes = (node,) if node else tuple(n for child in children for n in child.nodes)
        every = frozenset(used).union(*(child.used for child in children)) & self.counts.keys()
        return Row(
            path=path,
            node=node,
            children=children,
            nodes=nodes,
            used=frozenset(every),
            parameters=sum(self.counts[p] for p in every),
            flops=sum(n.flops for n in nodes),
            candidates=tuple(edge for n in nodes for edge in self.candidates[n.name]),
            alike=alike,
        )

    def folded(self, rows: list[Row]) -> Iterator[Row]:
        """Yield rows, neighbours that are alike as one."""
        for key, group in groupby(rows, self.signature):
            members = list(group)
            if key is None or len(members) == 1:
                yield from members
            else:
                path = f"{members[0].path} … {members[-1].path}"
                yield self.row(path, None, members, used=(), alike=len(members))

    def signature(self, row: Row) -> tuple[object, ...] | None:
        """Return what must be equal in blocks that are alike; None for what is no such block."""
        block = row.node is None or row.node.opaque is not None
        if not block or not re.search(r"\d", row.path.rpartition(".")[2]):
            return None
        place = {node.name: index for index, node in enumerate(row.nodes)}
        calls = tuple(self.call_signature(node, row.path, place) for node in row.nodes)
        return re.sub(r"\d+", "0", row.path), row.parameters, calls

    def call_signature(self, node: Node, path: str, place: Mapping[str, int]) -> tuple[object, ...]:
        within = (text.removeprefix(path) for text in (node.scope, node.target))
        size = sum(self.counts.get(name, 0) for name in node.parameters)
        reads = tuple(place.get(source, -1) for source in node.inputs)
        leaving = bool(self.candidates[node.name])  # how many depends on what comes after
        value = node.shape, node.dtype, node.axes
        return *within, node.op, node.detail, reads, value, size, node.flops, node.opaque, leaving


def _prefixes(path: str) -> Iterator[str]:
    """Yield ``a``, ``a.b``, ``a.b.c`` for ``a.b.c``, nothing for the empty path."""
    found = accumulate(path.split("."), lambda above, part: f"{above}.{part}")
    return (prefix for prefix in found if prefix)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _document(row: Row) -> dict[str, Any]:
    node = row.node
    edges = row.candidates if node else ()
    return {
        "path": row.path,
        "node": node.name if node else None,
        "op": node.op if node else None,
        "shape": list(node.shape) if node and node.shape is not None else None,
        "axes": list(node.axes) if node else [],
        "parameters": row.parameters,
        "flops": row.flops,
        "opaque": node.opaque if node else None,
        "candidate_count": len(row.candidates),
        "candidates": [{"source": e.source, "target": e.target, "slot": e.slot} for e in edges],
        "children": [_document(child) for child in row.children],
    }
