r"""The closed form of self-attention, whose weights are known at the start.

In a block :math:`f_t = \sum_h W_O^h \sum_\tau A^h_{t\tau} W_V^h \tilde g(x_\tau)` the weights A
depend on queries and keys alone, which are no part of the direction. So f is bilinear in
:math:`(W_V, W_O)`, exactly, and with

.. math:: M_h = \sum_{s,t} p_{s,t} \Big(\sum_\tau A^h_{s,t\tau}\,\tilde g(x_{s,\tau})\Big)^T

the derivative is :math:`D = \max_h \sigma_1(M_h) / 2`. One row of that head's :math:`W_V` goes
along the leading right singular vector, one column of its :math:`W_O` along the left, each over
:math:`\sqrt 2`.

Where keys start ``uniform``, :math:`W_K = 0`, all scores are 0 and all :math:`M_h` the same. That
is :math:`\sum_s (\sum_t p_{s,t}) (\mathrm{mean}_\tau\, \tilde g_{s,\tau})^T`; causal it has the
mean over the tokens up to t, with a mask that over the keys that t sees. Where they start
``similar`` the head of the largest :math:`\sigma_1` is put first, by the start of queries and keys.
"""

import math

from torch import Tensor

from topograph.rewrite.self_attention import channel_rows
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.contexts import Context
from topograph.sensitivity.leading import Triples, leading_triples
from topograph.sensitivity.products import Product
from topograph.sensitivity.rectangular import HALF, Derivative, Outcome
from topograph.sensitivity.scored import node_of
from topograph.spec import Refusal, SelfAttention


def context(block: SelfAttention) -> Context:
    """Return a fresh accumulator for what a block's derivative needs."""
    heads, units = (1, 0) if block.keys == "uniform" else (block.heads, block.units)
    beside = () if block.mask is None else (block.mask,)
    return Context(block.norm, block.causal, heads, units, beside)


def outcome(block: SelfAttention, mean: Tensor, directions: int) -> Outcome:
    """Return the derivative of a block from the mean over batches of its statistic, and its start.

    The start of queries and keys puts the best head first; it is empty where it is.
    """
    best, found = _best(block, mean, directions)
    each = HALF / math.sqrt(len(found.values))
    direction = {
        "value.weight": each * found.right[:, :-1],
        "value.bias": each * found.right[:, -1],
        "out.weight": each * found.left,
    }
    leading = Derivative(found.values.mean().item() / 2, 2, direction)
    return Outcome(leading, _first(block, mean, best) if best else {})


def _first(block: SelfAttention, mean: Tensor, head: int) -> dict[str, Tensor]:
    """Return queries and keys with a head and the first one swapped."""
    rows = channel_rows(block.heads * block.units, mean[0, :, :-1]).unflatten(0, (block.heads, -1))
    order = [head, *range(1, head), 0, *range(head + 1, block.heads)]
    swapped = rows[order].flatten(0, 1)
    return {"query.weight": swapped, "key.weight": swapped}


def mixes_tokens(scorer: str, mutation: AnyMutation) -> Refusal | None:
    """Return why a scorer of maps of one position cannot compare a mutation; None if it can."""
    if not isinstance(getattr(mutation, "block", None), SelfAttention):
        return None
    return Refusal(
        node=node_of(mutation),
        reason=f"{scorer} takes a block as a map of each position alone, and attention mixes them",
        fix='use scorer="topological_derivative" or "gradient_norm"',
    )


def _best(block: SelfAttention, mean: Tensor, directions: int) -> tuple[int, Triples]:
    """Return the head of the largest singular values, and its leading triples."""
    units = block.units * block.heads // len(mean)  # heads that are the same are one
    found = [leading_triples(Product((part,)), min(directions, units)) for part in mean]
    return max(enumerate(found), key=lambda head: head[1].values.sum().item())
