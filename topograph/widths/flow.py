"""The dimensions of every value of a graph, found by following it once from input to output.

Each operation says how the dimensions of what it reads meet those of what it makes. What no rule
knows is locked, with its reason. Places where a size is written down (constants of the graph,
attributes of layers) are collected on the way, so that an edit finds them all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx, nn

from topograph.errors import SelectorError
from topograph.tracing import TracedModel
from topograph.tracing.describe import operation
from topograph.tracing.seen import Seen
from topograph.widths.dims import Dim, lock, unify

# A tuple of `Dim` for a tensor, a list of layouts for a sequence, None for anything else. A rule
# may return a text instead: why what it touches cannot change.
Layout = Any
Role = Literal["makes", "reads", "scales"]
AT_INPUT = "it is a size of the model's input"
WRITES = ("setitem",)  # operations whose effect is not their value


class Written(NamedTuple):
    """A number in the graph that is the size of a dimension: where, and with which sign."""

    node: fx.Node
    way: tuple[Any, ...]  # ("args", 1, 0): the first entry of the second argument
    dim: Dim
    sign: int = 1


class Attribute(NamedTuple):
    """A number in a layer's attribute that is the size of a dimension."""

    path: str
    name: str
    dim: Dim
    entry: int | None = None


class Meeting(NamedTuple):
    """A node that mixes all units of a dimension: a sum, a norm, an inner product of values."""

    node: fx.Node
    kind: Literal["norm", "mean", "inner", "other"]
    dim: Dim


@dataclass
class Flow:
    """What following a graph has found.

    Attributes:
        layouts: The dimensions of every node's value.
        tensors: The dimensions of every parameter and buffer, by the tensor's identity.
        roles: What a parameter's dimension does, by identity and axis: makes units, reads them,
            or scales them.
        written: Sizes in the graph.
        attributes: Sizes in layers.
        meetings: Where units of one dimension are mixed without weights.
        outputs: Dimensions of the model's outputs.
        chunked: Calls of ``chunk``, with the dimension of each part.
        modules: The network's modules by path, shared ones by each of their paths.
        nodes: The graph's nodes by name.
        state: Identities of all parameters and buffers.
        numbers: Values that the graph computes from sizes, as far as they were asked for.
    """

    traced: TracedModel
    layouts: dict[str, Layout] = field(default_factory=dict)
    tensors: dict[int, tuple[Dim, ...]] = field(default_factory=dict)
    roles: dict[tuple[int, int], set[Role]] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    outputs: list[Dim] = field(default_factory=list)
    chunked: dict[str, list[Dim]] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    state: set[int] = field(default_factory=set)
    numbers: dict[str, Any] = field(default_factory=dict)

    def seen(self, node: fx.Node) -> Any:
        """Return what a node's value looked like."""
        assert self.traced.values is not None
        return self.traced.values.by_node[node.name].passes[0]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the sizes of a node's value; empty where it is not one tensor."""
        seen = self.seen(node)
        return tuple(seen.shape) if isinstance(seen, Seen) else ()

    def word(self, node: fx.Node) -> str:
        """Return what a node does in one word, such as "linear"."""
        return operation(node, self.modules)

    def is_opaque(self, node: fx.Node) -> bool:
        """Return whether a module could not be opened when the model was traced."""
        return self.traced.topology.by_name[node.name].opaque is not None

    def dims(self, value: Any) -> tuple[Dim, ...] | None:
        """Return the dimensions of an argument, None where it is no tensor."""
        layout = self.layouts.get(value.name) if isinstance(value, fx.Node) else None
        return layout if isinstance(layout, tuple) else None

    def tensor(self, tensor: Tensor, role: Role | None = None) -> tuple[Dim, ...]:
        """Return the dimensions of a parameter or buffer; all uses of one tensor share them."""
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = tuple(Dim(size) for size in tensor.shape)
        if role is not None:
            for axis in range(tensor.ndim):
                self.role(tensor, axis, role)
        return self.tensors[id(tensor)]

    def role(self, tensor: Tensor, axis: int, role: Role) -> None:
        """Note what one axis of a tensor does."""
        self.roles.setdefault((id(tensor), axis), set()).add(role)

    def roles_of(self, tensor: Tensor, axis: int) -> set[Role]:
        """Return what an axis of a tensor does; what nothing is known of makes units."""
        return self.roles.get((id(tensor), axis)) or {"makes"}

    def attribute(self, path: str, name: str, dim: Dim, index: int | None = None) -> None:
        """Note that a layer's attribute is the size of a dimension."""
        self.attributes.append(Attribute(path, name, dim, index))

    def write(self, node: fx.Node, way: tuple[Any, ...], dim: Dim, sign: int = 1) -> None:
        """Note that an argument is the size of a dimension."""
        self.written.append(Written(node, way, dim, sign))

    def meet(self, node: fx.Node, kind: Any, dim: Dim) -> None:
        """Note that a node mixes all units of a dimension."""
        self.meetings.append(Meeting(node, kind, dim))

    def parameter(self, node: Any) -> Tensor | None:
        """Return the parameter or buffer that a node reads unchanged."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value: Any = self.traced.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value if isinstance(value, Tensor) else None

    def owned(self, module: nn.Module) -> list[Tensor]:
        """Return all parameters and buffers of a module, those of its parts too."""
        return [*module.parameters(), *module.buffers()]


Rule = Callable[[Flow, fx.Node], Layout]


def follow(traced: TracedModel, rules: Mapping[str, Rule], layer: Rule) -> Flow:
    """Return the dimensions of all values of a traced model.

    Args:
        traced: With example inputs.
        rules: How each function's dimensions meet, by operation.
        layer: The same for calls of modules.

    Raises:
        SelectorError: There are no example inputs, so that no sizes are known.
    """
    if not isinstance(traced, TracedModel):
        raise SelectorError(
            f"expected a TracedModel, got {type(traced).__name__}; call tg.trace on the model first"
        )
    if traced.values is None:
        raise SelectorError(
            "the model was traced without example inputs, so no sizes are known; "
            "trace it with example_inputs=(…)"
        )
    flow = Flow(traced)
    network = traced.module
    flow.modules = dict(network.named_modules(remove_duplicate=False))
    flow.state = {id(tensor) for tensor in flow.owned(network)}
    for node in network.graph.nodes:
        flow.nodes[node.name] = node
        flow.layouts[node.name] = _layout(flow, node, rules, layer)
    return flow


def _layout(flow: Flow, node: fx.Node, rules: Mapping[str, Rule], layer: Rule) -> Layout:
    if node.op == "output":
        flow.outputs += [dim for dims in _all(flow, node) for dim in dims]
        return None
    if node.op == "get_attr":
        tensor = flow.parameter(node)
        if tensor is None:
            return None
        dims = flow.tensor(tensor)
        if id(tensor) not in flow.state:
            close(dims, f"{node.target} is no parameter or buffer")
        return dims
    made = fresh(flow.seen(node))
    if node.op == "placeholder":
        close(made, AT_INPUT)
        return made
    word = flow.word(node)
    if made is None and word not in WRITES:
        return None
    rule = layer if node.op == "call_module" else rules.get(word)
    found = rule(flow, node) if rule is not None else None
    reason = f"{node.name} ({word}) is not known to keep its parts apart"
    if isinstance(found, str):
        reason = f"{node.name} ({word}) {found}"
    elif made is None or (found is not None and _sizes(found) == _sizes(made)):
        if node.op != "call_module" or _complete(flow, node):
            return found
        reason = f"{node.name} ({word}) has a tensor of unknown meaning"
    close(made, reason)
    for dims in _all(flow, node):
        close(dims, reason)
    for tensor in flow.owned(flow.modules[str(node.target)]) if node.op == "call_module" else ():
        close(flow.tensor(tensor), reason)
    return made


def _complete(flow: Flow, node: fx.Node) -> bool:
    """Return whether a rule has placed all tensors of the module that a node calls."""
    owned = flow.owned(flow.modules[str(node.target)])
    return all(tensor.ndim == 0 or id(tensor) in flow.tensors for tensor in owned)


def fresh(seen: Any) -> Layout:
    """Return new dimensions for a value."""
    if isinstance(seen, Seen):
        return tuple(Dim(size) for size in seen.shape)
    if isinstance(seen, tuple):
        return [fresh(part) for part in seen] if any(isinstance(p, Seen) for p in seen) else None
    if isinstance(seen, Mapping):
        return [fresh(part) for part in seen.values()]
    return None


def close(layout: Layout, reason: str) -> None:
    """Lock all dimensions of a layout."""
    for part in layout or ():
        if isinstance(part, Dim):
            lock(part, reason)
        else:
            close(part, reason)


def join(flow: Flow, node: fx.Node, first: Dim, second: Dim) -> None:
    """Unify two dimensions that a node makes one."""
    unify(first, second, f"{node.name} joins values whose parts do not line up")


def _all(flow: Flow, node: fx.Node) -> Iterator[tuple[Dim, ...]]:
    for source in node.all_input_nodes:
        yield from _tensors(flow.layouts.get(source.name))


def _tensors(layout: Layout) -> Iterator[tuple[Dim, ...]]:
    if isinstance(layout, tuple):
        yield layout
    for part in layout if isinstance(layout, list) else ():
        yield from _tensors(part)


def _sizes(layout: Layout) -> Any:
    if isinstance(layout, Dim):
        return layout.size
    if isinstance(layout, torch.Size | tuple):
        return tuple(_sizes(part) for part in layout)
    return [_sizes(part) for part in layout] if isinstance(layout, list) else None
