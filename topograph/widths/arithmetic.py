"""Operations on numbers: element by element, along axes, and products of values."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from topograph.widths.arguments import (
    argument,
    axes,
    axis,
    broadcast,
    first,
    inputs,
    locked,
    named,
    spread,
)
from topograph.widths.dims import Dim, lock
from topograph.widths.flow import Flow, Layout, Rule

ELEMENTWISE = (
    "relu relu6 leakyrelu prelu rrelu elu selu celu gelu silu swish mish tanh sigmoid hardswish "
    "hardsigmoid hardtanh hardshrink softshrink tanhshrink softplus softsign logsigmoid threshold "
    "dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout droppath identity add "
    "sub rsub mul truediv div divide multiply subtract floordiv iadd isub imul itruediv pow neg "
    "abs exp expm1 log log1p log2 sqrt rsqrt square reciprocal clamp clip clampmin clampmax sin "
    "cos tan atan where maskedfill contiguous clone detach type float half double "
    "bfloat16 int long bool lerp addcmul addcdiv maximum minimum erf ne eq lt le gt ge and or xor "
    "invert logicaland logicalor logicalnot logicalxor isnan isinf nantonum sign floor ceil round "
    "fmod mod remainder copy square real imag sinh cosh mishfunction bernoulli requiresgrad "
    "checkpoint zero fill positive relusquared quickgelu floatpower xlogy lgamma "
).split()
MEANS = ("mean",)
SUMS = ("sum", "amax", "amin", "prod", "std", "var", "norm", "logsumexp", "any", "all", "nansum")
ALONG = "softmax logsoftmax softmin normalize".split()
ORDERED = "cumsum cumprod logcumsumexp flip roll sort argsort".split()


def elementwise(flow: Flow, node: fx.Node) -> Layout:
    """Unify what is combined; an axis of one entry is repeated."""
    read = list(inputs(flow, node))
    for source, _ in read:
        tensor = flow.parameter(source)
        if tensor is not None:
            flow.tensor(tensor, "scales" if "mul" in named(node) else "makes")
    return broadcast(flow, node, [dims for _, dims in read], flow.shape(node))


def _converted(flow: Flow, node: fx.Node) -> Layout:
    """`to` and `type_as`: what else they read gives a type or a device, no numbers."""
    return first(flow, node)


def _reduced(flow: Flow, node: fx.Node) -> Layout:
    given = first(flow, node)
    if given is None:
        return None
    name = named(node)
    place = 2 if name in ("norm", "linalg_vector_norm") else 1
    dims = axes(argument(node, place, "dim", node.kwargs.get("axis")), len(given))
    if dims is None:
        return None
    for index in dims:
        flow.meet(node, "mean" if name == "mean" else "other", given[index])
    return _without(flow, node, given, dims)


def _without(flow: Flow, node: fx.Node, given: Sequence[Dim], dims: Sequence[int]) -> Layout:
    seen = flow.seen(node)
    several = isinstance(seen, tuple)
    shape = tuple(seen[0].shape) if several and seen else flow.shape(node)
    if len(shape) == len(given):
        made = tuple(Dim(1) if index in dims else dim for index, dim in enumerate(given))
    else:
        made = tuple(dim for index, dim in enumerate(given) if index not in dims)
    return [made for _ in seen] if several else made


def _extreme(flow: Flow, node: fx.Node) -> Layout:
    """`max` and `min`: of two values, of all entries, or along an axis."""
    if len(list(inputs(flow, node))) > 1:
        return elementwise(flow, node)
    return _reduced(flow, node)


def _ordered(flow: Flow, node: fx.Node) -> Layout:
    """`cumsum`, `flip`, `roll`, `sort`: what they do depends on the order along some axes."""
    given, seen = first(flow, node), flow.seen(node)
    if given is None:
        return None
    name = named(node)
    if name == "flip":
        dims = axes(tuple(spread(node, 1, "dims")[1]), len(given))
    elif name == "roll":
        dims = axes(argument(node, 2, "dims", argument(node, 2, "dim")), len(given))
    else:
        default = -1 if "sort" in name else None
        one = axis(node, 1, "dim", len(given), default)
        dims = [one] if one is not None else None
    if dims is None:
        return None
    for index in dims:
        lock(given[index], f"{node.name} depends on the order of its units")
    return [given for _ in seen] if isinstance(seen, tuple) else given


def _along(flow: Flow, node: fx.Node) -> Layout:
    """`softmax` and `normalize`: the units along one axis share something."""
    given = first(flow, node)
    if given is None:
        return None
    spot, default = (2, 1) if named(node) == "normalize" else (1, None)
    at = axis(node, spot, "dim", len(given), default)
    if at is None:
        return None
    flow.meet(node, "other", given[at])
    return given


def _spectrum(flow: Flow, node: fx.Node) -> Layout:
    """Fourier transforms: the axes that they run along are fixed, the others stay."""
    given, shape = first(flow, node), flow.shape(node)
    if given is None or len(shape) != len(given):
        return None
    name = named(node)
    default: Any = (-2, -1) if name.endswith("2") else None if name.endswith("n") else -1
    dims = axes(argument(node, 2, "dim", default), len(given))
    if dims is None or (name.endswith("n") and argument(node, 1, "s") is not None):
        return None
    made = list(given)
    for index in dims:
        lock(given[index], f"{node.name} transforms along it")
        made[index] = locked(shape[index], f"{node.name} transforms along it")
    return tuple(made)


FOURIER = [
    f"fft{inverse}{real}fft{kind}"
    for inverse in ("", "i") for real in ("", "r") for kind in ("", "2", "n")
]  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise), **dict.fromkeys(("to", "typeas"), _converted),
    **dict.fromkeys((*MEANS, *SUMS, "linalgvectornorm", "argmax", "argmin"), _reduced),
    **dict.fromkeys(("max", "min"), _extreme), **dict.fromkeys(ORDERED, _ordered),
    **dict.fromkeys(ALONG, _along), **dict.fromkeys(FOURIER, _spectrum),
}  # fmt: skip
