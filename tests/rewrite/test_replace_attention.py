"""Attention in its two implementations, against each other and against torch's own formula."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.rewrite.laws import assert_same, change, snapshot
from tests.zoo import BY_NAME

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = 1e-12
MATH = tg.ReplaceLayer(
    where=tg.after("scaled_dot_product_attention"), block=tg.Attention(implementation="math")
)
SDPA = tg.ReplaceLayer(where=tg.after("softmax"), block=tg.Attention(implementation="sdpa"))


class Layer(nn.Module):
    """Four heads of width two around a function of ``(q, k, v, self)``."""

    def __init__(self, attend, groups=4):
        super().__init__()
        torch.manual_seed(1)
        self.q, self.o, self.groups = nn.Linear(8, 8), nn.Linear(8, 8), groups
        self.k, self.v = nn.Linear(8, 2 * groups), nn.Linear(8, 2 * groups)
        self.bias = nn.Parameter(torch.randn(5, 5))
        self.register_buffer("open", torch.rand(5, 5) > 0.4)
        self.open[2] = False  # a row that sees nothing
        self.soft, self.attend = nn.Softmax(-1), attend
        self.double()

    def forward(self, x):
        parts = [p(x).unflatten(-1, (-1, 2)).transpose(1, 2) for p in (self.q, self.k, self.v)]
        return self.o(self.attend(*parts, self).transpose(1, 2).flatten(2))


def applied(model, mutation, inputs=(X,)):
    traced = tg.trace(model, inputs)
    before = snapshot(traced)
    plan = tg.plan(traced, [mutation])
    assert all(check.passed for check in plan.checks), str(plan)
    revision = tg.apply(traced, plan)
    assert_same(before, snapshot(tg.undo(revision)))
    return traced, revision


def gradients(module, x):
    module = copy.deepcopy(module).train()
    torch.manual_seed(0)
    module(x).square().sum().backward()
    return {path: p.grad for path, p in module.named_parameters() if p.grad is not None}


CALLS = {
    "plain": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v),
    "causal": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "scale": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "mask": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m.open),
    "bias": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias),
    "shut": lambda q, k, v, m: F.scaled_dot_product_attention(
        q, k, v, m.bias.masked_fill(m.open.logical_not(), -math.inf)
    ),
    "dropout": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, None, 0.4),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_call_becomes_its_formula(name):
    traced, revision = applied(Layer(CALLS[name]), MATH)
    assert change(traced.module, revision.after.module, traced.inputs) <= NOISE
    operations = [node.op for node in revision.after.topology.nodes]
    assert "scaleddotproductattention" not in operations
    assert operations.count("softmax") == 1
    wanted, found = gradients(traced.module, X), gradients(revision.after.module, X)
    assert wanted.keys() == found.keys()
    assert all((wanted[key] - found[key]).abs().max() <= NOISE for key in wanted)
    assert revision.after.topology.parameters == traced.topology.parameters


def test_grouped_heads_are_repeated():
    def grouped(q, k, v, m):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    traced, revision = applied(Layer(grouped, groups=2), MATH)
    assert change(traced.module, revision.after.module, traced.inputs) <= NOISE


def scores(q, k):
    return q @ k.transpose(-2, -1)


CHAINS = {
    "divided": lambda q, k, v, m: F.softmax(scores(q, k) / math.sqrt(2), -1) @ v,
    "multiplied": lambda q, k, v, m: torch.matmul(torch.softmax(scores(q, k) * 0.3, dim=-1), v),
    "query first": lambda q, k, v, m: (q * 0.5 @ k.transpose(2, 3)).softmax(3) @ v,
    "biased": lambda q, k, v, m: m.soft(scores(q, k) * 0.5 + m.bias) @ v,
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_formula_becomes_the_call_and_back(name):
    traced, revision = applied(Layer(CHAINS[name]), SDPA)
    assert change(traced.module, revision.after.module, traced.inputs) <= NOISE
    operations = [node.op for node in revision.after.topology.nodes]
    assert operations.count("scaleddotproductattention") == 1
    assert "softmax" not in operations
    assert "matmul" not in operations
    wanted, found = gradients(traced.module, X), gradients(revision.after.module, X)
    assert all((wanted[key] - found[key]).abs().max() <= NOISE for key in wanted)
    back = tg.apply(revision.after, tg.plan(revision.after, [MATH])).after
    assert change(traced.module, back.module, traced.inputs) <= NOISE


def late(q, k, v, m):
    return torch.softmax((scores(q, k) + m.bias) * 0.5, -1) @ v


def seen(q, k, v, m):
    weights = torch.softmax(scores(q, k), -1)
    return weights @ v + weights.sum()


def shared(q, k, v, m):
    return torch.softmax(scores(q, k), -1) @ v[:, :, :, :] * scores(q, k).mean()


OTHERS = [
    (late, "adds a mask before the scale"),
    (seen, "what softmax makes is not read by one matrix product alone"),
    (lambda q, k, v, m: torch.softmax(scores(q, k), -2) @ v, "no softmax over the last axis"),
    (lambda q, k, v, m: torch.softmax(q @ k.mT @ k @ k.mT, -1) @ v, "not multiply by a transposed"),
    (lambda q, k, v, m: torch.softmax(scores(q, k).exp(), -1) @ v, "exp is no scale or mask"),
    (lambda q, k, v, m: torch.softmax(scores(q, k), -1) @ v[:, :1], "are broadcast"),
    (
        lambda q, k, v, m: torch.softmax(scores(q, k), -1, dtype=torch.float64) @ v,
        "softmax computes in another type",
    ),
]


@pytest.mark.parametrize(("attend", "message"), OTHERS)
def test_what_is_not_surely_attention_is_refused(attend, message):
    traced = tg.trace(Layer(attend), (X,))
    with pytest.raises(tg.RefusedError, match=message):
        tg.plan(traced, [SDPA])


def test_the_rest_of_a_transformer_stays():
    example = BY_NAME["vit"]
    traced, revision = applied(example.model(), MATH, example.inputs)
    eps = torch.finfo(torch.float32).eps
    assert change(traced.module, revision.after.module, traced.inputs) <= 32 * eps
    assert list(revision.after.module.state_dict()) == list(traced.module.state_dict())
    inner = nn.Sequential(Layer(CALLS["plain"]), nn.Tanh())
    _, revision = applied(inner, MATH)
    kept = tg.recompile(revision.after)  # the layer runs its graph, the whole keeps its class
    assert type(kept) is nn.Sequential
    assert torch.equal(kept(X), revision.after.module(X))
