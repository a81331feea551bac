r"""Exact shortcuts: the correlation of a place from that of a narrower neighbour.

Behind a Linear :math:`y = Wx + b` it is :math:`M_y = (\sum_s p_{y,s} \tilde x_s^T)\,\tilde W^T`,
and before one that alone reads :math:`x` it is :math:`M_x = W^T \sum_s p_{y,s} \tilde g(x_s)^T`:
both cost ``in * out`` a position instead of the square of the wider side. Where several Linear
layers alone read :math:`x`, theirs add up. A BatchNorm in eval mode is :math:`y_c = a_c x_c + d_c`,
so that the places on its two sides share one correlation.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from topograph.sensitivity.products import Product
from topograph.sensitivity.statistics import Convolution, Matrix, Normed, Statistic, wide
from topograph.tracing import TracedModel
from topograph.tracing.sizes import SIZES

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Value = Product | Tensor


class Hearing(NamedTuple):
    """Where a statistic is taken, and what makes the wanted one of it.

    Attributes:
        state: The node whose value is the state.
        adjoint: The node whose adjoint is taken.
        lift: From the statistic there to that of the place.
        statistic: What is taken there instead; None where it is of the wanted type.
    """

    state: str
    adjoint: str
    lift: Callable[[Any], Value]
    statistic: Normed | None = None


def hearing(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing:
    """Return the cheapest exact way to a statistic of a node's value."""
    direct = Hearing(node.name, node.name, lambda value: value)
    return _behind(traced, node, statistic) or _before(traced, node, statistic) or direct


def _behind(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing | None:
    layer, source = _layer(traced, node)
    if source is None:
        return None
    if type(layer) is nn.Linear and isinstance(statistic, Matrix):
        inputs, outputs = layer.in_features, layer.out_features
        if statistic.norm and inputs * (inputs + outputs) < outputs**2:
            found = Normed(_with_bias(layer), node.name)
            return Hearing(source, node.name, found.product, found)
        if not statistic.norm and inputs < outputs:
            return Hearing(source, node.name, lambda value: _after_linear(layer, value))
    elif isinstance(layer, NORMS) and _is_affine(layer) and _plain(statistic):
        return Hearing(source, node.name, lambda value: _after_norm(layer, value))
    return None


def of_linear(traced: TracedModel, node: fx.Node) -> Hearing | None:
    """Return the way to the plain correlation of what a Linear layer makes; None of another."""
    layer, source = _layer(traced, node)
    if type(layer) is not nn.Linear or source is None:
        return None
    return Hearing(source, node.name, lambda value: _after_linear(layer, value))


def of_readers(traced: TracedModel, node: fx.Node) -> list[Hearing]:
    """Return what adds up to the plain correlation of a value that Linear layers alone read.

    Empty where something else reads it.
    """
    found = []
    for reader in _readers(node):
        layer, source = _layer(traced, reader)
        if type(layer) is not nn.Linear or source != node.name:
            return []
        found.append(Hearing(node.name, reader.name, partial(_before_linear, layer)))
    return found


def _before(traced: TracedModel, node: fx.Node, statistic: Statistic) -> Hearing | None:
    readers = _readers(node)
    if len(readers) != 1:
        return None
    (reader,) = readers
    layer, source = _layer(traced, reader)
    if source != node.name:
        return None
    if type(layer) is nn.Linear and isinstance(statistic, Matrix):
        if layer.out_features < layer.in_features:
            return Hearing(node.name, reader.name, lambda value: _before_linear(layer, value))
    elif isinstance(layer, NORMS) and _is_affine(layer) and _plain(statistic):
        return Hearing(node.name, reader.name, lambda value: _before_norm(layer, value))
    return None


def _readers(node: fx.Node) -> list[fx.Node]:
    """Return what reads a value itself, not only its size."""
    return [reader for reader in node.users if reader.target not in SIZES]


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
    weight = _with_bias(layer)
    constant = torch.zeros_like(weight[:1])
    constant[0, -1] = 1  # stays 1
    lifted = torch.cat([weight, constant]).T
    plain = value.plain()
    return replace(plain, factors=(*plain.factors, lifted))


def _with_bias(layer: nn.Linear) -> Tensor:
    """Return weight and bias, ``[out, in + 1]``."""
    weight = wide(layer.weight.detach())
    bias = weight.new_zeros(len(weight)) if layer.bias is None else wide(layer.bias.detach())
    return torch.cat([weight, bias[:, None]], 1)


def _before_linear(layer: nn.Linear, value: Value) -> Value:
    assert isinstance(value, Product)
    return replace(value, factors=(wide(layer.weight.detach()).T, *value.factors))


def _after_norm(layer: nn.Module, value: Value) -> Value:
    scale, shift = _affine(layer)
    if isinstance(value, Product):
        plain = value.plain()
        last = plain.factors[-1]
        lifted = torch.cat([last[:, :-1] * scale + last[:, -1:] * shift, last[:, -1:]], 1)
        return replace(plain, factors=(*plain.factors[:-1], lifted))
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
