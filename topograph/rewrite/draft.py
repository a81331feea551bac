"""A working copy of a traced model's graph, on which mutations are carried out."""

import copy
from typing import Any

from torch import Tensor, fx, nn

from topograph.errors import DriftError
from topograph.tracing import TracedModel
from topograph.tracing.module import STATE


class Draft:
    """The graph and module tree that a rewrite edits; the traced model is not touched.

    Attributes:
        base: What it was made from.
        graph: A copy of the graph, to be edited.
        tree: A copy of the top of the module tree; what lies below is shared.
        nodes: The copy's nodes by name.
        created: Names of the nodes that rewrites have made, in order.
        values: For a node of the base, the node that now carries its value.
    """

    def __init__(self, base: TracedModel) -> None:
        self.base = base
        self.graph: fx.Graph = copy.deepcopy(base.module.graph)
        self.tree = shell(base.module)
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.created: list[str] = []
        self.values: dict[str, fx.Node] = {}
        self._copied: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._position = {node.name: index for index, node in enumerate(self.graph.nodes)}

    def value(self, name: str) -> fx.Node:
        """Return the node that now carries the value of a node of the base."""
        return self.values.get(name) or self.nodes[name]

    def position(self, name: str) -> int:
        """Return where in the base's order a node stands."""
        return self._position[name]

    def sample(self, name: str) -> Tensor:
        """Return a fake tensor with the shape, dtype and device of a base node's value."""
        values = self.base.values
        assert values is not None  # the checks have refused traces without example inputs
        return values.by_node[name].passes[0]

    def free_name(self, stem: str) -> str:
        """Return ``stem_1``, or the next number that no module or node has yet."""
        number = self._numbers.get(stem, 1)
        while self._is_taken(f"{stem}_{number}"):
            number += 1
        self._numbers[stem] = number
        return f"{stem}_{number}"

    def _is_taken(self, name: str) -> bool:
        homes = (self.nodes, self.tree._modules, self.tree._parameters)
        return any(name in home for home in homes) or f"{name}_sum" in self.nodes

    def add_module(self, name: str, module: nn.Module) -> None:
        """Add a submodule to the top of the tree."""
        if name in self.tree._modules or hasattr(self.tree, name):
            raise DriftError(f"the model already has {name!r}; make the plan anew")
        self.tree.add_module(name, module.train(self.tree.training))

    def call(
        self, op: str, target: Any, args: tuple[Any, ...], name: str, after: fx.Node
    ) -> fx.Node:
        """Create a node with exactly this name right behind another one."""
        if name in self.nodes:
            raise DriftError(f"the graph already has a node {name!r}; make the plan anew")
        with self.graph.inserting_after(after):
            node = self.graph.create_node(op, target, args, {}, name=name)
        self.nodes[node.name] = node
        self.created.append(node.name)
        return node

    def remove_module(self, path: str) -> None:
        """Drop a submodule from the tree, copying the containers on the way to it."""
        *containers, last = path.split(".")
        holder, way = self.tree, []
        for part in containers:
            way.append(part)
            child = holder._modules[part]
            assert child is not None
            if ".".join(way) not in self._copied:
                child = _shallow(child)
                holder._modules[part] = child
                self._copied.add(".".join(way))
            holder = child
        del holder._modules[last]


def shell(module: nn.Module) -> nn.Module:
    """Return an empty module with copies of another's own stores: what they hold is shared."""
    empty = nn.Module()
    for store in STATE:
        empty.__dict__[store] = dict(getattr(module, store))
    empty._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    empty.training = module.training
    return empty


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__ = dict(module.__dict__)
    twin._modules = dict(module._modules)
    return twin
