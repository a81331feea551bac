"""A graph and its values, as a `Topology`."""

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from topograph.topology import Node, Parameter, Topology
from topograph.topology.model import Dimension, Kind
from topograph.tracing.axes import Axes, find_axes
from topograph.tracing.seen import Seen
from topograph.tracing.values import Value, Values

KINDS: dict[str, Kind] = {
    "placeholder": "input",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "get_attr": "parameter",
    "output": "output",
}


def describe(
    network: fx.GraphModule,
    values: Values | None,
    opaque: Mapping[str, str],
    owners: Mapping[str, str],
) -> Topology:
    """Return the topology of a recorded network.

    Args:
        network: The graph and its modules.
        values: Shapes of every node's value; None where there were no example inputs.
        opaque: Reasons by module path.
        owners: For each node, the path of the module whose forward made the call.
    """
    return Topology(
        name=_name(network),
        nodes=_describe(network, list(network.graph.nodes), values, opaque, owners),
        parameters=state(network),
    )


def describe_change(
    network: fx.GraphModule,
    values: Values,
    known: Topology,
    changed: Set[str],
    applied: tuple[str, ...],
    owners: Mapping[str, str],
) -> Topology:
    """Return the topology of an edited network, describing only what is new or changed.

    Args:
        network: The edited graph and its modules.
        values: Every node's value.
        known: The topology before; a node that it has may read other nodes now, nothing else.
        changed: Names of nodes that do something else than before.
        applied: Digests of all mutations so far.
        owners: For each node, the path of the module whose forward makes the call.
    """
    nodes = list(network.graph.nodes)
    new = {node for node in nodes if node.name not in known.by_name or node.name in changed}
    around = {source for node in new for source in node.all_input_nodes} | new
    axes = {node.name: node.axes for node in known.nodes}
    made = _describe(network, [node for node in nodes if node in around], values, {}, owners, axes)
    names = {node.name for node in new}
    described = {node.name: node for node in made if node.name in names}
    for node in nodes:
        if node not in new:
            record, inputs = known.by_name[node.name], tuple(s.name for s in uses(node))
            same = record.inputs == inputs
            described[node.name] = record if same else record.model_copy(update={"inputs": inputs})
    return Topology(
        name=_name(network),
        nodes=tuple(described[node.name] for node in nodes),
        parameters=state(network),
        applied=applied,
    )


def _describe(
    network: fx.GraphModule,
    nodes: list[fx.Node],
    values: Values | None,
    opaque: Mapping[str, str],
    owners: Mapping[str, str],
    known: Mapping[str, Axes] | None = None,
) -> tuple[Node, ...]:
    modules = dict(network.named_modules(remove_duplicate=False))
    operations = {node.name: operation(node, modules) for node in nodes}
    shapes = {node.name: _shape(node, values) for node in nodes}
    axes = find_axes(nodes, operations, shapes, known)
    names = _parameter_names(network)
    described = []
    for node in nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        value = values.by_node.get(node.name) if values is not None else None
        described.append(
            Node.model_construct(
                name=node.name,
                kind=KINDS[node.op],
                op=operations[node.name],
                target=_target(node),
                scope=owners.get(node.name, ""),
                detail=_detail(node, module),
                inputs=tuple(source.name for source in uses(node)),
                shape=shapes[node.name],
                dtype=_dtype(value),
                axes=axes[node.name],
                parameters=_parameters(node, module, names),
                flops=value.flops if value is not None else 0,
                opaque=opaque.get(str(node.target)) if module is not None else None,
            )
        )
    return tuple(described)


def _name(network: fx.GraphModule) -> str:
    return type(network).__name__.removesuffix("Impl")


def uses(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose values a call reads, once for every use, in argument order."""
    leaves = pytree.tree_leaves(
        (node.args, node.kwargs), is_leaf=lambda part: isinstance(part, fx.Node | slice)
    )
    found: list[fx.Node] = []
    for leaf in leaves:
        if isinstance(leaf, fx.Node):
            found.append(leaf)
        elif isinstance(leaf, slice):
            found += [p for p in (leaf.start, leaf.stop, leaf.step) if isinstance(p, fx.Node)]
    return found


def operation(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Return what a node does in one word: lower case, without underscores."""
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        return "output"
    if node.op == "get_attr":
        return "parameter"
    if node.op == "call_module":
        name = type(modules[str(node.target)]).__name__.removeprefix("Parametrized")
    else:
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name.replace("_", "").lower()


def state(network: nn.Module) -> tuple[Parameter, ...]:
    """Return every parameter and buffer of a module, tied ones once, as records."""
    parameters = [
        Parameter.model_construct(
            path=path,
            shape=tuple(p.shape),
            dtype=dtype_name(p.dtype),
            trainable=p.requires_grad,
            buffer=False,
        )
        for path, p in network.named_parameters()
    ]
    buffers = [
        Parameter.model_construct(
            path=path, shape=tuple(b.shape), dtype=dtype_name(b.dtype), trainable=False, buffer=True
        )
        for path, b in network.named_buffers()
    ]
    return tuple(parameters + buffers)


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target
    module = getattr(node.target, "__module__", None) or ""
    name = getattr(node.target, "__name__", "function")
    return f"{module.replace('_operator', 'operator')}.{name}".lstrip(".")


def _shape(node: fx.Node, values: Values | None) -> tuple[Dimension, ...] | None:
    """Return sizes with multiples of the batch as "N", "2N"; "?" where it is neither."""
    value = values.by_node.get(node.name) if values is not None else None
    if value is None or not isinstance(value.passes[0], Seen) or node.op == "output":
        return None
    small, large = values.batches  # type: ignore[union-attr]
    sizes: list[Dimension] = []
    for first, second in zip(value.passes[0].shape, value.passes[1].shape, strict=True):
        if first == second:
            sizes.append(int(first))
        elif first % small == 0 and first // small * large == second:
            sizes.append(f"{first // small if first != small else ''}N")
        else:
            sizes.append("?")
    return tuple(sizes)


def _dtype(value: Value | None) -> str | None:
    made = value.passes[0] if value is not None else None
    return dtype_name(made.dtype) if isinstance(made, Seen) else None


def _detail(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        ours = type(module).__module__.startswith("torch.nn.")
        return module.extra_repr() if ours else ""
    if node.op == "placeholder":
        return ""
    arguments = [_constant(argument) for argument in node.args]
    arguments += [f"{key}={_constant(value)}" for key, value in node.kwargs.items()]
    return ", ".join(argument for argument in arguments if argument != "_")


def _constant(value: Any) -> str:
    """Return a constant as text, "_" where a value flows in."""
    if isinstance(value, fx.Node):
        return "_"
    if isinstance(value, slice):
        parts = [value.start, value.stop, value.step]
        return ":".join(
            "" if part is None else _constant(part) for part in parts[: 3 if value.step else 2]
        )
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_constant, value))
        return "_" if value and all(isinstance(part, fx.Node) for part in value) else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_constant(part)}" for key, part in value.items()) + "}"
    return str(value).removeprefix("torch.")


def _parameter_names(network: nn.Module) -> dict[int, str]:
    return {id(p): path for path, p in network.named_parameters()}


def _parameters(
    node: fx.Node, module: nn.Module | None, names: Mapping[int, str]
) -> tuple[str, ...]:
    if module is not None:
        return tuple(names[id(p)] for p in module.parameters() if id(p) in names)
    if node.op == "get_attr":
        return (str(node.target),) if str(node.target) in names.values() else ()
    return ()
