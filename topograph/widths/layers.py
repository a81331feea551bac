"""What a module's call does to dimensions, by the module's class."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from topograph.widths import attention, images, norms, recurrent, weights
from topograph.widths.arguments import argument, broadcast, first, held
from topograph.widths.arithmetic import elementwise
from topograph.widths.flow import Flow, Layout, Rule, join
from topograph.widths.joining import halved
from topograph.widths.shapes import regroup


def _prelu(flow: Flow, node: fx.Node, module: Any) -> Layout:
    x = first(flow, node)
    weight = held(flow, module, "weight")
    if x is None or weight is None:
        return None
    if module.num_parameters > 1:
        if len(x) < 2:
            return None
        join(flow, node, weight[0], x[1])
        flow.role(module.weight, 0, "scales")
        flow.attribute(str(node.target), "num_parameters", weight[0])
    return x


def _plain(flow: Flow, node: fx.Node, module: nn.Module) -> Layout:
    return elementwise(flow, node)


def _flattened(flow: Flow, node: fx.Node, module: Any) -> Layout:
    x = first(flow, node)
    return regroup(flow, node, x, flow.shape(node)) if x is not None else None


def _unflattened(flow: Flow, node: fx.Node, module: Any) -> Layout:
    made = _flattened(flow, node, module)
    sizes = tuple(module.unflattened_size)
    if made is None or not isinstance(module.dim, int):
        return None
    if all(isinstance(size, int) for size in sizes):
        start = module.dim % (len(made) - len(sizes) + 1)
        for index, size in enumerate(sizes):
            if size >= 0:
                flow.attribute(str(node.target), "unflattened_size", made[start + index], index)
    return made


def _softmax(flow: Flow, node: fx.Node, module: Any) -> Layout:
    x = first(flow, node)
    at = -3 if isinstance(module, nn.Softmax2d) else module.dim
    if x is None or not isinstance(at, int) or len(x) < abs(at):
        return None
    flow.meet(node, "other", x[at])
    return x


def _glu(flow: Flow, node: fx.Node, module: nn.GLU) -> Layout:
    return halved(flow, node, first(flow, node), module.dim)


def _compared(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """`CosineSimilarity` and `PairwiseDistance`: one number for all units along an axis."""
    x, y = (flow.dims(argument(node, i, f"x{i + 1}")) for i in (0, 1))
    at = getattr(module, "dim", -1)
    if x is None or y is None:
        return None
    size = max(len(x), len(y))
    shape = [max(d[i].size for d in (x, y) if len(d) >= -i) for i in range(-size, 0)]
    both = broadcast(flow, node, [x, y], shape)
    if both is None or getattr(module, "keepdim", False):
        return None
    flow.meet(node, "other", both[at])
    at %= size
    return (*both[:at], *both[at + 1 :])


BY_CLASS: tuple[tuple[tuple[type[nn.Module], ...], Callable[..., Layout]], ...] = (
    ((nn.Linear,), weights.linear_layer),
    ((nn.modules.conv._ConvNd,), weights.convolution_layer),
    ((nn.modules.batchnorm._NormBase,), norms.batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), norms.layer_norm),
    ((nn.GroupNorm,), norms.group_norm),
    ((nn.Embedding, nn.EmbeddingBag), weights.embedding_layer),
    ((nn.Bilinear,), weights.bilinear_layer),
    ((nn.PReLU,), _prelu),
    ((nn.PixelShuffle, nn.PixelUnshuffle), images.shuffle_layer),
    ((nn.ChannelShuffle,), images.mixed_channels),
    ((nn.LocalResponseNorm, nn.CrossMapLRN2d), images.neighbours),
    ((nn.MultiheadAttention,), attention.attention_layer),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder,
      nn.TransformerDecoder, nn.Transformer), attention.block_layer),
    ((nn.RNNBase,), recurrent.recurrent_layer),
    ((nn.RNNCellBase,), recurrent.cell_layer),
    ((nn.CosineSimilarity, nn.PairwiseDistance), _compared),
    ((nn.Flatten,), _flattened),
    ((nn.Unflatten,), _unflattened),
    ((nn.Unfold,), images.unfold_layer),
    ((nn.Fold,), images.fold_layer),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d), _softmax),
    ((nn.GLU,), _glu),
    ((nn.Identity,), _plain),
)  # fmt: skip
PLAIN_NAMES = ("droppath", "dropout", "stochasticdepth", "gelu")
PLAIN_HOMES = {"torch.nn.modules.activation", "torch.nn.modules.dropout"}
SPATIAL_HOMES = {"torch.nn.modules.pooling", "torch.nn.modules.upsampling"}


def layer(flow: Flow, node: fx.Node) -> Layout:
    """Return the dimensions of the value that a module's call makes, or why they are fixed."""
    module = flow.modules[str(node.target)]
    if flow.is_opaque(node):
        return "stays whole in the graph, so what it does with its widths is not known"
    if any(map(_is_computed, module.modules())):
        return "is parametrized: its weight is computed from others"
    for classes, rule in BY_CLASS:
        if isinstance(module, classes):
            return rule(flow, node, module)
    name = type(module).__name__.lower()
    homes = {base.__module__ for base in type(module).__mro__}
    if not flow.owned(module):
        if homes & PLAIN_HOMES or name.endswith(PLAIN_NAMES):
            return elementwise(flow, node)
        if homes & SPATIAL_HOMES:
            return images.spatial(flow, node)
        if "torch.nn.modules.padding" in homes:
            return images.padding_layer(flow, node, module)
    if "norm" in name:
        return norms.custom_norm(flow, node, module)
    return None


def _is_computed(module: nn.Module) -> bool:
    """Return whether a layer computes its weight from other tensors before each call."""
    return parametrize.is_parametrized(module) or any(
        hasattr(module, name) for name in ("weight_v", "weight_orig")
    )


CALLS: dict[str, Rule] = {**weights.CALLS, **norms.CALLS, **images.RULES}
