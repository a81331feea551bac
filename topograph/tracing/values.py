"""What every node's value looks like, found without touching the model.

The graph is evaluated twice on fake tensors, which have shapes and storages but no numbers: in eval
at the example's batch size, and in train at one more. Sizes that differ are multiples of the batch;
storages that agree are aliases; a version that moved is a write.
"""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.recipes import Recipe, call_key, recipe_for


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


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
    mode: FakeTensorMode | None
    note: str | None = None
    recipes: dict[Hashable, Recipe] = field(default_factory=dict, repr=False)


@dataclass
class _Pass:
    """One evaluation: where it is and what it has found."""

    index: int
    mode: FakeTensorMode | None
    inputs: Mapping[str, Any]
    environment: dict[str, Any]
    recipes: dict[Hashable, Recipe]


class _Result(NamedTuple):
    """What one call gave, wrote to, and cost."""

    value: Any
    written: set[tuple[int, int]]
    flops: int


def find_values(network: fx.GraphModule, inputs: Mapping[str, Any]) -> Values:
    """Evaluate a graph twice on fake tensors.

    Args:
        network: The graph and its modules.
        inputs: A value for each placeholder, by name; real tensors.

    Returns:
        The values. Where fake tensors do not work (a layer reads numbers), small real ones are
        used; where another batch size does not work, the batch is fixed. Both are noted.
    """
    batch = max(batch_size(inputs), 1)
    try:
        return _two_passes(
            network, inputs, (batch, batch + 1), FakeTensorMode(allow_non_fake_inputs=True)
        )
    except Exception as error:
        fixed = f"the batch size is fixed at {batch}: {_first_line(error)}"
    try:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        return _two_passes(network, inputs, (batch, batch), mode, fixed)
    except Exception:
        mode = None
    try:
        return _two_passes(network, inputs, (batch, batch + 1), mode)
    except Exception:
        return _two_passes(network, inputs, (batch, batch), mode, fixed)


def extend_values(network: fx.GraphModule, known: Values, names: Iterable[str]) -> dict[str, Value]:
    """Evaluate only some nodes of a graph, in order, on the known values of the others."""
    wanted = set(names)
    nodes = [node for node in network.graph.nodes if node.name in wanted]
    passes = []
    for index in (0, 1):
        environment = {name: value.passes[index] for name, value in known.by_node.items()}
        passes.append(_Pass(index, known.mode, {}, environment, known.recipes))
    return _evaluate(network, nodes, passes, known.batches)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """Return the size of axis 0 of the first tensor among the inputs, 1 where there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(dict(inputs)) if isinstance(leaf, torch.Tensor)]
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), 1)


def with_batch(inputs: Any, batch: int, size: int) -> Any:
    """Return inputs with tensors of `batch` rows cut to `size` rows, or repeated from the top."""

    def resize(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != batch:
            return tensor
        rows = torch.arange(size, device=tensor.device) % batch
        return tensor[rows]

    return pytree.tree_map_only(torch.Tensor, resize, inputs)


def _two_passes(
    network: fx.GraphModule,
    inputs: Mapping[str, Any],
    batches: tuple[int, int],
    mode: FakeTensorMode | None,
    note: str | None = None,
) -> Values:
    passes, recipes = [], dict[Hashable, Recipe]()
    for index, size in enumerate(batches):
        given = with_batch(dict(inputs), batches[0], size)
        if mode is not None:
            given = pytree.tree_map_only(torch.Tensor, mode.from_tensor, given)
        passes.append(_Pass(index, mode, given, {}, recipes))
    found = _evaluate(network, list(network.graph.nodes), passes, batches)
    if mode is None:
        real = "a layer reads numbers, so that shapes were found on real tensors"
        note = real if note is None else f"{note}; {real}"
    return Values(found, batches, mode, note, recipes)


def _evaluate(
    network: fx.GraphModule, nodes: list[fx.Node], passes: list[_Pass], batches: tuple[int, int]
) -> dict[str, Value]:
    modules = dict(network.named_modules(remove_duplicate=False))
    found: list[dict[str, _Result]] = [{}, {}]
    with preserved(network), torch.no_grad():
        for one in passes:
            set_mode(network, training=one.index == 1)
            for node in nodes:
                result = _result(node, modules, network, one)
                one.environment[node.name] = result.value
                found[one.index][node.name] = result
    values = {}
    for name, first in found[0].items():
        second = found[1][name]
        memory = {(0, s) for s in _storages(first.value)} | {
            (1, s) for s in _storages(second.value)
        }
        values[name] = Value(
            (first.value, second.value),
            frozenset(memory),
            frozenset(first.written | second.written),
            max(
                first.flops // batches[0], second.flops // batches[1]
            ),  # eval may run fused kernels
        )
    return values


def _result(
    node: fx.Node, modules: Mapping[str, nn.Module], network: nn.Module, one: _Pass
) -> _Result:
    """Return what a node gives, by the recipe of an equal call where there is one."""
    if node.op == "placeholder":
        default = node.args[0] if node.args else None
        return _Result(one.inputs.get(str(node.target), default), set(), 0)
    if node.op == "get_attr":
        return _Result(_attribute(network, str(node.target), one.mode), set(), 0)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: one.environment[n.name])
    if node.op == "output":
        return _Result(args[0], set(), 0)
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    key = None if one.mode is None else call_key(node, module, args, kwargs, one.index == 1)
    recipe = one.recipes.get(key) if key is not None else None
    with one.mode or nullcontext():
        if recipe is not None:
            return _Result(recipe.make(), set(), recipe.flops)
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        versions = [tensor._version for tensor in read]
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            value = _call(node, module, args, kwargs, one.mode)
        moved = [t for t, version in zip(read, versions, strict=True) if t._version != version]
    flops = counter.get_total_flops()
    if key is not None and (recipe := recipe_for(value, read, bool(moved), flops)) is not None:
        one.recipes[key] = recipe
    return _Result(value, {(one.index, s) for t in moved for s in _storages(t)}, flops)


def _call(
    node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any, mode: FakeTensorMode | None
) -> Any:
    """Return what a call gives; buffers that it might move are copies."""
    if module is not None:
        buffers = {
            path: mode.from_tensor(buffer) if mode else buffer.clone()
            for path, buffer in module.named_buffers()
        }
        if buffers:
            return functional_call(module, buffers, args, kwargs)
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _attribute(network: nn.Module, path: str, mode: FakeTensorMode | None) -> Any:
    value: Any = network
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, torch.Tensor) and mode is not None and not isinstance(value, FakeTensor):
        return mode.from_tensor(value)
    return value


def _storages(value: Any) -> set[int]:
    return {
        leaf.untyped_storage()._cdata
        for leaf in pytree.tree_leaves(value)
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
