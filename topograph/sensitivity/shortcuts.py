r"""Exact shortcuts: the correlation of a place from that of a narrower neighbour.

Behind a Linear :math:`y = Wx + b` it is :math:`M_y = (\sum_s p_{y,s} \tilde x_s^T)\,\tilde W^T`,
and before one that alone reads :math:`x` it is :math:`M_x = W^T \sum_s p_{y,s} \tilde g(x_s)^T`:
both cost ``in * out`` a position instead of the square of the wider side. A BatchNorm in eval mode
is :math:`y_c = a_c x_c + d_c`, so that the places on its two sides share one correlation.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from topograph.sensitivity.products import Product
from topograph.sensitivity.statistics import Convolution, Matrix, Statistic, wide
from topograph.tracing import TracedModel

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Value = Product | Tensor


class Hearing(NamedTuple):
    """Where a statistic is taken, and what makes the wanted one of it.

    Attributes:
        state: The node whose value is the state.
        adjoint: The node whose adjoint is taken.
        lift: From the statistic there to that of the place.
    """

    state: str
    adjoint: str
    lift: Callable[[Value], Value]


def hearing(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing:
    """Return the cheapest exact way to a statistic of a node's value."""
    direct = Hearing(node.name, node.name, lambda value: value)
    return _behind(traced, node, statistic) or _before(traced, node, statistic) or direct


def _behind(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing | None:
    layer, source = _layer(traced, node)
    if source is None:
        return None
    if type(layer) is nn.Linear and isinstance(statistic, Matrix) and not statistic.norm:
        if layer.in_features < layer.out_features:
            return Hearing(source, node.name, lambda value: _after_linear(layer, value))
    elif isinstance(layer, NORMS) and _is_affine(layer) and _plain(statistic):
        return Hearing(source, node.name, lambda value: _after_norm(layer, value))
    return None


def _before(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing | None:
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    layer, source = _layer(traced, reader)
    if source != node.name:
        return None
    if type(layer) is nn.Linear and isinstance(statistic, Matrix):
        if layer.out_features < layer.in_features:
            return Hearing(node.name, reader.name, lambda value: _before_linear(layer, value))
    elif isinstance(layer, NORMS) and _is_affine(layer) and _plain(statistic):
        return Hearing(node.name, reader.name, lambda value: _before_norm(layer, value))
    return None


def _layer(traced: TracedModel, node: fx.Node) -> tuple[nn.Module | None, str | None]:
    """Return the layer that a node calls with one value, and the node that makes the value."""
    if node.op != "call_module" or len(node.all_input_nodes) != 1 or node.kwargs:
        return None, None
    layer = traced.module.get_submodule(str(node.target))
    hooked = layer._forward_hooks or layer._forward_pre_hooks  # it may compute something else
    return (None, None) if hooked else (layer, node.all_input_nodes[0].name)


def _plain(statistic: Statistic) -> bool:
    return isinstance(statistic, Convolution) or (
        isinstance(statistic, Matrix) and not statistic.norm
    )


def _is_affine(layer: nn.Module) -> bool:
    return getattr(layer, "running_mean", None) is not None


def _affine(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a BatchNorm in eval mode, [channels] each."""
    mean, variance = wide(layer.running_mean), wide(layer.running_var)  # type: ignore[arg-type]
    scale = torch.rsqrt(variance + layer.eps)  # type: ignore[operator]
    if layer.weight is not None:
        scale = scale * wide(layer.weight.detach())  # type: ignore[operator]
    shift = -mean * scale
    return scale, shift if layer.bias is None else shift + wide(layer.bias.detach())  # type: ignore[operator]


def _after_linear(layer: nn.Linear, value: Value) -> Value:
    assert isinstance(value, Product)
    weight = wide(layer.weight.detach())
    bias = weight.new_zeros(len(weight)) if layer.bias is None else wide(layer.bias.detach())
    lifted = torch.zeros(
        weight.shape[1] + 1, len(weight) + 1, dtype=weight.dtype, device=weight.device
    )
    lifted[:-1, :-1], lifted[-1, :-1], lifted[-1, -1] = weight.T, bias, 1
    return Product((*value.factors, lifted))


def _before_linear(layer: nn.Linear, value: Value) -> Value:
    assert isinstance(value, Product)
    return Product((wide(layer.weight.detach()).T, *value.factors))


def _after_norm(layer: nn.Module, value: Value) -> Value:
    scale, shift = _affine(layer)
    if isinstance(value, Product):
        last = value.factors[-1]
        lifted = torch.cat([last[:, :-1] * scale + last[:, -1:] * shift, last[:, -1:]], 1)
        return Product((*value.factors[:-1], lifted))
    shape = (1, -1, *[1] * (value.ndim - 2))
    constant = value[:, -1:]
    return torch.cat(
        [value[:, :-1] * scale.view(shape) + constant * shift.view(shape), constant], 1
    )


def _before_norm(layer: nn.Module, value: Value) -> Value:
    scale, _ = _affine(layer)
    if isinstance(value, Product):
        return value.scaled(scale)
    return value * scale.view(-1, *[1] * (value.ndim - 1))
