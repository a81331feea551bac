"""What a layer is replaced by: activations, norms and factored matrices as plain torch modules."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from topograph.rewrite.blocks import CONVOLUTIONS
from topograph.spec import LowRank, Norm, Refusal
from topograph.topology import Node
from topograph.tracing.seen import Seen

CURVES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
}
KNOWN_CURVES = frozenset(
    (
        "relu relu6 leakyrelu prelu rrelu elu selu celu gelu silu mish tanh sigmoid softplus "
        "softsign hardswish hardsigmoid hardtanh hardshrink softshrink tanhshrink logsigmoid "
        "threshold identity"
    ).split()
)
RESULT_ONLY = frozenset(("relu", "tanh", "sigmoid"))  # their backward reads what they made
RESULT_TOO = frozenset(("elu", "selu", "celu", "softplus", "softsign"))
BATCH_NORMS: dict[int, Any] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
FIRST = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
LAST = (nn.LayerNorm, nn.RMSNorm)
POINTWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def norm_fits(block: Norm, node: Node, old: Any) -> Refusal | None:
    """Return why a norm cannot take the place of a module, if it cannot."""
    first = type(old) in FIRST
    if not first and type(old) not in LAST:
        return Refusal(
            node=node.name,
            reason=f"it calls a {type(old).__name__}, none of torch.nn's norms"
            if old is not None
            else f"it is the {node.kind} {node.op}, no norm that is a module",
            fix="choose a norm module, or replace it by a module of your own (register_block)",
        )
    if block.name == "identity":
        return None
    channels, rank = _channels(old), len(node.shape or ())
    if channels is None:
        return Refusal(
            node=node.name,
            reason=f"it normalizes over {list(old.normalized_shape)}, several axes",
            fix="choose a norm over the channels alone",
        )
    if block.name in ("layer_norm", "rms_norm") and first and rank != 2:
        return Refusal(
            node=node.name,
            reason=f"{block.name} works on the last axis; here the channels are axis 1 of {rank}",
            fix="use group_norm; with groups=1 it is the layer norm of images",
        )
    if block.name in ("batch_norm", "group_norm") and not first and rank != 2:
        return Refusal(
            node=node.name,
            reason=f"{block.name} works on axis 1; here the channels are the last of {rank} axes",
            fix="use layer_norm or rms_norm",
        )
    if block.name == "batch_norm" and rank not in BATCH_NORMS:
        return Refusal(
            node=node.name, reason=f"no batch norm has {rank} axes", fix="use group_norm"
        )
    if channels % block.groups:
        return Refusal(
            node=node.name,
            reason=f"{channels} channels do not divide into {block.groups} groups",
            fix=f"give a divisor of {channels}",
        )
    return None


def norm_module(block: Norm, node: Node, old: Any, like: Seen) -> nn.Module:
    """Return the new norm; where the old one had a weight or bias, they are its own, unchanged."""
    channels = _channels(old)
    if block.name == "identity" or channels is None:
        return nn.Identity()
    affine = old.weight is not None
    eps = old.eps
    match block.name:
        case "batch_norm":
            new: Any = BATCH_NORMS[len(node.shape or ())](channels, eps=eps or 1e-5, affine=affine)
        case "group_norm":
            new = nn.GroupNorm(block.groups, channels, eps=eps or 1e-5, affine=affine)
        case "layer_norm":
            new = nn.LayerNorm(channels, eps=eps or 1e-5, elementwise_affine=affine)
        case _:
            new = nn.RMSNorm(channels, eps=eps, elementwise_affine=affine)
    new = new.to(device=like.device, dtype=old.weight.dtype if affine else like.dtype)
    for name in ("weight", "bias"):
        kept = getattr(old, name, None)
        if kept is not None and getattr(new, name, None) is not None:
            setattr(new, name, kept)
    return new


def low_rank_fits(block: LowRank, node: Node, old: Any) -> Refusal | None:
    """Return why a module cannot be factored, if it cannot."""
    plain = type(old) is nn.Linear or (
        type(old) in POINTWISE and set(old.kernel_size) == {1} and old.groups == 1
    )
    if old is None or not plain:
        what = f"{node.kind} {node.op}({node.detail})" if old is None else repr(old)
        return Refusal(
            node=node.name,
            reason=f"it is {what}, neither a Linear nor a convolution of kernel 1 without groups",
            fix="choose a Linear or a pointwise convolution",
        )
    weight: Tensor = old.weight
    most = min(weight.shape[:2])
    if block.rank > most:
        return Refusal(
            node=node.name,
            reason=f"rank {block.rank} of a matrix {list(weight.shape[:2])}",
            fix=f"give at most {most}",
        )
    if weight.is_meta or not weight.is_floating_point() or not torch.isfinite(weight).all():
        return Refusal(
            node=node.name,
            reason=f"its weight is {weight.dtype} on {weight.device}, or not finite",
            fix="factor real weights",
        )
    return None


def low_rank_module(block: LowRank, old: Any) -> nn.Module:
    r"""Return two layers whose product is the truncated SVD; the bias is the old one.

    They are :math:`U \Sigma^{1/2}` and :math:`\Sigma^{1/2} V^T`, worked out in float64.
    """
    weight: Tensor = old.weight
    dense = weight.detach().double().flatten(1)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    root = s[: block.rank].sqrt()
    factors = root[:, None] * vh[: block.rank], u[:, : block.rank] * root
    outer, inner = dense.shape
    bare: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
    if isinstance(old, nn.Linear):
        reduce: Any = nn.Linear(inner, block.rank, bias=False, **bare)
        expand: Any = nn.Linear(block.rank, outer, bias=old.bias is not None, **bare)
    else:
        convolution = CONVOLUTIONS[weight.ndim - 2]
        settings = {"stride": old.stride, "padding": old.padding, "padding_mode": old.padding_mode}
        reduce = convolution(inner, block.rank, 1, bias=False, **settings, **bare)
        expand = convolution(block.rank, outer, 1, bias=old.bias is not None, **bare)
    with torch.no_grad():
        for layer, factor in zip((reduce, expand), factors, strict=True):
            layer.weight.copy_(factor.reshape(layer.weight.shape))
            layer.weight.requires_grad_(weight.requires_grad)
    if old.bias is not None:
        expand.bias = old.bias
    return nn.Sequential(OrderedDict(reduce=reduce, expand=expand))


def _channels(old: Any) -> int | None:
    """Return how many channels a norm of torch's has; None where it is over several axes."""
    if isinstance(old, LAST):
        return int(old.normalized_shape[0]) if len(old.normalized_shape) == 1 else None
    return int(old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features)
