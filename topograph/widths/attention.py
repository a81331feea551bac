"""Attention and transformers that are one layer: `nn.MultiheadAttention` and what it is part of.

Their width is that of the residual stream: heads times the size of a head. All of a transformer's
sublayers share it; what lies inside a feed-forward block is free.
"""

from typing import Any

from torch import fx, nn

from topograph.widths.arguments import argument, first, held, locked
from topograph.widths.dims import Dim, lock, product, stack
from topograph.widths.flow import Flow, Layout, join

Dims = tuple[Dim, ...]


def attention_layer(flow: Flow, node: fx.Node, module: nn.MultiheadAttention) -> Layout:
    """Follow an ``nn.MultiheadAttention``; its inner width must be that of its input."""
    query, key, value = (
        flow.dims(argument(node, i, n)) for i, n in enumerate(("query", "key", "value"))
    )
    if not query or not key or not value:
        return None
    heads = _attend(flow, node, module, str(node.target), query, key, value)
    made: list[Layout] = [query]
    for seen in flow.seen(node)[1:]:
        shape = seen.shape if seen is not None else ()
        weights = [locked(size, f"{node.name} returns its weights") for size in shape]
        if len(shape) == len(query) + 1:  # a weight for each head
            weights[-3] = heads
        made.append(tuple(weights) if seen is not None else None)
    return made


def _attend(
    flow: Flow,
    node: fx.Node,
    module: nn.MultiheadAttention,
    path: str,
    query: Dims,
    key: Dims,
    value: Dims,
) -> Dim:
    """Join all tensors of an attention with what it reads, and return its heads."""
    heads, size = Dim(module.num_heads), Dim(module.head_dim)
    width = product([heads, size])
    join(flow, node, query[-1], width)
    weight, bias = held(flow, module, "in_proj_weight"), held(flow, module, "in_proj_bias")
    if weight is not None:
        join(flow, node, weight[0], stack([width, width, width]))
        flow.role(module.in_proj_weight, 1, "reads")
        for dim in (weight[1], key[-1], value[-1]):
            join(flow, node, dim, width)
        read = [width, width]
    else:
        read = [key[-1], value[-1]]
        for letter, dim in zip("qkv", (width, *read), strict=True):
            own = getattr(module, f"{letter}_proj_weight")
            join(flow, node, flow.tensor(own)[0], width)
            join(flow, node, flow.tensor(own)[1], dim)
            flow.role(own, 0, "makes")
            flow.role(own, 1, "reads")
    if bias is not None:
        join(flow, node, bias[0], stack([width, width, width]))
    out, shift = flow.tensor(module.out_proj.weight), held(flow, module.out_proj, "bias")
    for dim in (*out, *(shift or ())):
        join(flow, node, dim, width)
    flow.role(module.out_proj.weight, 0, "makes")
    flow.role(module.out_proj.weight, 1, "reads")
    for extra in (module.bias_k, module.bias_v):
        if extra is not None:
            for dim in (flow.tensor(extra)[-1], width):
                lock(dim, f"{node.name} has a bias of its own for keys and values")
    flow.meet(node, "inner", size)
    for name, dim in (("embed_dim", width), ("kdim", read[0]), ("vdim", read[1])):
        flow.attribute(path, name, dim)
    flow.attribute(path, "num_heads", heads)
    flow.attribute(path, "head_dim", size)
    flow.attribute(f"{path}.out_proj", "in_features", width)
    flow.attribute(f"{path}.out_proj", "out_features", width)
    return heads


def block_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow one layer of torch's transformer, a stack of them, or all of ``nn.Transformer``."""
    x = first(flow, node)
    decodes = isinstance(
        module, nn.Transformer | nn.TransformerDecoder | nn.TransformerDecoderLayer
    )
    second = ("tgt", "memory")[not isinstance(module, nn.Transformer)]
    other = flow.dims(argument(node, 1, second)) if decodes else None
    if not x or (decodes and not other):
        return None
    path = str(node.target)
    if isinstance(module, nn.Transformer):
        assert other is not None
        _stacked(flow, node, module.encoder, f"{path}.encoder", x, None)
        _stacked(flow, node, module.decoder, f"{path}.decoder", other, x)
        flow.attribute(path, "d_model", x[-1])
        return other
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        _stacked(flow, node, module, path, x, other)
    else:
        _block(flow, node, module, path, x, other)
    return x


def _stacked(flow: Flow, node: fx.Node, module: Any, path: str, x: Dims, memory: Any) -> None:
    for index, layer in enumerate(module.layers):
        _block(flow, node, layer, f"{path}.layers.{index}", x, memory)
    if isinstance(module.norm, nn.LayerNorm):
        _norm(flow, node, module.norm, f"{path}.norm", x)


def _block(flow: Flow, node: fx.Node, module: Any, path: str, x: Dims, memory: Any) -> None:
    """Join the tensors of one layer; those of parts that it does not know stay without a place."""
    _attend(flow, node, module.self_attn, f"{path}.self_attn", x, x, x)
    if memory is not None:
        _attend(flow, node, module.multihead_attn, f"{path}.multihead_attn", x, memory, memory)
    inner = Dim(module.linear1.out_features)
    for name, made, read in (("linear1", inner, x[-1]), ("linear2", x[-1], inner)):
        own = getattr(module, name)
        join(flow, node, flow.tensor(own.weight)[0], made)
        join(flow, node, flow.tensor(own.weight)[1], read)
        flow.role(own.weight, 0, "makes")
        flow.role(own.weight, 1, "reads")
        if own.bias is not None:
            join(flow, node, flow.tensor(own.bias)[0], made)
        flow.attribute(f"{path}.{name}", "out_features", made)
        flow.attribute(f"{path}.{name}", "in_features", read)
    for name in ("norm1", "norm2", *(("norm3",) if memory is not None else ())):
        _norm(flow, node, getattr(module, name), f"{path}.{name}", x)


def _norm(flow: Flow, node: fx.Node, norm: nn.LayerNorm, path: str, x: Dims) -> None:
    for name in ("weight", "bias"):
        own = held(flow, norm, name)
        if own is not None:
            join(flow, node, own[0], x[-1])
            flow.role(getattr(norm, name), 0, "scales" if name == "weight" else "makes")
    flow.meet(node, "norm", x[-1])
    flow.attribute(path, "normalized_shape", x[-1], 0)
