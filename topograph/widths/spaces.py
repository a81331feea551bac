"""`spaces`: the channel spaces of a model, each an index set that many tensors share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from topograph.topology.spaces import Member, Space
from topograph.tracing import TracedModel
from topograph.widths.arguments import measures
from topograph.widths.arithmetic import RULES as ARITHMETIC
from topograph.widths.dims import Dim, leaves, lock
from topograph.widths.flow import Flow, Layout, Role, follow
from topograph.widths.indexing import RULES as INDEXING
from topograph.widths.joining import RULES as JOINING
from topograph.widths.layers import CALLS, layer
from topograph.widths.products import RULES as PRODUCTS
from topograph.widths.shapes import RULES as SHAPES
from topograph.widths.weights import GEOMETRY

RULES = {**SHAPES, **JOINING, **INDEXING, **ARITHMETIC, **PRODUCTS, **CALLS}


@dataclass
class Widths:
    """The spaces of a traced model, by name, and where the graph uses them."""

    flow: Flow

    @cached_property
    def names(self) -> dict[int, str]:
        """Name of each space, by the identity of its dimension."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for wanted in ("makes", "scales", "reads"):
            for path, tensor in self.tensors.items():
                for axis, dim in enumerate(self.flow.tensors.get(id(tensor), ())):
                    if wanted not in self.flow.roles_of(tensor, axis):
                        continue
                    atoms = [a for a in leaves(dim) if a.size > 1 and a.lock != GEOMETRY]
                    atoms = list(dict.fromkeys(atoms))
                    stem = path.removesuffix(".weight") if wanted == "makes" else f"{path}.{axis}"
                    for number, atom in enumerate(atoms, 1):
                        if id(atom) in names:
                            continue
                        name = f"{stem}#{number}" if len(atoms) > 1 else stem
                        while name in taken:
                            name += "-"
                        names[id(atom)] = name
                        taken.add(name)
        return names

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters, then buffers, that the graph uses, by path."""
        network = self.flow.traced.module
        named = (*network.named_parameters(), *network.named_buffers())
        known = [(path, tensor) for path, tensor in named if id(tensor) in self.flow.tensors]
        return dict(sorted(known, key=lambda item: item[1].ndim < 2))

    @cached_property
    def dims(self) -> dict[str, Dim]:
        """Each space's dimension, by name."""
        known: dict[str, Dim] = {}
        for tensor in self.tensors.values():
            for dim in self.flow.tensors[id(tensor)]:
                for leaf in leaves(dim):
                    if id(leaf) in self.names:
                        known[self.names[id(leaf)]] = leaf
        return known

    @cached_property
    def outputs(self) -> set[int]:
        """Spaces that the model's output runs over, by identity."""
        return {id(leaf) for dim in self.flow.outputs for leaf in leaves(dim)}

    @cached_property
    def mixed(self) -> dict[int, list[tuple[str, str]]]:
        """For each space, by identity, the nodes that mix its units, and how."""
        places: dict[int, list[tuple[str, str]]] = {}
        for meeting in self.flow.meetings:
            for leaf in dict.fromkeys(leaves(meeting.dim)):
                places.setdefault(id(leaf), []).append((meeting.node.name, meeting.kind))
        return places

    @cached_property
    def axes(self) -> dict[int, list[tuple[str, int]]]:
        """For each space, by identity, the path and axis of the tensors that run over it."""
        places: dict[int, list[tuple[str, int]]] = {}
        for path, tensor in self.tensors.items():
            for axis, own in enumerate(self.flow.tensors[id(tensor)]):
                for leaf in dict.fromkeys(leaves(own)):
                    places.setdefault(id(leaf), []).append((path, axis))
        return places

    @cached_property
    def nodes(self) -> dict[int, list[str]]:
        """For each space, by identity, the nodes that read or make a value that runs over it."""
        places: dict[int, list[str]] = {}
        own: dict[str, set[int]] = {}
        for node in self.flow.traced.module.graph.nodes:
            own[node.name] = _spaces_of(self.flow.layouts.get(node.name))
            if node.op not in ("output", "placeholder"):
                for key in own[node.name].union(*(own[n.name] for n in node.all_input_nodes)):
                    places.setdefault(key, []).append(node.name)
        return places

    def both(self, dim: Dim) -> list[str]:
        """Return the tensors with an axis over a space that both makes and reads its units."""
        return [
            path
            for path, axis in self.axes[id(dim)]
            if {"makes", "reads"} <= self.flow.roles_of(self.tensors[path], axis)
        ]

    def listed(self) -> tuple[Space, ...]:
        """Return the spaces as records, in the order of the parameters."""
        return tuple(
            Space(
                name=name,
                size=dim.size,
                members=tuple(self._member(*place) for place in self.axes[id(dim)]),
                output=id(dim) in self.outputs,
                mixed=tuple(dict.fromkeys(node for node, _ in self.mixed.get(id(dim), ()))),
                lock=dim.lock,
            )
            for name, dim in self.dims.items()
        )

    def _member(self, path: str, axis: int) -> Member:
        roles = self.flow.roles_of(self.tensors[path], axis)
        ranked: tuple[Role, ...] = ("reads", "makes", "scales")
        return Member(path=path, axis=axis, role=next(role for role in ranked if role in roles))


def _spaces_of(layout: Layout) -> set[int]:
    if isinstance(layout, Dim):
        return {id(leaf) for leaf in leaves(layout)}
    return set().union(*map(_spaces_of, layout)) if layout else set()


def widths(traced: TracedModel) -> Widths:
    """Follow a model's graph and return its spaces with all places where they are used."""
    flow = follow(traced, RULES, layer)
    for node, way, dim, _ in flow.written:
        number: Any = node
        for step in way:
            whole = isinstance(number, fx.Node | slice)
            number = getattr(number, step) if whole else number[step]
        if isinstance(number, fx.Node):
            _settle(flow, number, dim)
    return Widths(flow)


def _settle(flow: Flow, number: fx.Node, dim: Dim) -> None:
    """Lock what a computed size takes for a constant, where it follows the batch as well.

    Such as ``batch * 4`` for a product of the batch with 4 heads: no new constant can stand there.
    """
    read = [leaf for source in measures(flow, number) for leaf in leaves(source)]
    if any(leaf.lock is not None and leaf.size > 1 for leaf in read):
        for leaf in leaves(dim):
            if not any(leaf is known for known in read):
                lock(leaf, f"{number.name} is computed from it as a constant and from another size")


def spaces(traced: TracedModel) -> tuple[Space, ...]:
    """Return the channel spaces of a model: which axes of which tensors must change together.

    Each operation says how dimensions meet: a linear layer reads one and makes another, a sum
    makes two one, a concatenation stacks them, a reshape to heads splits one into factors. Time
    and memory are linear in the graph.

    Args:
        traced: From `trace`, with example inputs.

    Returns:
        The spaces in the order of the parameters, locked ones with their reason.

    Raises:
        SelectorError: The model was traced without example inputs.

    Example:
        >>> import topograph as tg, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> [(s.name, s.size) for s in tg.spaces(tg.trace(model, (torch.zeros(2, 4),)))]
        [('0', 8), ('0.weight.1', 4), ('1', 2)]

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, arXiv:2301.12900.
    """
    return widths(traced).listed()
