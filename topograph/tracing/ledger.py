"""What is written down: nodes, what they gave, and which Python value came from which node."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from topograph.tracing.functions import CONSTANT_TYPES
from topograph.tracing.inputs import Inputs
from topograph.tracing.leaves import paths_by_tensor
from topograph.tracing.seen import NOTHING, Result, look
from topograph.tracing.sizes import Number
from topograph.tracing.structure import has_tensors, take_apart

RANDOM = ("rand", "bernoulli", "normal", "uniform", "multinomial", "exponential", "empty")


class Cannot(Exception):
    """Something cannot be written down; raised where it happens."""


class Unrecordable(Exception):
    """A submodule does something that cannot be written down as a graph."""

    def __init__(self, path: str, reason: str, own: bool = False) -> None:
        super().__init__(f"{path or 'the model itself'}: {reason}")
        self.path, self.reason, self.own = path, reason, own


class Ledger:
    """The graph of one recording.

    Attributes:
        graph: The nodes so far.
        owners: For each node's name, the path of the module whose forward made the call.
        results: What each node's call gave, wrote to, and cost.
        nodes: Which node made a tensor, by the tensor's identity.
        constant: Nodes that depend on no input and no parameter, so that their values are known.
        first_input: The node of the first tensor that the model was given.
        open: Paths of the modules that are running, innermost last.
        active: Whether numbers are remembered.
    """

    def __init__(self, model: nn.Module) -> None:
        self.graph = fx.Graph()
        self.owners: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.nodes: dict[int, fx.Node] = {}
        self.constant: set[fx.Node] = set()
        self.first_input: fx.Node | None = None
        self.open: list[str] = [""]
        self.active = False
        self._model = model
        self._state = paths_by_tensor(model)
        self._alive: list[Any] = []  # an id is only an identity while its object lives
        self._sizes: dict[tuple[Any, ...], fx.Node] = {}

    @property
    def where(self) -> str:
        """The path of the innermost module that is running."""
        return self.open[-1]

    def number(self, op: str, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
        """Write down a number computed from sizes; once in a module for the same number."""
        key = (self.where, op, target, arguments)
        if key not in self._sizes:
            self._sizes[key] = self.emit(op, target, arguments, {})
        return self._sizes[key]

    def placeholders(self, arguments: Inputs) -> None:
        """Give every input a placeholder; constants are defaults, and so is all behind them."""
        optional = False
        for name, value in arguments.named():
            if not has_tensors(value):
                node = self.graph.placeholder(name, default_value=self._default(value))
                self.results[node.name] = Result(value, frozenset(), 0)
                optional = True
                continue
            node = self.graph.placeholder(name, **({"default_value": None} if optional else {}))
            self.bind(take_apart(value)[0], node)

    def _default(self, value: Any) -> Any:
        try:
            return self.argument(value)
        except Cannot:
            return None  # a value of a foreign type; it was read while recording

    def emit(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        """Write a node down, with who makes the call."""
        name = None
        if op == "call_module" and target[0].isdigit():  # torch.fx would call it `_0`
            kind = type(self._model.get_submodule(target)).__name__.lower()
            kind = kind if kind.isascii() and kind.isidentifier() and kind[0] != "_" else "layer"
            name = f"{kind}_{target.replace('.', '_')}"
        node = self.graph.create_node(op, target, args, kwargs, name)
        self.owners[node.name] = self.where
        self.results[node.name] = NOTHING
        called = op in ("call_function", "call_method")
        fixed = called and all(source in self.constant for source in node.all_input_nodes)
        if fixed and not any(part in str(target) for part in RANDOM):
            self.constant.add(node)
        return node

    def bind(
        self, value: Any, node: fx.Node, flops: int = 0, written: set[int] | None = None
    ) -> Any:
        """Remember which node made a value; parts of a tuple or dict are read by ``getitem``."""
        self.results[node.name] = Result(look(value), frozenset(written or ()), flops)
        if isinstance(value, torch.Tensor):
            self.nodes[id(value)] = node
            self._alive.append(value)
            if self.first_input is None and value.ndim:
                self.first_input = node
        elif isinstance(value, tuple | list | Mapping):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                if has_tensors(item):
                    self.bind(item, self.emit("call_function", operator.getitem, (node, key), {}))
        elif has_tensors(value):
            raise Cannot(f"makes a {type(value).__name__}, whose parts no graph can read")
        return value

    def argument(self, value: Any) -> Any:
        """Return what stands for a Python value in the graph."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, Number):
            return value.node
        kind = type(value)
        if kind in CONSTANT_TYPES:
            return value
        if kind is tuple or isinstance(value, torch.Size):
            return tuple(map(self.argument, value))
        if kind is list:
            return list(map(self.argument, value))
        if kind is dict:
            return {key: self.argument(item) for key, item in value.items()}
        if kind is slice:
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, range):
            return list(value)
        raise Cannot(f"passes a {kind.__name__}, which no graph can hold")

    def nest(self, value: Any) -> Any:
        """Return a value with nodes in it, as far as they are known: for a `Frame`."""
        if isinstance(value, torch.Tensor):
            try:
                return self._tensor(value)
            except Cannot:
                return None
        if isinstance(value, Number):
            return value.node
        if isinstance(value, tuple | list):
            made = list if type(value) is list else tuple
            return made(self.nest(item) for item in value)
        if type(value) is dict:
            return {key: self.nest(item) for key, item in value.items()}
        return value

    def _tensor(self, value: torch.Tensor) -> fx.Node:
        node = self.nodes.get(id(value))
        if node is not None:
            return node
        path = self._state.get(id(value))
        if path is None:
            raise Cannot("uses a tensor that no recorded call made (foreign code?)")
        node = self.emit("get_attr", path, (), {})
        self.bind(value, node)
        return node
