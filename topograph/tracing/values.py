"""What every node's value looks like, found without touching the model.

Two recordings tell it: in eval at the example's batch size, and in train at one more. Sizes that
differ are multiples of the batch; storages that agree are aliases; a version that moved is a write.
New nodes of an edited graph are evaluated on fake tensors, which have shapes and no numbers.
"""

import itertools
import operator
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call

from topograph.tracing.flops import Flops
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.recipes import Recipe, call_key, recipe_for
from topograph.tracing.seen import Result, Seen, look, storage, storages
from topograph.tracing.sizes import is_size
from topograph.tracing.structure import tensors_in

KEEPS_SHAPE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NEW_MEMORY = itertools.count(-1, -1)  # names of storages that fake tensors stand for


@dataclass(frozen=True)
class Value:
    """One node's value in both passes, the storages it lies in and those its call wrote to."""

    passes: tuple[Any, Any]
    storages: frozenset[tuple[int, int]]
    written: frozenset[tuple[int, int]]
    flops: int


@dataclass(frozen=True)
class Values:
    """The values of all nodes, and the batch sizes of the two passes (equal: batch is fixed)."""

    by_node: Mapping[str, Value]
    batches: tuple[int, int]
    mode: FakeTensorMode
    recipes: dict[Hashable, Recipe] = field(default_factory=dict, repr=False)


@dataclass
class _Pass:
    """One evaluation: where it is and what it has found."""

    index: int
    environment: dict[str, Any]
    memory: dict[int, int]  # which storage a fake one stands for


def paired(
    first: Mapping[str, Result], second: Mapping[str, Result], batches: tuple[int, int]
) -> dict[str, Value]:
    """Return values from the results of both passes, by the same names."""
    return {name: _value(result, second[name], batches) for name, result in first.items()}


def known_values(by_node: Mapping[str, Value], batches: tuple[int, int]) -> Values:
    """Return recorded values in a form that can be extended."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return Values(by_node, batches, mode)


def extend_values(network: fx.GraphModule, known: Values, names: Iterable[str]) -> dict[str, Value]:
    """Evaluate some nodes of a graph, in order, on the known values of the others.

    Args:
        network: The graph and its modules.
        known: Values of the other nodes.
        names: The nodes to evaluate.
    """
    wanted = set(names)
    nodes = [node for node in network.graph.nodes if node.name in wanted]
    modules = dict(network.named_modules(remove_duplicate=False))
    found: list[dict[str, Result]] = [{}, {}]
    with preserved(network), torch.no_grad():
        for one in (_Pass(0, {}, {}), _Pass(1, {}, {})):
            set_mode(network, training=one.index == 1)
            for node in nodes:
                with known.mode:
                    found[one.index][node.name] = _result(node, modules, network, one, known)
    return paired(found[0], found[1], known.batches)


def _value(first: Result, second: Result, batches: tuple[int, int]) -> Value:
    passes = (first.value, second.value)
    return Value(
        passes,
        frozenset((i, memory) for i in (0, 1) for memory in _memory(passes[i])),
        frozenset((i, memory) for i, r in enumerate((first, second)) for memory in r.written),
        # eval may run fused kernels that are not counted
        max(r.flops // max(rows, 1) for r, rows in zip((first, second), batches, strict=True)),
    )


def _memory(value: Any) -> set[int]:
    if isinstance(value, Seen):
        return {value.storage} if value.storage is not None else set()
    if isinstance(value, tuple):
        return set().union(*map(_memory, value))
    if isinstance(value, Mapping):
        return set().union(*map(_memory, value.values()))
    return set()


def _result(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    network: nn.Module,
    one: _Pass,
    known: Values,
) -> Result:
    if node.op == "get_attr":
        value = _attribute(network, str(node.target), known.mode)
        one.environment[node.name] = value
        return Result(_seen(value, one), frozenset(), 0)
    read = {source: _environment(source, one, known, network) for source in node.all_input_nodes}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), read.__getitem__)
    if node.op == "output":
        return Result(_seen(args[0], one), frozenset(), 0)
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    key = call_key(node, module, args, kwargs, one.index == 1)
    recipe = known.recipes.get(key) if key is not None else None
    if recipe is not None:
        value, moved, flops = recipe.make(), [], recipe.flops
    else:
        tensors = [*tensors_in(args), *tensors_in(kwargs)]
        versions = [tensor._version for tensor in tensors]
        with Flops() as counter:
            value = _call(node, module, args, kwargs, known.mode)
        moved = [t for t, version in zip(tensors, versions, strict=True) if t._version != version]
        flops = counter.total
        if key is not None and (made := recipe_for(value, tensors, bool(moved), flops)) is not None:
            known.recipes[key] = made
    one.environment[node.name] = value
    written = frozenset(one.memory[memory] for memory in storages(moved))
    return Result(_seen(value, one), written, flops)


def _environment(node: fx.Node, one: _Pass, known: Values, network: nn.Module) -> Any:
    if node.name not in one.environment:
        by_mode = node.target is operator.getitem and not isinstance(node.args[0], fx.Node)
        if node.op == "get_attr":
            value = _attribute(network, str(node.target), known.mode)
        elif is_size(node) or by_mode:  # numbers are not kept: they are read again
            read = {
                source: _environment(source, one, known, network) for source in node.all_input_nodes
            }
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), read.__getitem__)
            value = _call(node, None, args, kwargs, known.mode)
        else:
            value = _fake(known.by_node[node.name].passes[one.index], one)
        one.environment[node.name] = value
    return one.environment[node.name]


def _fake(value: Any, one: _Pass) -> Any:
    """Return empty tensors that look like what was seen; called inside the fake mode."""
    if isinstance(value, Seen):
        tensor = value.like()
        memory = storage(tensor)
        if memory is not None and value.storage is not None:
            one.memory[memory] = value.storage
        return tensor
    if isinstance(value, tuple):
        return tuple(_fake(item, one) for item in value)
    if isinstance(value, Mapping):
        return {key: _fake(item, one) for key, item in value.items()}
    return value


def _seen(value: Any, one: _Pass) -> Any:
    for memory in storages(value):
        if memory not in one.memory:
            one.memory[memory] = next(NEW_MEMORY)
    return look(value, one.memory)


def _call(
    node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any, mode: FakeTensorMode
) -> Any:
    """Return what a call gives; buffers that it might move are copies."""
    if type(module) in KEEPS_SHAPE and isinstance(args[0], torch.Tensor):
        return torch.empty_like(args[0])  # its decomposition takes 50 ms
    if module is not None:
        buffers: dict[str, torch.Tensor] = {
            path: mode.from_tensor(buffer) for path, buffer in module.named_buffers()
        }
        if buffers:
            return functional_call(module, buffers, args, kwargs)
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _attribute(network: nn.Module, path: str, mode: FakeTensorMode) -> Any:
    value: Any = network
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
        return mode.from_tensor(value)
    return value
