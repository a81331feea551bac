"""Blocks as modules and nodes: plain torch layers, so that a grown network is a plain one."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from topograph.errors import ShapeError
from topograph.rewrite.draft import Draft
from topograph.rewrite.plugins import block_functions
from topograph.rewrite.self_attention import (
    attention_layers,
    emit_attention,
    has_tokens,
    start_keys,
)
from topograph.spec import Bottleneck, ConvBottleneck, Linear, Refusal, SelfAttention
from topograph.spec.blocks import AnyBlock
from topograph.topology import Node

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
TIMES = "times"  # a layer of this name multiplies what it reads by what it makes of that
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# The axis of a layer's parameters that runs over the block's units, -1 where none does.
UNITS = {"reduce": 0, "expand": 1, "query": 0, "key": 0, "value": 0, "out": 1}
UNITS |= dict.fromkeys(("linear", "norm", "projection"), -1)


def block_fits(block: AnyBlock, node: Node) -> Refusal | None:
    """Return why a block cannot work on a node's value, if it cannot."""
    shape = f"[{', '.join(map(str, node.shape or ()))}] with axes {', '.join(node.axes)}"
    if node.channels is None:
        return Refusal(
            node=node.name,
            reason=f"its value {shape} has no certain channel axis",
            fix="choose a node behind a Linear, a convolution or a norm",
        )
    added = block_functions(type(block))
    if added is not None:
        return added["fits"](block, node)
    if isinstance(block, ConvBottleneck):
        spatial = len(node.axes) - 2
        if spatial in CONVOLUTIONS and node.axes == ("batch", "channel", *["space"] * spatial):
            return None
        expected, instead = "[N, C, space…]", "bottleneck"
    elif isinstance(block, SelfAttention):
        if has_tokens(node):
            return None
        expected, instead = "[N, T, C]", "bottleneck"
    else:
        if node.axes[-1] == "channel":
            return None
        expected, instead = "channels on the last axis", "conv_bottleneck"
    return Refusal(
        node=node.name,
        reason=f"a {block.kind} works on {expected}; here is {shape}",
        fix=f"use a {instead}, or choose another node",
    )


def block_modules(
    block: AnyBlock, node: Node, like: Tensor, seed: int, *, shut: bool = True
) -> nn.ModuleDict:
    """Return a block's layers, started so that the block adds nothing and every layer learns.

    The first matrix is drawn as torch draws it, from a generator of its own; the last one is 0.
    Since the derivative of the loss by the last matrix does not vanish, the first one follows.
    Not `shut`, for a block behind a gate that is 0, the last one is drawn, too.
    """
    channels = node.channels
    assert channels is not None  # block_fits has refused the others
    added = block_functions(type(block))
    if added is not None:
        return added["layers"](block, node, like, seed)
    made: dict[str, nn.Module] = {}
    bare: dict[str, Any] = {"device": "meta", "dtype": like.dtype}  # filled by `start_layers`
    match block:
        case Linear():
            made["linear"] = nn.Linear(channels, channels, bias=block.bias, **bare)
            if block.activation == "z_tanh_z":
                made[TIMES] = nn.Tanh()
            elif block.activation is not None:
                made["activation"] = ACTIVATIONS[block.activation]()
        case Bottleneck():
            if block.norm:
                made["norm"] = nn.LayerNorm(channels, **bare)
            made["reduce"] = nn.Linear(channels, block.units, **bare)
            made["activation"] = ACTIVATIONS[block.activation]()
            made["expand"] = nn.Linear(block.units, channels, bias=False, **bare)
        case ConvBottleneck():
            convolution = CONVOLUTIONS[len(node.axes) - 2]
            inner, outer = block.kernels
            made["reduce"] = convolution(channels, block.units, inner, padding=inner // 2, **bare)
            made["activation"] = ACTIVATIONS[block.activation]()
            made["expand"] = convolution(
                block.units, channels, outer, padding=outer // 2, bias=False, **bare
            )
        case SelfAttention():
            made |= attention_layers(block, channels, bare)
    layers = nn.ModuleDict(made).to_empty(device=like.device)
    start_layers(layers, seed, shut)
    if isinstance(block, SelfAttention):
        start_keys(block, layers)
    return layers


def emit_layers(
    draft: Draft,
    block: AnyBlock,
    path: str,
    layers: nn.ModuleDict,
    source: fx.Node,
    behind: fx.Node,
) -> fx.Node:
    """Write a block's layers, but for attention one after the other; return the last one's node."""
    if isinstance(block, SelfAttention):
        return emit_attention(draft, block, path, source, behind)
    value, name = source, path.replace(".", "_")
    for part in layers:
        made = behind = draft.call(
            "call_module", f"{path}.{part}", (value,), f"{name}_{part}", behind
        )
        if part == TIMES:
            made = behind = draft.call(
                "call_function", operator.mul, (value, made), f"{name}_product", made
            )
        value = made
    return value


def emit_block(
    draft: Draft, block: AnyBlock, name: str, layers: nn.ModuleDict, source: fx.Node
) -> fx.Node:
    """Write ``source + block(source)`` behind a node; return the node of the sum."""
    value = emit_layers(draft, block, name, layers, source, source)
    return draft.call("call_function", operator.add, (source, value), f"{name}_sum", value)


def check_start(module: nn.Module, direction: Mapping[str, Tensor], name: str) -> None:
    """Raise unless a direction is of a block's units, or of fewer, and whole on all other axes.

    In a plugin's layers any axis may be the one of units.

    Args:
        module: The block's layers.
        direction: For each parameter's path, a tensor for the leading corner of that parameter.
        name: The module's path.

    Raises:
        ShapeError: It does not fit.
    """
    parameters = dict(module.named_parameters())
    for path, part in direction.items():
        shape = parameters[path].shape if path in parameters else None
        if shape is None or not _fits(path, part.shape, shape):
            raise ShapeError(
                f"{name}.{path}: a direction of shape {list(part.shape)} does not fit "
                f"{list(shape) if shape is not None else 'any parameter'}; score this block again"
            )


def _fits(path: str, part: torch.Size, whole: torch.Size) -> bool:
    units = UNITS.get(path.rpartition(".")[0].rpartition(".")[2])
    return len(part) == len(whole) and all(
        size == full or (size < full and units in (None, axis))
        for axis, (size, full) in enumerate(zip(part, whole, strict=True))
    )


def set_start(module: nn.Module, direction: Mapping[str, Tensor], step: float) -> None:
    """Set a block's leading units to `step` times a unit direction.

    Args:
        module: The block's layers.
        direction: For each parameter's path, a tensor for the leading corner of that parameter.
        step: Euclidean length of the start along the direction.
    """
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for path, part in direction.items():
            corner = tuple(slice(0, size) for size in part.shape)
            parameters[path][corner] = (step * part).to(parameters[path])


def start_layers(layers: nn.ModuleDict, seed: int, shut: bool = True) -> None:
    """Draw a block's weights as torch does; where it is shut the last layer is 0.

    With ReLU every second unit reads the negative of the one before, so that on any input one of
    the two is alive.
    """
    generator = torch.Generator().manual_seed(seed)
    last = next(layers[name] for name in ("linear", "expand", "out") if name in layers)
    with torch.no_grad():
        for layer in layers.values():
            if layer is last and shut:
                for parameter in layer.parameters():
                    parameter.zero_()
            elif isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
            else:
                for parameter in layer.parameters():
                    parameter.copy_(_uniform(parameter, _fan_in(layer), generator))
        if any(isinstance(layer, nn.ReLU) for layer in layers.values()):
            for parameter in layers["reduce"].parameters():
                parameter[1::2] = -parameter[::2]


def _uniform(like: Tensor, fan_in: int, generator: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(fan_in)  # what nn.Linear and nn.Conv draw from
    return (torch.rand(like.shape, generator=generator) * 2 - 1) * bound


def _fan_in(layer: Any) -> int:
    return int(layer.weight[0].numel())
