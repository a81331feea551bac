"""A candidate as a linear map on its edge: what it reads, where it writes, what it starts with."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from topograph.rewrite.blocks import ACTIVATIONS
from topograph.sensitivity.closed_forms import SLOPES, signs_of
from topograph.sensitivity.factored import TwoLayers, reading, writing
from topograph.sensitivity.newton import Step
from topograph.sensitivity.patches import Rows, patches, vectors, with_one
from topograph.sensitivity.statistics import wide
from topograph.spec import AddBranch, ConvBottleneck, InsertLayer, Linear

Edge = InsertLayer | AddBranch
Layers = dict[str, Tensor]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DEVIATION = 0.7  # root mean square of what a new unit reads, before its activation


def read(mutation: Edge, state: Tensor) -> Rows:
    """Return what the first layer reads, with a last column of ones; of a gate these alone."""
    if isinstance(mutation, AddBranch):
        return Rows(1, 1, lambda places: wide(state).new_ones(len(places), 1))
    block = mutation.block
    if isinstance(block, ConvBottleneck):
        return with_one(patches(state, block.kernels[0]))
    return with_one(vectors(state, norm=getattr(block, "norm", False)))


def written(mutation: Edge, state: Tensor, noise: Tensor) -> Rows:
    """Return what arrives from behind where the last layer writes."""
    if isinstance(mutation, AddBranch):
        along = (wide(state) * wide(noise)).flatten(1).sum(1).square().sum().sqrt()
        return Rows(1, 1, lambda _: along.reshape(1, 1))
    block = mutation.block
    if isinstance(block, ConvBottleneck):
        return patches(noise, block.kernels[1], flipped=True)
    return vectors(noise)


def seen(mutation: Edge, step: Step, state: Tensor) -> Tensor:
    """Return what the units of a map read; of a gate what it writes."""
    x = wide(state)
    if isinstance(mutation, AddBranch):
        return x * (step.left @ step.right)
    block, space = mutation.block, x.ndim - 2
    if isinstance(block, ConvBottleneck):
        weight, bias = reading(block, step.right, space).values()
        return CONVOLUTIONS[space](x, weight, bias, padding=weight.shape[-1] // 2)
    x = F.layer_norm(x, x.shape[-1:]) if getattr(block, "norm", False) else x
    width = x.shape[-1]
    constant = step.right[:, width] if step.right.shape[1] > width else None
    return F.linear(x, step.right[:, :width], constant)


def arrived(mutation: Edge, step: Step, adjoint: Tensor) -> Tensor:
    """Return what arrives at the units of a map from behind, laid out as what they read.

    The product of both, summed over all but the samples, is that of the adjoint with the map.
    """
    p = wide(adjoint)
    if isinstance(mutation, AddBranch):
        return p
    block, space = mutation.block, p.ndim - 2
    if isinstance(block, ConvBottleneck):  # a transposed convolution, but faster
        (last,) = writing(block, step.left, space).values()
        turned = last.transpose(0, 1).flip(list(range(2, last.ndim)))
        return CONVOLUTIONS[space](p, turned, padding=last.shape[-1] // 2)
    return p @ step.left


def answered(mutation: Edge) -> Callable[[Tensor], Tensor]:
    """Return what units make of what they read, to first order the same: with their activation."""
    block = getattr(mutation, "block", None)
    if not isinstance(block, TwoLayers):
        return lambda seen: seen
    activation, signs = ACTIVATIONS[block.activation](), signs_of(block)
    length = DEVIATION * SLOPES[block.activation] * len(signs)
    return lambda seen: sum(sign * activation(sign * DEVIATION * seen) for sign in signs) / length


def layers(mutation: Edge, step: Step, space: int) -> tuple[Layers, Layers]:
    """Return what new layers start with, and what a step of 1 adds to them.

    Args:
        mutation: The candidate.
        step: The map that a step of 1 should make, to first order of the activation.
        space: Number of axes of its images.
    """
    if isinstance(mutation, AddBranch):
        return {}, {"gate": (step.left @ step.right).reshape(())}
    block = mutation.block
    if isinstance(block, TwoLayers):
        found = scaled(block, step)
        return reading(block, found.right, space), writing(block, found.left, space)
    whole = step.left @ step.right
    if isinstance(block, Linear) and not block.bias:
        return {}, {"linear.weight": whole}
    return {}, {"linear.weight": whole[:, :-1], "linear.bias": whole[:, -1]}


def scaled(block: TwoLayers, step: Step) -> Step:
    """Return a map's factors as layers have them: its units read with a fixed deviation."""
    signs = step.left.new_tensor(signs_of(block))
    left = step.left / (DEVIATION * SLOPES[block.activation] * len(signs))
    columns = (left[:, :, None] * signs).flatten(1)
    return Step(columns, (DEVIATION * step.right[:, None] * signs[:, None]).flatten(0, 1))
