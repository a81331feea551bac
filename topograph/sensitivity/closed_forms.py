r"""Closed forms of blocks: what each needs to hear on an edge, and its derivative from the mean.

With the correlation :math:`M = \sum_s p_s \tilde x_s^T` of an edge, two matrices around an
activation of slope :math:`s_1` at 0 have :math:`D = s_1 \sigma_1(M) / 2`, reached by one unit that
reads the leading right and writes the leading left singular vector, each over :math:`\sqrt 2`. For
a convolution M has the offsets as a third axis and is unfolded towards the one that has the kernel;
where both have one, the rows and columns of M are the taps of the two (`taps`).

ReLU has two slopes at 0. Its units come in pairs, (v, u) and (-v, -u), and since :math:`\sigma(z) -
\sigma(-z) = z` a pair is linear: the same formula, with :math:`s_1 = 1/2` over the unit directions
of both units together.

Several directions, k, are the k leading singular pairs, each in a unit (or pair of units) of its
own with 1/k of the squared length: the decrease is :math:`s_1 \sum_{i \le k} \sigma_i / 2k`. It
is less than that of the leading pair alone, which all units could share; but units that are alike
stay alike in training.

A single matrix acts in first order: :math:`D = s_1 \lVert M \rVert_F` along :math:`M`; so does a
gate, with :math:`D = |\sum_s p_s \cdot x_s|`. Behind :math:`z \tanh z`, without slope and with a
curvature of 2, it acts in second order, :math:`D = \max_i \lambda_{\max}(Q_i)` with all of it in
one output i (`curved`). That D is below 0 where every direction raises the loss.

Self-attention is bilinear in its values and its output (`attention_form`).
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from topograph.rewrite.table import AnyMutation
from topograph.sensitivity import attention_form
from topograph.sensitivity.cost import place_node
from topograph.sensitivity.curved import ROOM, Squares, largest_of_each
from topograph.sensitivity.hearings import Edge
from topograph.sensitivity.leading import leading_triples
from topograph.sensitivity.products import Product
from topograph.sensitivity.rectangular import Derivative, Outcome, without_constant
from topograph.sensitivity.scored import node_of
from topograph.sensitivity.shortcuts import Value
from topograph.sensitivity.splitting import best, largest_of
from topograph.sensitivity.statistics import Convolution, Inner, Matrix
from topograph.sensitivity.taps import TwoConvolutions
from topograph.spec import (
    AddBranch,
    Bottleneck,
    ConvBottleneck,
    InsertLayer,
    Linear,
    Refusal,
    SelfAttention,
)
from topograph.tracing import TracedModel

SLOPES = {"tanh": 1.0, "gelu": 0.5, "silu": 0.5, "relu": 0.5}  # at 0; of relu for each of a pair
STEPS, LEADING = 12, 16  # of Lanczos for all outputs, and how many are then looked at closely


class ClosedForm(NamedTuple):
    """What is known of one kind of block.

    Attributes:
        statistic: A fresh accumulator for what its derivative needs.
        outcome: From block, mean over batches of that, and number of directions.
    """

    statistic: Callable[[Any], Edge]
    outcome: Callable[[Any, Any, int], Outcome]


def refusal(mutation: AnyMutation) -> Refusal | None:
    """Return why there is no closed form on one edge for a mutation; None if there is one."""
    match mutation:
        case AddBranch(projection="none", gate=0.0, path=None):
            return None
        case InsertLayer(block=block) if type(block) in FORMS:
            return None
    form = f"with a {mutation.block.kind}" if isinstance(mutation, InsertLayer) else "of this form"
    return Refusal(
        node=node_of(mutation),
        reason=f"there is no closed form of {mutation.kind} {form}",
        fix="score insert_layer, or add_branch without projection and path, with gate 0",
    )


def refusal_at(traced: TracedModel, mutation: AnyMutation) -> Refusal | None:
    """Return why what a block needs to hear at its place takes too much room; None if not."""
    block = mutation.path if isinstance(mutation, AddBranch) else getattr(mutation, "block", None)
    if not isinstance(block, ConvBottleneck) or block.spatial != "both":
        return None
    if isinstance(mutation, AddBranch):
        node = traced.topology.by_name[mutation.pair[0]]
    else:
        assert isinstance(mutation, InsertLayer)  # nothing else has such a block
        node = place_node(mutation, traced.topology)
    taps = (node.channels or 0) * block.kernel ** (len(node.axes) - 2)
    if taps * (taps + 1) <= ROOM:
        return None
    return Refusal(
        node=node_of(mutation),
        reason=f"two kernels of {block.kernel} have {taps:,} taps each on {node.channels} channels,"
        f" and all pairs of them are more than {ROOM:,} numbers",
        fix='give spatial="in" or "out", or a smaller kernel',
    )


def statistic(mutation: InsertLayer | AddBranch) -> Edge:
    """Return a fresh accumulator for what a mutation's derivative needs."""
    if isinstance(mutation, AddBranch):
        return Inner()
    return FORMS[type(mutation.block)].statistic(mutation.block)


def outcome(mutation: InsertLayer | AddBranch, mean: Value, directions: int = 1) -> Outcome:
    """Return what follows for a candidate from the mean over batches of its statistic."""
    if isinstance(mutation, AddBranch):
        assert isinstance(mean, Tensor)
        sign = torch.where(mean < 0, -torch.ones_like(mean), torch.ones_like(mean))
        return _along(abs(mean.item()), 1, {"gate": sign})
    return FORMS[type(mutation.block)].outcome(mutation.block, mean, directions)


def unfolded(block: ConvBottleneck, mean: Tensor) -> Product:
    """Return M as a matrix from what the first layer reads to what the last one writes."""
    if block.spatial == "both":
        return Product((mean.flatten(0, -2),), space=mean.ndim - 2)
    if block.spatial == "out":
        return Product((mean.movedim(1, -1).flatten(0, -2),), space=mean.ndim - 2)
    middle = mean[:, -1].flatten(1)[:, mean[0, 0].numel() // 2]  # a bias has no offset
    whole = torch.cat([mean[:, :-1].flatten(1), middle[:, None]], 1)
    return Product((whole,), space=mean.ndim - 2)


def _along(value: float, order: Literal[1, 2], direction: dict[str, Tensor]) -> Outcome:
    return Outcome(Derivative(value, order, direction), {})


def _two_matrices(block: Bottleneck, mean: Product, directions: int) -> Outcome:
    rows, columns, value = _units(block, mean, directions)
    direction = {
        "reduce.weight": rows[:, :-1],
        "reduce.bias": rows[:, -1],
        "expand.weight": columns,
    }
    return _along(value, 2, direction)


def _two_convolutions(block: ConvBottleneck, mean: Value, directions: int) -> Outcome:
    matrix = mean if isinstance(mean, Product) else unfolded(block, mean)
    rows, columns, value = _units(block, matrix, directions)
    inner, outer = ([size] * matrix.space for size in block.kernels)
    direction = {
        "reduce.weight": rows[:, :-1].unflatten(1, (-1, *inner)),
        "reduce.bias": rows[:, -1],
        "expand.weight": columns.unflatten(0, (-1, *outer)).movedim(-1, 1),
    }
    return _along(value, 2, direction)


def has_one_pair(mutation: AnyMutation, directions: int) -> bool:
    """Return whether a derivative follows from one leading pair, of M as it is."""
    block = getattr(mutation, "block", None)
    return isinstance(block, Bottleneck | ConvBottleneck) and _pairs(block, directions) == 1


def _pairs(block: Bottleneck | ConvBottleneck, directions: int) -> int:
    return min(directions, block.units // len(signs_of(block)))


def signs_of(block: Bottleneck | ConvBottleneck) -> tuple[float, ...]:
    """Return the signs of the units that share what they read: one unit, or a pair of ReLU's."""
    return (1.0, -1.0) if block.activation == "relu" else (1.0,)


def _units(
    block: Bottleneck | ConvBottleneck, matrix: Product, directions: int
) -> tuple[Tensor, Tensor, float]:
    """Return what the leading units read and write, of length 1 together, and their derivative."""
    signs = signs_of(block)
    found = leading_triples(matrix, _pairs(block, directions))
    each = found.values.new_tensor(signs) / math.sqrt(2 * len(signs) * len(found.values))
    rows = (found.right[:, None] * each[:, None]).flatten(0, 1)
    columns = (found.left[:, :, None] * each).flatten(1)
    return rows, columns, SLOPES[block.activation] * found.values.mean().item() / 2


def _one_matrix(block: Linear, mean: Value, _: int) -> Outcome:
    if block.activation == "z_tanh_z":
        return _one_output(block, mean)
    assert isinstance(mean, Product)
    matrix = mean.dense()
    used = matrix if block.bias else matrix[:, :-1]
    length = torch.linalg.vector_norm(used)
    unit = used / length.clamp_min(torch.finfo(used.dtype).tiny)
    direction = {"linear.weight": unit[:, : matrix.shape[1] - 1]}
    if block.bias:
        direction["linear.bias"] = unit[:, -1]
    slope = SLOPES[block.activation] if block.activation else 1.0
    return _along(slope * length.item(), 1, direction)


def _one_output(block: Linear, mean: Value) -> Outcome:
    if not block.bias:
        mean = without_constant(mean) if isinstance(mean, Product) else mean[:, :-1, :-1]
    leading = best(largest_of_each(mean, STEPS).values, LEADING)
    values, vectors = largest_of(mean, leading)
    top = int(values.argmax())
    unit = vectors.new_zeros(mean.shape[0], mean.shape[1])
    unit[leading[top]] = vectors[top]
    direction = {"linear.weight": unit[:, : len(unit)]}
    if block.bias:
        direction["linear.bias"] = unit[:, -1]
    return _along(values[top].item(), 2, direction)  # half of the curvature, which is 2


FORMS: dict[type, ClosedForm] = {
    Bottleneck: ClosedForm(lambda block: Matrix(norm=block.norm), _two_matrices),
    ConvBottleneck: ClosedForm(
        lambda block: (TwoConvolutions if block.spatial == "both" else Convolution)(block.kernel),
        _two_convolutions,
    ),
    Linear: ClosedForm(
        lambda block: Squares() if block.activation == "z_tanh_z" else Matrix(norm=False),
        _one_matrix,
    ),
    SelfAttention: ClosedForm(attention_form.context, attention_form.outcome),
}
