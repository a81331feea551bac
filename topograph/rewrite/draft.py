"""A working copy of a traced model's graph, on which mutations are carried out."""

import copy
from typing import Any

from torch import Tensor, fx, nn

from topograph.errors import DriftError
from topograph.tracing import TracedModel
from topograph.tracing.hosting import copy_path, twin
from topograph.tracing.module import STATE


class Draft:
    """The graph and module tree that a rewrite edits; the traced model is not touched.

    Attributes:
        base: What it was made from.
        graph: A copy of the graph, to be edited.
        tree: A copy of the top of the module tree; what lies below is shared.
        nodes: The copy's nodes by name.
        created: Names of the nodes that rewrites have made, in order.
        changed: Names of base nodes that do something else now: their records are made anew.
        values: For a node of the base, the node that now carries its value.
    """

    def __init__(self, base: TracedModel) -> None:
        self.base = base
        self.graph: fx.Graph = copy.deepcopy(base.module.graph)
        self.tree = twin(base.model) if base.model is not None else shell(base.module)
        self.scope = ""
        self.scopes = {node.name: node.scope for node in base.topology.nodes}
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.created: list[str] = []
        self.changed: set[str] = set()
        self.values: dict[str, fx.Node] = {}
        self._copies: dict[str, nn.Module] = {}
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
        """Add a submodule to the module whose forward is edited."""
        holder = copy_path(self.tree, self.scope, self._copies)
        if name in holder._modules or hasattr(holder, name):
            raise DriftError(f"the model already has {name!r}; make the plan anew")
        holder._modules[name] = module.train(self.tree.training)  # some containers refuse names

    def call(
        self, op: str, target: Any, args: tuple[Any, ...], name: str, after: fx.Node
    ) -> fx.Node:
        """Create a node with exactly this name right behind another one."""
        if name in self.nodes:
            raise DriftError(f"the graph already has a node {name!r}; make the plan anew")
        if self.scope and op in ("call_module", "get_attr"):
            target = f"{self.scope}.{target}"
        with self.graph.inserting_after(after):
            node = self.graph.create_node(op, target, args, {}, name=name)
        self.nodes[node.name] = node
        self.created.append(node.name)
        self.scopes[node.name] = self.scope
        return node

    def exchange_module(self, path: str, module: nn.Module) -> None:
        """Put another module in a submodule's place, copying the containers on the way to it."""
        containers, _, last = path.rpartition(".")
        copy_path(self.tree, containers, self._copies)._modules[last] = module

    def remove_module(self, path: str) -> None:
        """Drop a submodule from the tree, copying the containers on the way to it."""
        containers, _, last = path.rpartition(".")
        del copy_path(self.tree, containers, self._copies)._modules[last]

    def scope_of(self, *names: str) -> str:
        """Return the innermost module whose forward sees all of some nodes and was called once."""
        parts = [self.scopes.get(name, "").split(".") for name in names]
        shared = [p[0] for p in zip(*parts, strict=False) if len(set(p)) == 1]
        path = ".".join(shared)
        while path and path not in self.base.frames:
            path = path.rpartition(".")[0]
        return path


def shell(module: nn.Module) -> nn.Module:
    """Return an empty module with copies of another's own stores: what they hold is shared."""
    empty = nn.Module()
    for store in STATE:
        empty.__dict__[store] = dict(getattr(module, store))
    empty._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    empty.training = module.training
    return empty
