"""Norms: scales and shifts of units, and which of them mix the units."""

import re
from typing import Any

from torch import fx, nn

from topograph.widths.arguments import argument, first, held, inputs, named, number, place
from topograph.widths.dims import Dim, lock, product
from topograph.widths.flow import Flow, Layout, Rule, join
from topograph.widths.weights import along

LAST = ("layernorm", "rmsnorm")  # classes so named run along the last axis


def batch_norm(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow a norm whose units do not mix: BatchNorm, InstanceNorm."""
    x = first(flow, node)
    if x is None or len(x) < 2:
        return None
    rank = re.search(r"([123])d", flow.word(node))
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) and (
        rank is None or len(x) != int(rank[1]) + 2
    ):
        return None  # without a batch, the channels come first
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = held(flow, module, name)
        if own is not None:
            join(flow, node, own[0], x[1])
            flow.role(
                getattr(module, name), 0, "makes" if "mean" in name or name == "bias" else "scales"
            )
    flow.attribute(str(node.target), "num_features", x[1])
    return x


def layer_norm(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow a norm over the last axes, or over the channels of images."""
    x = first(flow, node)
    rank = len(module.normalized_shape)
    if x is None or len(x) < rank:
        return None
    parts: list[Dim] | None = list(x[-rank:])
    if type(module).forward not in (nn.LayerNorm.forward, nn.RMSNorm.forward):
        parts = _over(module, x, module.normalized_shape)
    if parts is None:
        return None
    for name in ("weight", "bias"):
        own = held(flow, module, name)
        if own is not None:
            for mine, theirs in zip(own, parts, strict=True):
                join(flow, node, mine, theirs)
            flow.role(getattr(module, name), 0, "scales" if name == "weight" else "makes")
    for index, dim in enumerate(parts):
        flow.meet(node, "norm", dim)
        flow.attribute(str(node.target), "normalized_shape", dim, index)
    return x


def _over(module: nn.Module, x: tuple[Dim, ...], shape: tuple[int, ...]) -> list[Dim] | None:
    """Return the axes that another library's norm runs along; None where that is not certain."""
    if len(shape) != 1 or len(x) < 2:
        return None
    order = getattr(module, "data_format", None)
    if order in ("channels_first", "channels_last"):
        return [x[1] if order == "channels_first" and len(x) > 2 else x[-1]]
    image = "2d" in type(module).__name__.lower()
    if image and len(x) == 4:
        return [x[1]] if x[1].size == shape[0] else None
    fits = [dim for dim in (x[-1], x[1]) if dim.size == shape[0]]
    sure = len(fits) == 1 or x[1] is x[-1] or type(module).__name__.lower() in LAST
    return fits[:1] if sure and fits else None


def group_norm(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow a norm over groups of channels."""
    x = first(flow, node)
    if x is None:
        return None
    groups = Dim(module.num_groups)
    inner = Dim(x[1].size // module.num_groups)
    if module.num_groups == 1:
        lock(groups, "the layer has one group")
        inner = x[1]
    else:
        join(flow, node, x[1], product([groups, inner]))
        flow.attribute(str(node.target), "num_groups", groups)
    flow.meet(node, "norm", inner)
    for name in ("weight", "bias"):
        own = held(flow, module, name)
        if own is not None:
            join(flow, node, own[0], x[1])
            flow.role(getattr(module, name), 0, "scales" if name == "weight" else "makes")
    flow.attribute(str(node.target), "num_channels", x[1])
    return x


def custom_norm(flow: Flow, node: fx.Node, module: nn.Module) -> Layout:
    """Lay the parameters of another library's norm along the one axis that has their size.

    A norm without tensors mixes the last axis.
    """
    x = first(flow, node)
    if not x or flow.shape(node) != tuple(d.size for d in x):
        return None
    if len(list(inputs(flow, node))) > 1:
        return None
    tensors = [tensor for tensor in flow.owned(module) if tensor.ndim]
    sizes = {max(t.shape, default=1) for t in tensors}
    if len(sizes) > 1 or any(sum(s != 1 for s in t.shape) > 1 for t in tensors):
        return None
    size = sizes.pop() if sizes else x[-1].size
    over = [x[-1]] if not tensors and len(x) < 4 else _over(module, x, (size,))
    if not tensors and over is None and x[-1].size != x[1].size:
        over = [x[-1]]
    if over is None or (size == 1 and tensors):
        return None
    for tensor in tensors:
        along(flow, node, tensor, over[0])
    # timm's divides by the unbiased variance, which copies of all units change
    simple = type(module).__name__.startswith("SimpleNorm")
    flow.meet(node, "other" if simple else "norm", over[0])
    for name, given in vars(module).items():
        if isinstance(given, int) and not isinstance(given, bool) and given == size:
            flow.attribute(str(node.target), name, over[0])
        elif isinstance(given, tuple) and given == (size,):
            flow.attribute(str(node.target), name, over[0], 0)
    return x


def _call_norm(flow: Flow, node: fx.Node) -> Layout:
    """`batch_norm`, `layer_norm`, `group_norm` and `rms_norm` with their tensors as arguments."""
    name = named(node)
    x = first(flow, node)
    if x is None or len(x) < 2:
        return None
    parts = [x[1]]
    if name in ("layer_norm", "rms_norm"):
        shape = argument(node, 1, "normalized_shape", ())
        if not isinstance(shape, tuple | list) or len(shape) > len(x):
            return None
        parts = list(x[len(x) - len(shape) :])
        for index, dim in enumerate(parts):
            flow.meet(node, "norm", dim)
            flow.write(node, (*place(node, 1, "normalized_shape"), index), dim)
    elif name == "group_norm":
        groups = number(flow, argument(node, 1, "num_groups"))
        if groups is None:
            return None
        if groups > 1:
            count, inner = Dim(groups), Dim(x[1].size // groups)
            join(flow, node, x[1], product([count, inner]))
            flow.write(node, place(node, 1, "num_groups"), count)
        flow.meet(node, "norm", inner if groups > 1 else x[1])
    for source, dims in list(inputs(flow, node))[1:]:
        if len(dims) != len(parts):
            return None
        for mine, theirs in zip(dims, parts, strict=True):
            join(flow, node, mine, theirs)
        tensor = flow.parameter(source)
        if tensor is not None and name == "batch_norm":
            flow.role(tensor, 0, "scales")
    return x


CALLS: dict[str, Rule] = dict.fromkeys(
    ("batchnorm", "layernorm", "groupnorm", "rmsnorm"), _call_norm
)
