"""Linear layers and convolutions: which axis of a weight makes units, and which reads them."""

from typing import Any

from torch import Tensor, fx, nn

from topograph.widths.arguments import argument, first, held, locked, named, number, place
from topograph.widths.dims import Dim, lock, product
from topograph.widths.flow import Flow, Layout, Rule, join

GEOMETRY = "it is the size of the kernel or of the image"
VOCABULARY = "it is the size of the vocabulary"
PADDED = ("Conv2dSame", "Conv3dSame")  # classes whose own forward only pads the image
Dims = tuple[Dim, ...] | None


def linear(
    flow: Flow, node: fx.Node, x: Dims, weight: Tensor | None, w: Dims, bias: Dims
) -> Layout:
    """``y = W x + b`` over the last axis."""
    if not x or w is None or len(w) != 2:
        return None
    join(flow, node, x[-1], w[1])
    if weight is not None:
        flow.role(weight, 0, "makes")
        flow.role(weight, 1, "reads")
    else:
        flow.meet(node, "inner", x[-1])
    if bias is not None:
        join(flow, node, w[0], bias[0])
    return (*x[:-1], w[0])


def convolution(
    flow: Flow,
    node: fx.Node,
    x: Dims,
    weight: Tensor | None,
    w: Dims,
    bias: Dims,
    groups: int,
    transposed: bool = False,
    still: bool = False,
) -> tuple[Layout, Dim]:
    """Return the layout of a convolution's value and the dimension of its groups.

    Args:
        flow: What is known so far.
        node: The call.
        x: Dimensions of the input.
        weight: The parameter, None where the weight is computed.
        w: Its dimensions.
        bias: Those of the bias.
        groups: Into how many blocks the channels fall.
        transposed: Whether the weight's first axis reads.
        still: Whether stride and padding leave places where they are.
    """
    count = Dim(groups)
    shape = flow.shape(node)
    if x is None or w is None or not len(x) == len(w) == len(shape):
        return None, count
    for dim in w[2:]:
        lock(dim, GEOMETRY)
    if weight is not None:
        flow.role(weight, 0, "reads" if transposed else "makes")
        flow.role(weight, 1, "makes" if transposed else "reads")
    else:
        flow.meet(node, "inner", x[1])
    if groups == 1:
        made, read = (w[1], w[0]) if transposed else (w[0], w[1])
        lock(count, "the layer has one group")
    elif transposed:
        inner = Dim(w[0].size // groups)
        read, made = w[0], product([count, w[1]])
        join(flow, node, read, product([count, inner]))
    else:
        outer = Dim(w[0].size // groups)
        read, made = product([count, w[1]]), w[0]
        join(flow, node, made, product([count, outer]))
    join(flow, node, x[1], read)
    if bias is not None:
        join(flow, node, made, bias[0])
    if still and all(dim.size == 1 for dim in w[2:]):
        return (x[0], made, *x[2:]), count
    for dim in x[2:]:
        lock(dim, f"{node.name} slides along it")
    return (x[0], made, *(locked(size, GEOMETRY) for size in shape[2:])), count


def linear_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow an ``nn.Linear``."""
    w, bias = held(flow, module, "weight"), held(flow, module, "bias")
    made = linear(flow, node, first(flow, node), module.weight, w, bias)
    if w is not None and made is not None:
        flow.attribute(str(node.target), "in_features", w[1])
        flow.attribute(str(node.target), "out_features", w[0])
        if type(module).forward is not nn.Linear.forward:  # it may scale by its weight's length
            flow.meet(node, "other", w[1])
    return made


def convolution_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow a convolution, also a transposed or grouped one."""
    x = first(flow, node)
    w, bias = held(flow, module, "weight"), held(flow, module, "bias")
    still = _still(module.stride, module.padding) and not module.transposed
    made, count = convolution(
        flow, node, x, module.weight, w, bias, module.groups, module.transposed, still
    )
    if made is None or x is None or w is None:
        return None
    path = str(node.target)
    flow.attribute(path, "in_channels", x[1])
    flow.attribute(path, "out_channels", made[1])
    if module.groups > 1:
        flow.attribute(path, "groups", count)
    if not _is_plain(module):  # such as a convolution that standardises its weight
        flow.meet(node, "other", w[0] if module.transposed else w[1])
    for tensor in module.parameters(recurse=False):  # gains of standardised convolutions
        if tensor is not module.weight and tensor is not module.bias:
            along(flow, node, tensor, made[1])
    return made


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer computes what torch's own does with the weight that it holds."""
    base = next(b for b in type(module).__mro__ if b.__module__ == "torch.nn.modules.conv")
    return type(module).forward is base.forward or type(module).__name__ in PADDED  # type: ignore


def _still(stride: Any, pads: Any) -> bool:
    """Return whether a kernel of one entry reads each place where it is."""
    one = set(stride if isinstance(stride, tuple | list) else [stride]) == {1}
    return one and (pads in ("same", "valid") or not any(_each(pads)))


def _each(given: Any) -> list[Any]:
    return list(given) if isinstance(given, tuple | list) else [given]


def along(flow: Flow, node: fx.Node, tensor: Tensor, dim: Dim) -> None:
    """Let a tensor with one axis of a dimension's size follow it."""
    own = flow.tensor(tensor, "scales")
    wide = [d for d in own if d.size != 1]
    if len(wide) == 1 and wide[0].size == dim.size:
        join(flow, node, wide[0], dim)
    else:
        for part in own:
            lock(part, f"{node.name} has a tensor of unknown meaning")


def embedding_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow an ``nn.Embedding``, or an ``nn.EmbeddingBag``.

    A subclass may choose the rows itself, from a position or a mask: then all but the last axis
    of its value are fixed.
    """
    weight, seen = held(flow, module, "weight"), flow.seen(node)
    several = isinstance(seen, tuple)
    shapes = [tuple(part.shape) for part in (seen if several else (seen,)) if part is not None]
    if weight is None or not shapes or shapes[0][-1:] != (weight[1].size,):
        return None
    lock(weight[0], VOCABULARY)
    flow.role(module.weight, 0, "reads")
    flow.role(module.weight, 1, "makes")
    if module.max_norm is not None:
        flow.meet(node, "other", weight[1])
    flow.attribute(str(node.target), "num_embeddings", weight[0])
    flow.attribute(str(node.target), "embedding_dim", weight[1])
    index = first(flow, node)
    own = type(module).forward is not nn.Embedding.forward
    if own or index is None:
        made = [
            tuple(locked(size, f"{node.name} computes its size") for size in shape)
            for shape in (shapes[0][:-1], *shapes[1:])
        ]
        made[0] = (*made[0], weight[1])
        return made if several else made[0]
    return (*index, weight[1])


def bilinear_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow an ``nn.Bilinear``: ``y_k = x^T W_k z + b_k``."""
    x, z = (flow.dims(argument(node, i, f"input{i + 1}")) for i in (0, 1))
    w, bias = held(flow, module, "weight"), held(flow, module, "bias")
    if x is None or z is None or w is None or len(x) != len(z):
        return None
    join(flow, node, x[-1], w[1])
    join(flow, node, z[-1], w[2])
    for mine, theirs in zip(x[:-1], z[:-1], strict=True):
        join(flow, node, mine, theirs)
    if bias is not None:
        join(flow, node, w[0], bias[0])
    path = str(node.target)
    for index, (name, role) in enumerate(
        (("out_features", "makes"), ("in1_features", "reads"), ("in2_features", "reads"))
    ):
        flow.role(module.weight, index, role)  # type: ignore[arg-type]
        flow.attribute(path, name, w[index])
    return (*x[:-1], w[0])


def _call_linear(flow: Flow, node: fx.Node) -> Layout:
    weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
    x = flow.dims(argument(node, 0, "input"))
    return linear(flow, node, x, flow.parameter(weight), flow.dims(weight), flow.dims(bias))


def _call_convolution(flow: Flow, node: fx.Node) -> Layout:
    transposed, position = "transpose" in named(node), 6
    groups = number(flow, argument(node, position, "groups", 1))
    weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
    if groups is None:
        return None
    still = _still(argument(node, 3, "stride", 1), argument(node, 4, "padding", 0))
    made, count = convolution(
        flow, node, flow.dims(argument(node, 0, "input")), flow.parameter(weight),
        flow.dims(weight), flow.dims(bias), groups, transposed, still and not transposed,
    )  # fmt: skip
    if made is not None and groups > 1:
        flow.write(node, place(node, position, "groups"), count)
    return made


def _call_embedding(flow: Flow, node: fx.Node) -> Layout:
    index, weight = flow.dims(argument(node, 0, "input")), flow.dims(argument(node, 1, "weight"))
    if index is None or weight is None:
        return None
    lock(weight[0], VOCABULARY)
    if argument(node, 3, "max_norm") is not None:
        flow.meet(node, "other", weight[1])
    return (*index, weight[1])


CALLS: dict[str, Rule] = {
    "linear": _call_linear, "embedding": _call_embedding,
    **dict.fromkeys([f"conv{n}d" for n in (1, 2, 3)], _call_convolution),
    **dict.fromkeys([f"convtranspose{n}d" for n in (1, 2, 3)], _call_convolution),
}  # fmt: skip
