"""A working copy of a traced model's graph, on which mutations are carried out."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

from torch import Tensor, fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from topograph.errors import DriftError
from topograph.tracing import TracedModel
from topograph.tracing.guard import guard
from topograph.tracing.hosting import copy_path, twin
from topograph.tracing.module import STATE
from topograph.widths.indices import Index
from topograph.widths.spaces import Widths, widths

REPLACED = WeakTensorKeyDictionary()  # beside the parameters, which are pickled with models


@dataclass(frozen=True)
class Resize:
    """A new size for one channel space.

    Attributes:
        index: Where its units come from.
        how: How new units start: ``zero``, ``duplicate``, ``random``; ``narrow`` has none.
        seed: Of the new units' weights.
    """

    index: Index
    how: str
    seed: int


class Draft:
    """The graph and module tree that a rewrite edits; the traced model is not touched.

    Attributes:
        base: What it was made from.
        graph: A copy of the graph, to be edited.
        tree: A copy of the top of the module tree; what lies below is shared.
        nodes: The copy's nodes by name.
        created: Names of the nodes that rewrites have made, in order.
        changed: Names of base nodes that do something else now: their records are made anew.
        edited: Paths of the submodules whose forward has other constants now.
        in_place: Mutations that exchanged modules only: every forward stays as it was.
        resizes: Spaces that get another size, by the identity of their dimension.
        values: For a node of the base, the node that now carries its value.
    """

    def __init__(self, base: TracedModel) -> None:
        self.base = base
        self.graph: fx.Graph = copy.deepcopy(base.module.graph)
        guard(self.graph, base.module)
        self.tree = twin(base.model) if base.model is not None else shell(base.module)
        self.scope = ""
        self.scopes = {node.name: node.scope for node in base.topology.nodes}
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.created: list[str] = []
        self.changed: set[str] = set()
        self.edited: set[str] = set()
        self.in_place: set[object] = set()
        self.resizes: dict[int, Resize] = {}
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

    def order(self, name: str) -> tuple[int, str]:
        """Return a key that sorts nodes as they run, new ones last."""
        return (self._position.get(name, len(self._position)), name)

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
        self._numbers[stem] = number + 1
        return f"{stem}_{number}"

    def _is_taken(self, name: str) -> bool:
        if name in self._parts or name in self.nodes:
            return True
        return any(node.startswith(f"{name}_") for node in self.nodes)

    @cached_property
    def _parts(self) -> frozenset[str]:
        """Every name that a module, parameter or buffer has somewhere in the tree."""
        module = self.base.module
        paths = [path for path, _ in module.named_modules(remove_duplicate=False)]
        paths += module.state_dict()
        return frozenset(part for path in paths for part in path.split("."))

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

    def exchange_parameter(self, path: str, parameter: nn.Parameter) -> None:
        """Put another parameter at one path, copying the modules on the way to it."""
        owner, _, last = path.rpartition(".")
        module = self.own(owner)
        old = module._parameters[last]
        module._parameters[last] = parameter
        if old is not None:
            REPLACED[parameter] = ref(old)
        for name, held in list(module.__dict__.items()):  # recurrent layers list theirs once more
            if isinstance(held, list) and any(_means(item, old) for item in held):
                module.__dict__[name] = [_like(i, parameter) if _means(i, old) else i for i in held]

    def exchange_tensor(self, path: str, tensor: Tensor) -> None:
        """Put another parameter or buffer at one path, copying the modules on the way to it."""
        if isinstance(tensor, nn.Parameter):
            self.exchange_parameter(path, tensor)
        else:
            owner, _, last = path.rpartition(".")
            self.own(owner)._buffers[last] = tensor

    def remove_module(self, path: str) -> None:
        """Drop a submodule from the tree, copying the containers on the way to it."""
        containers, _, last = path.rpartition(".")
        del copy_path(self.tree, containers, self._copies)._modules[last]

    @cached_property
    def widths(self) -> Widths:
        """The channel spaces of the base."""
        return widths(self.base)

    @cached_property
    def ties(self) -> dict[str, tuple[str, ...]]:
        """For each path of a parameter of the base, all its paths: several where it is tied."""
        return _paths_by_thing(self.base.module.named_parameters(remove_duplicate=False))

    @cached_property
    def _same(self) -> dict[str, tuple[str, ...]]:
        return _paths_by_thing(self.base.module.named_modules(remove_duplicate=False))

    def own(self, path: str) -> nn.Module:
        """Return the submodule at a path, copied once with all above it, under all its paths."""
        holder, way = self.tree, ""
        for part in path.split(".") if path else []:
            way = f"{way}.{part}" if way else part
            child = holder._modules[part]
            assert child is not None
            if self._copies.get(way) is not child:
                holder._modules[part] = self._copies[way] = twin(child)
                for other in self._same.get(way, ()):
                    container, _, last = other.rpartition(".")
                    if other != way and submodule(self.tree, other) is child:
                        self.own(container)._modules[last] = self._copies[way]
                        self._copies[other] = self._copies[way]
            holder = self._copies[way]
        return holder

    def scope_of(self, *names: str) -> str:
        """Return the innermost module whose forward sees all of some nodes and was called once."""
        parts = [self.scopes.get(name, "").split(".") for name in names]
        alike = [len(set(level)) == 1 for level in zip(*parts, strict=False)]
        shared = parts[0][: alike.index(False) if False in alike else len(alike)] if parts else []
        path = ".".join(shared)
        while path and path not in self.base.frames:
            path = path.rpartition(".")[0]
        return path


def replaced(parameter: nn.Parameter) -> nn.Parameter | None:
    """Return the parameter in whose place another was put, while it lives."""
    place = REPLACED.get(parameter)
    return place() if place is not None else None


def submodule(root: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a path, or None where there is none."""
    found: nn.Module | None = root
    for part in path.split(".") if path else []:
        found = found._modules.get(part) if found is not None else None
    return found


def _paths_by_thing(named: Iterable[tuple[str, object]]) -> dict[str, tuple[str, ...]]:
    paths: dict[int, list[str]] = {}
    for path, thing in named:
        paths.setdefault(id(thing), []).append(path)
    return {path: tuple(all_paths) for all_paths in paths.values() for path in all_paths}


def _means(item: object, parameter: object) -> bool:
    return item is parameter or (isinstance(item, ref) and item() is parameter)


def _like(item: object, parameter: nn.Parameter) -> object:
    return ref(parameter) if isinstance(item, ref) else parameter


def shell(module: nn.Module) -> nn.Module:
    """Return an empty module with copies of another's own stores: what they hold is shared."""
    empty = nn.Module()
    for store in STATE:
        empty.__dict__[store] = dict(getattr(module, store))
    empty._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    empty.training = module.training
    return empty
