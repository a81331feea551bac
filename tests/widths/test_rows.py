"""The same law for rows and sequences: linear layers, attention, recurrence, moves of entries."""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.widths.test_renaming import Calls, expect, row, seq


def linears(**sizes):
    return {name: nn.Linear(*pair) for name, pair in sizes.items()}


def heads(count, x):
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def attend(m, x):
    q, k, v = (heads(2, part(x)) for part in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(q, k, v)
    return m.o(y.transpose(1, 2).flatten(2))


def fused(m, x):
    q, k, v = m.qkv(x).view(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
    return m.o(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 8))


def repeat_kv(m, x):
    q, k, v = heads(4, m.q(x)), heads(2, m.k(x)), heads(2, m.v(x))
    k, v = (
        t[:, :, None].expand(t.shape[0], 2, 2, t.shape[2], t.shape[3]).reshape(t.shape[0], 4, -1, 3)
        for t in (k, v)
    )
    return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def shared_kv(m, x):
    q, k, v = heads(4, m.q(x)), heads(2, m.k(x)), heads(2, m.v(x))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.o(y.transpose(1, 2).flatten(2))


def rotary(m, x):
    q = heads(2, m.q(x))
    angle = torch.cat([m.f.weight, m.f.weight], -1)
    q = q * angle.cos() + torch.cat([-q[..., q.shape[-1] // 2 :], q[..., : q.shape[-1] // 2]], -1)
    return m.o(q.transpose(1, 2).flatten(2))


def tied(m, x):
    return F.linear(m.b(torch.tanh(m.a(x))), m.b.weight.t())


ROWS = {
    "residual": (
        lambda: Calls(lambda m, x: m.c(m.a(x) + m.b(torch.relu(m.a(x)))),
                      **linears(a=(6, 8), b=(8, 8), c=(8, 3))),
        {"a": 8, "c": 3},
    ),
    "one module twice": (
        lambda: Calls(lambda m, x: m.c(m.b(m.b(m.a(x)))), **linears(a=(6, 8), b=(8, 8), c=(8, 3))),
        {"a": 8, "c": 3},
    ),
    "weight used as its own transposed": (
        lambda: Calls(tied, **linears(a=(6, 8), b=(8, 5))), {"a": 8, "b": 5},
    ),
    "cat and chunk with an offset": (
        lambda: Calls(lambda m, x: m.c(torch.cat(torch.cat([m.a(x), m.b(x)], -1).chunk(2, -1)[::-1], -1)),
                      **linears(a=(6, 3), b=(6, 5), c=(8, 2))),
        {"a": 3, "b": 4, "c": 2},
    ),
    "halves that gate": (
        lambda: Calls(lambda m, x: m.b(F.glu(m.a(x))), **linears(a=(6, 8), b=(4, 2))),
        {"a": 4, "b": 2},
    ),
    "gate layer": (lambda: seq(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 2)), {"0": 4, "2": 2}),
    "slices": (
        lambda: Calls(lambda m, x: m.b(m.a(x)[..., 2:-1]) + m.c(m.a(x)[..., :2]),
                      **linears(a=(6, 8), b=(5, 3), c=(2, 3))),
        {"a#1": 2, "a#2": 5, "b": 3},
    ),
    "write to a slice": (
        lambda: Calls(written, **linears(a=(6, 3), b=(8, 2))), {"a": 3, "b": 2, "b.weight.1#1": 5},
    ),
    "narrow": (
        lambda: Calls(lambda m, x: m.b(m.a(x).narrow(2, 2, 4)), **linears(a=(6, 8), b=(4, 2))),
        {"a#1": 2, "a#2": 4, "a#3": 2, "b": 2},
    ),
    "reversed order": (
        lambda: Calls(lambda m, x: m.b(m.a(x).flip(0, 2)), **linears(a=(6, 8), b=(8, 2))),
        {"b": 2},
    ),
    "rolled without an axis": (
        lambda: Calls(lambda m, x: m.b(m.a(x).roll(1)), **linears(a=(6, 8), b=(8, 2))), {"b": 2},
    ),
    "sorted units": (
        lambda: Calls(lambda m, x: m.b(m.a(x).sort(-1).values), **linears(a=(6, 8), b=(8, 2))),
        {"b": 2},
    ),
    "one unit read": (
        lambda: Calls(lambda m, x: m.b(x) + m.a(x)[..., 3:4] * m.a(x)[..., [5]],
                      **linears(a=(6, 8), b=(6, 2))),
        {"b": 2},
    ),
    "two index tensors": (
        lambda: Calls(lambda m, x: m.b(m.a(x)[torch.arange(2), x.long().sum((1, 2)) % 5]),
                      **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "int before an index tensor": (
        lambda: Calls(lambda m, x: m.b(m.a(x)[0, torch.arange(3)]), **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "mask over places": (
        lambda: Calls(lambda m, x: m.b(m.a(x)[x.sum(-1) > 0].mean(0)), **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "gathered places": (
        lambda: Calls(
            lambda m, x: m.b(m.a(x).gather(
                1, x[:, :3, :1].long().abs().clamp(max=4).expand(-1, -1, m.a(x).shape[-1]))),
            **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "gathered units": (
        lambda: Calls(lambda m, x: m.b(x) + m.a(x).gather(2, x[..., :2].long().abs().clamp(max=7)),
                      **linears(a=(6, 8), b=(6, 2))),
        {},
    ),
    "largest places": (
        lambda: Calls(lambda m, x: m.b(m.a(x).topk(2, 1).values), **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "repeated units": (
        lambda: Calls(lambda m, x: m.c(m.a(x).repeat_interleave(3, -1) + m.b(m.a(x).repeat(1, 1, 3))),
                      **linears(a=(6, 4), b=(12, 12), c=(12, 2))),
        {"a": 4, "c": 2},
    ),
    "spectrum of places": (
        lambda: Calls(lambda m, x: m.b(torch.fft.fft(m.a(x), dim=1).real), **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "spectrum of units": (
        lambda: Calls(lambda m, x: m.b(torch.fft.rfft(m.a(x)).abs()), **linears(a=(6, 8), b=(5, 2))),
        {"b": 2},
    ),
    "windows of places": (
        lambda: Calls(lambda m, x: m.b(m.a(x).unfold(1, 2, 1).mean(-1)), **linears(a=(6, 8), b=(8, 2))),
        {"a": 8, "b": 2},
    ),
    "layer norm and rms norm": (
        lambda: seq(nn.Linear(6, 8), nn.LayerNorm(8), nn.RMSNorm(8), nn.Linear(8, 2)),
        {"0": 8, "3": 2},
    ),
    "einsum": (
        lambda: Calls(lambda m, x: torch.einsum("...i,oi->...o", m.a(x), m.b.weight),
                      a=nn.Linear(6, 8), b=nn.Linear(8, 3, bias=False)),
        {"a": 8, "b": 3},
    ),
    "addmm with names": (
        lambda: Calls(
            lambda m, x: torch.addmm(m.b.bias, mat1=m.a(x).flatten(0, 1), mat2=m.b.weight.t()),
            **linears(a=(6, 8), b=(8, 3))),
        {"a": 8, "b": 3},
    ),
    "bilinear": (
        lambda: Calls(lambda m, x: m.c(m.a(x), m.b(x)), **linears(a=(6, 4), b=(6, 5)),
                      c=nn.Bilinear(4, 5, 3)),
        {"a": 4, "b": 5, "c": 3},
    ),
    "cosine": (
        lambda: Calls(lambda m, x: m.c(m.a(x), m.b(x)), **linears(a=(6, 4), b=(6, 4)),
                      c=nn.CosineSimilarity(-1)),
        {"a": 4},
    ),
    "attention": (
        lambda: Calls(attend, **linears(q=(6, 8), k=(6, 8), v=(6, 10), o=(10, 6))),
        {"q#1": 2, "q#2": 4, "v#2": 5, "o": 6},
    ),
    "fused attention": (
        lambda: Calls(fused, **linears(qkv=(6, 24), o=(8, 6))), {"qkv#2": 2, "qkv#3": 4, "o": 6},
    ),
    "repeated keys": (
        lambda: Calls(repeat_kv, **linears(q=(6, 12), k=(6, 6), v=(6, 6), o=(12, 6))),
        {"q#1": 2, "q#2": 2, "q#3": 3, "v#2": 3, "o": 6},
    ),
    "shared keys": (
        lambda: Calls(shared_kv, **linears(q=(6, 12), k=(6, 6), v=(6, 6), o=(12, 6))),
        {"q#1": 2, "q#3": 3, "v#2": 3, "o": 6},
    ),
    "rotated queries": (
        lambda: Calls(rotary, **linears(q=(6, 8), o=(8, 2)), f=nn.Linear(2, 5, bias=False)),
        {"q#1": 2, "q#2": 2, "o": 2},
    ),
    "lstm": (
        lambda: Calls(lambda m, x: m.b(m.r(m.a(x))[0]), **linears(a=(6, 4), b=(5, 2)),
                      r=nn.LSTM(4, 5, num_layers=2, batch_first=True)),
        {"a": 4, "r.weight_ih_l0#2": 5, "b": 2},
    ),
    "gru in two directions": (
        lambda: Calls(lambda m, x: m.b(m.r(m.a(x))[0]), **linears(a=(6, 4), b=(10, 2)),
                      r=nn.GRU(4, 5, num_layers=2, bidirectional=True)),
        {"a": 4, "r.weight_ih_l0#2": 5, "b": 2},
    ),
    "rnn with its last state": (
        lambda: Calls(lambda m, x: m.b(m.r(x)[1]), b=nn.Linear(5, 2), r=nn.RNN(6, 5, bias=False)),
        {"r.weight_ih_l0": 5, "b": 2},
    ),
    "one step": (
        lambda: Calls(lambda m, x: m.b(m.r(x[:, 0], m.a(x[:, 1]))), **linears(a=(6, 5), b=(5, 2)),
                      r=nn.GRUCell(6, 5)),
        {"a": 5, "b": 2},
    ),
}  # fmt: skip


def written(m, x):
    y = torch.zeros(x.shape[0], x.shape[1], 8, dtype=x.dtype)
    y[..., 5:] = m.a(x)
    return m.b(y)


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    make, sizes = ROWS[name]
    expect(make(), (row(2, 5, 6),), sizes)
