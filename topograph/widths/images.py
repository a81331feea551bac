"""Operations on images: pooling, padding, resizing, pixels from channels and back."""

import re
from typing import Any

from torch import fx

from topograph.widths.arguments import argument, first, locked, named, number
from topograph.widths.dims import Dim, lock, product, stack
from topograph.widths.flow import Flow, Layout, Rule, join
from topograph.widths.weights import GEOMETRY


def spatial(flow: Flow, node: fx.Node) -> Layout:
    """Follow pooling and resizing: batch and channels stay."""
    given, word = first(flow, node), flow.word(node)
    shape = flow.shape(node)
    several = flow.seen(node)
    if given is None or isinstance(several, tuple) or len(shape) != len(given):
        return None
    rank = re.search(r"([123])d", word)
    slid = int(rank[1]) if rank else len(given) - 2
    if slid < 1 or len(given) - slid < 1:
        return None
    for dim in given[-slid:]:
        lock(dim, f"{node.name} slides along it")
    space = [locked(size, GEOMETRY) for size in shape[-slid:]]
    return (*given[:-slid], *space)


def padding(flow: Flow, node: fx.Node, given: Any, pads: Any, mode: str = "constant") -> Layout:
    """Follow padding: zeros stand before and behind the units."""
    shape = flow.shape(node)
    if given is None or not isinstance(pads, tuple | list) or len(pads) % 2:
        return None
    made = list(given)
    for pair in range(len(pads) // 2):
        before, after = pads[2 * pair], pads[2 * pair + 1]
        at = -1 - pair
        if (before, after) == (0, 0):
            continue
        plain = isinstance(before, int) and isinstance(after, int) and mode == "constant"
        if plain and min(before, after) >= 0:
            ends = [locked(size, "it is padding") for size in (before, after)]
            made[at] = stack(part for part in (ends[0], given[at], ends[1]) if part.size)
        else:  # cut, copied, or by as much as the size of the input asks for
            lock(given[at], f"{node.name} computes how much it pads or cuts")
            made[at] = locked(shape[at], f"{node.name} computes its size")
    return tuple(made)


def _pad(flow: Flow, node: fx.Node) -> Layout:
    pads = argument(node, 1, "pad", ())
    return padding(flow, node, first(flow, node), pads, argument(node, 2, "mode", "constant"))


def shuffle_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow ``PixelShuffle`` and ``PixelUnshuffle``."""
    x = first(flow, node)
    factor = getattr(module, "upscale_factor", None) or getattr(module, "downscale_factor", 1)
    return _shuffled(flow, node, x, factor, hasattr(module, "upscale_factor"))


def _shuffled(flow: Flow, node: fx.Node, x: Any, factor: Any, up: bool) -> Layout:
    """Pixel shuffle: blocks of channels become pixels, or the other way round."""
    if x is None or len(x) != 4 or not isinstance(factor, int):
        return None
    inner = product([locked(factor, GEOMETRY), locked(factor, GEOMETRY)])
    if up:
        channel = Dim(x[1].size // factor**2)
        join(flow, node, x[1], product([channel, inner]))
    else:
        channel = product([x[1], inner])
    return (x[0], channel, *_space(flow, node, x[2:]))


def _space(flow: Flow, node: fx.Node, given: Any) -> list[Dim]:
    """Lock the axes that a call slides along and return those that it makes."""
    for dim in given:
        lock(dim, f"{node.name} slides along it")
    return [locked(size, GEOMETRY) for size in flow.shape(node)[2:]]


def unfold_layer(flow: Flow, node: fx.Node, module: Any = None) -> Layout:
    """Follow ``Unfold``: each channel becomes a block of pixels."""
    x, shape = first(flow, node), flow.shape(node)
    if x is None or len(shape) != 3 or len(x) != 4:
        return None
    window = product([x[1], locked(shape[1] // x[1].size, GEOMETRY)])
    return (x[0], window, *_space(flow, node, x[2:]))


def fold_layer(flow: Flow, node: fx.Node, module: Any = None) -> Layout:
    """Follow ``Fold``: each channel's block of pixels is laid over its neighbours."""
    x, shape = first(flow, node), flow.shape(node)
    if x is None or len(shape) != 4 or len(x) != 3:
        return None
    channel = Dim(shape[1])
    window = product([channel, locked(x[1].size // shape[1], GEOMETRY)])
    join(flow, node, x[1], window)
    return (x[0], channel, *_space(flow, node, x[2:]))


def mixed_channels(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow ``ChannelShuffle``: groups of channels change places with the places in them."""
    x = first(flow, node)
    if x is None or len(x) < 2 or x[1].size % module.groups:
        return None
    count, inner = Dim(module.groups), Dim(x[1].size // module.groups)
    join(flow, node, x[1], product([count, inner]))
    if module.groups > 1:
        flow.attribute(str(node.target), "groups", count)
    return (x[0], product([inner, count]), *x[2:])


def neighbours(flow: Flow, node: fx.Node, module: Any = None) -> Layout:
    """Follow ``LocalResponseNorm``: each channel is divided by what is next to it."""
    x = first(flow, node)
    if x is None or len(x) < 3:
        return None
    lock(x[1], f"{node.name} depends on the order of its units")
    return x


def padding_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow ``ZeroPad2d``, ``ReflectionPad2d`` and their like."""
    constant = type(module).__name__.startswith(("Zero", "Constant"))
    mode = "constant" if constant else "other"
    return padding(flow, node, first(flow, node), module.padding, mode)


def _call_shuffle(flow: Flow, node: fx.Node) -> Layout:
    up = "unshuffle" not in named(node)
    word = "upscale_factor" if up else "downscale_factor"
    return _shuffled(flow, node, first(flow, node), number(flow, argument(node, 1, word)), up)


def _call_fold(flow: Flow, node: fx.Node) -> Layout:
    return fold_layer(flow, node)


def _call_neighbours(flow: Flow, node: fx.Node) -> Layout:
    return neighbours(flow, node)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [f"{kind}{n}d" for n in (1, 2, 3)
         for kind in "maxpool avgpool adaptiveavgpool adaptivemaxpool lppool".split()], spatial),
    **dict.fromkeys(("interpolate", "upsample"), spatial), "pad": _pad, "fold": _call_fold,
    **dict.fromkeys(("pixelshuffle", "pixelunshuffle"), _call_shuffle),
    "localresponsenorm": _call_neighbours,
}  # fmt: skip
