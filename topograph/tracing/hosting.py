"""The class survives: an edited submodule runs its own graph inside the original module tree.

The smallest submodule that holds all of an edit, and whose inputs and outputs are what they were,
gets a graph of its own as its forward; everything around it, the root's class first, stays.
"""

import inspect
import operator
from collections.abc import Mapping
from functools import partial
from inspect import Parameter
from typing import Any

from torch import fx, nn

from topograph.errors import ShapeError, TraceError
from topograph.tracing.frames import Frame, Name, names_in
from topograph.tracing.functions import CONSTANTS
from topograph.tracing.module import Calling, build, taken
from topograph.tracing.sizes import SIZES, is_size

Extract = tuple[fx.Graph, Calling]


class Recorded:
    """The forward of a submodule whose graph was edited; stands in for its class's own."""

    def __init__(self, module: nn.Module, function: Any, calling: Calling) -> None:
        self.module, self.function, self.calling = module, function, calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on the module's parameters and submodules."""
        return self.calling.run(partial(self.function, self.module), args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recorded":
        return Recorded(memo.get(id(self.module), self.module), self.function, self.calling)

    def __reduce__(self) -> Any:
        raise TraceError(
            "an edited model is not pickled (its class would be loaded without the edit); "
            "save model.state_dict(), or keep the run in a run directory"
        )


def host_of(
    graph: fx.Graph,
    scopes: Mapping[str, str],
    frames: Mapping[str, Frame],
    tree: nn.Module,
    scope: str,
) -> str:
    """Return the smallest submodule around a scope that can run alone; empty: only the root can."""
    path = scope
    while path:
        if path in frames and extract(graph, scopes, frames[path], tree, path) is not None:
            return path
        path = path.rpartition(".")[0]
    return ""


def hosted(
    graph: fx.Graph,
    scopes: Mapping[str, str],
    frames: Mapping[str, Frame],
    tree: nn.Module,
    hosts: frozenset[str],
) -> nn.Module:
    """Return a copy of a module tree in which some submodules run their own graphs.

    Modules on the way to them are copied; all others, parameters and buffers are shared.
    """
    outermost = [h for h in hosts if not any(h.startswith(f"{o}.") for o in hosts)]
    root = twin(tree)
    copies: dict[str, nn.Module] = {"": root}
    for path in sorted(outermost):
        module = copy_path(root, path, copies)
        made = extract(graph, scopes, frames[path], tree, path)
        if made is None:
            raise ShapeError(f"{path} cannot run alone any more; use traced.module")
        engine = build(made[0], module, type(module).__name__)
        module.__dict__["forward"] = Recorded(module, type(engine).forward, made[1])
    return root


def twin(module: nn.Module) -> nn.Module:
    """Return a module of the same class with copies of its own stores: what they hold is shared."""
    made: nn.Module = object.__new__(type(module))
    made.__dict__ = dict(module.__dict__)
    for name, held in module.__dict__.items():
        if name.startswith("_") and isinstance(held, dict | set):
            made.__dict__[name] = held.copy()
    return made


def copy_path(root: nn.Module, path: str, copies: dict[str, nn.Module]) -> nn.Module:
    """Return the submodule at a path, with it and all above it copied once."""
    holder, way = root, ""
    for part in path.split(".") if path else []:
        way = f"{way}.{part}" if way else part
        if way not in copies:
            child = holder._modules[part]
            assert child is not None
            copies[way] = holder._modules[part] = twin(child)
        holder = copies[way]
    return holder


def extract(
    graph: fx.Graph, scopes: Mapping[str, str], frame: Frame, tree: nn.Module, path: str
) -> Extract | None:
    """Return the part of a graph that a submodule runs, or None where it cannot be cut out."""
    module = tree.get_submodule(path)
    signature = inspect.signature(type(module).forward)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} or taken(module):
        return None
    try:
        bound = signature.bind(module, *frame.args, **frame.kwargs)
    except TypeError:
        return None  # a decorator takes other arguments than the forward
    bound.apply_defaults()
    cut = _Cut(graph, scopes, path)
    constants = cut.placeholders(list(bound.arguments.items())[1:])
    return (cut.graph, Calling(constants, frame.mould)) if cut.fill(frame) else None


class _Cut:
    """A part of a graph, as it is cut out."""

    def __init__(self, whole: fx.Graph, scopes: Mapping[str, str], path: str) -> None:
        self.graph = fx.Graph()
        self._by_name = {node.name: node for node in whole.nodes}
        self._scopes, self._path = scopes, path
        self._made: dict[fx.Node, fx.Node] = {}

    def placeholders(self, arguments: list[tuple[str, Any]]) -> tuple[tuple[int, str, Any], ...]:
        """Make the inputs; return those that are constants."""
        constants, parts = [], []
        optional = False
        for position, (name, value) in enumerate(arguments):
            if names_in(value):
                node = self.graph.placeholder(name, **({"default_value": None} if optional else {}))
                parts.append((value, node))
                continue
            known = type(value) in CONSTANTS
            self.graph.placeholder(name, default_value=value if known else None)
            constants += [(position, name, value)] if known else []
            optional = True
        for value, node in parts:
            self._take(value, node)
        return tuple(constants)

    def fill(self, frame: Frame) -> bool:
        """Copy the nodes and the output; return whether that could be done."""
        outputs = set(names_in(frame.output))
        for node in self._by_name.values():
            if node.op in ("placeholder", "output") or not self._inside(node):
                continue
            if node.name not in outputs and any(
                not self._inside(user) and user.target not in SIZES for user in node.users
            ):
                return False
            if not self._copy(node):
                return False
        result = self._output(frame.output)
        if result is _MISSING:
            return False
        self.graph.output(result)
        return True

    def _inside(self, node: fx.Node) -> bool:
        scope = self._scopes.get(node.name, "")
        return node.op != "output" and f"{scope}.".startswith(f"{self._path}.")

    def _take(self, value: Any, node: fx.Node) -> None:
        if isinstance(value, Name):
            if value in self._by_name:
                self._made.setdefault(self._by_name[value], node)
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if names_in(item):
                self._take(item, self.graph.call_function(operator.getitem, (node, key)))

    def _copy(self, node: fx.Node) -> bool:
        for source in node.all_input_nodes:
            pulled = source.op == "get_attr" or is_size(source)
            if source not in self._made and not (pulled and self._copy(source)):
                return False
        target = node.target
        if node.op in ("call_module", "get_attr"):
            if not str(target).startswith(f"{self._path}."):
                return False
            target = str(target)[len(self._path) + 1 :]
        made = self.graph.node_copy(node, self._made.__getitem__)
        made.target = target
        self._made[node] = made
        return True

    def _output(self, value: Any) -> Any:
        if isinstance(value, Name):
            node = self._by_name.get(value)
            return self._made.get(node, _MISSING) if node is not None else _MISSING
        if type(value) in (tuple, list):
            items = [self._output(item) for item in value]
            return _MISSING if any(i is _MISSING for i in items) else type(value)(items)
        if type(value) is dict:
            made = {key: self._output(item) for key, item in value.items()}
            return _MISSING if any(i is _MISSING for i in made.values()) else made
        return value if type(value) in CONSTANTS else _MISSING


_MISSING = object()
