"""An edit of one space against the same model written by hand with the other width.

Compared are the shapes of all tensors, the sizes in layers' attributes, and every number in the
graph: one that differs between the two models must be known to the spaces, with its new value.
"""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from tests.widths import test_rows as rows
from tests.widths.laws import traced
from tests.widths.test_renaming import Calls, row, seq
from topograph.rewrite.numbers import numbers_after, read_at
from topograph.widths.indices import Index, Indices
from topograph.widths.spaces import widths


def linears(**sizes):
    return rows.linears(**sizes)


def vit(width, count, size, inner):
    """A block with fused projections, constants in views, and a positional parameter."""

    def forward(m, x):
        t = m.patch(x).flatten(2).mT
        t = torch.cat([m.token.weight[None].expand(x.shape[0], 1, width), t], 1) + m.place.weight
        q, k, v = m.qkv(m.norm(t)).view(-1, 5, 3, count, size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 5, count * size)
        t = t + m.out(y)
        return m.head((t + m.down(F.gelu(m.up(m.norm(t))))).mean(1))

    return Calls(
        forward, patch=nn.Conv2d(3, width, 4, 4), token=nn.Embedding(1, width),
        place=nn.Embedding(5, width), norm=nn.LayerNorm(width),
        **linears(qkv=(width, 3 * count * size), out=(count * size, width), up=(width, inner),
                  down=(inner, width), head=(width, 3)),
    )  # fmt: skip


def separate(count, size, values):
    def forward(m, x):
        q, k = (part(x).view(x.shape[0], -1, count, size).transpose(1, 2) for part in (m.q, m.k))
        v = m.v(x).unflatten(-1, (count, values)).transpose(1, 2)
        y = (q @ k.mT).softmax(-1) @ v
        return m.o(y.transpose(1, 2).reshape(x.shape[0], -1, count * values))

    pairs = {"q": count * size, "k": count * size, "v": count * values}
    return Calls(forward, **linears(**{n: (6, w) for n, w in pairs.items()}, o=(count * values, 6)))


def dense(first, second):
    def forward(m, x):
        y = torch.cat([x, m.a(x)], 1)
        z = torch.cat([y, m.b(y)], 1)
        return m.c(m.norm(z)[:, 1 : 3 + first + second])

    width = 3 + first + second
    return Calls(
        forward, a=nn.Conv2d(3, first, 1), b=nn.Conv2d(3 + first, second, 3, padding=1),
        norm=nn.BatchNorm2d(width), c=nn.Conv2d(width - 1, 2, 1),
    )  # fmt: skip


def split(first, second):
    def forward(m, x):
        a, b = m.a(x).split([first, second], -1)
        return m.b(a) + m.c(b) + m.d(torch.cat([a, b], -1)[..., first:])

    return Calls(
        forward, **linears(a=(6, first + second), b=(first, 2), c=(second, 2), d=(second, 2))
    )


def encoder(count, inner):
    width = count * 4
    layer = nn.TransformerEncoderLayer(width, count, inner, batch_first=True)
    return seq(nn.Linear(6, width), layer, nn.Linear(width, 2))


def transformer(count, inner):
    """Both halves in one layer."""
    width = count * 4
    whole = nn.Transformer(width, count, 1, 2, inner, batch_first=True)
    return Calls(lambda m, x: m.t(m.a(x), m.b(x)), **linears(a=(6, width), b=(6, width)), t=whole)


def odd_attention(count):
    """Keys and values of other widths, and the weights of the heads returned."""
    many = nn.MultiheadAttention(count * 3, count, kdim=6, vdim=7, batch_first=True)

    def forward(m, x):
        y, seen = m.t(m.a(x), x, m.b(x), average_attn_weights=False)
        return m.c(y), seen.mean((2, 3))

    return Calls(forward, t=many, **linears(a=(6, count * 3), b=(6, 7), c=(count * 3, 2)))


IMAGE, ROWS = (row(2, 3, 8, 8).float(),), (row(2, 5, 6).float(),)
CASES = {
    "linear": (lambda n: seq(nn.Linear(6, n), nn.LayerNorm(n), nn.Linear(n, 2)), ROWS, "0", 8, 12),
    "embedding": (
        lambda n: seq(nn.Embedding(9, n), nn.RMSNorm(n), nn.Linear(n, 2)),
        (torch.zeros(2, 3, dtype=torch.long),), "0", 8, 5,
    ),
    "bag": (
        lambda n: seq(nn.EmbeddingBag(9, n), nn.Linear(n, 2)),
        (torch.zeros(2, 3, dtype=torch.long),), "0", 8, 5,
    ),
    "convolution": (
        lambda n: seq(nn.Conv2d(3, n, 3), nn.BatchNorm2d(n), nn.PReLU(n), nn.ConvTranspose2d(n, 2, 2)),
        IMAGE, "0", 4, 7,
    ),
    "depthwise": (
        lambda n: seq(nn.Conv2d(3, n, 1), nn.Conv2d(n, n, 3, groups=n), nn.Conv2d(n, 2, 1)),
        IMAGE, "0", 4, 7,
    ),
    "groups": (
        lambda n: seq(nn.Conv2d(3, 4 * n, 1), nn.GroupNorm(n, 4 * n), nn.Conv2d(4 * n, 2 * n, 1, groups=n)),
        IMAGE, "0#1", 2, 3,
    ),
    "inside groups": (
        lambda n: seq(nn.Conv2d(3, 2 * n, 1), nn.GroupNorm(2, 2 * n), nn.Conv2d(2 * n, 2, 1)),
        IMAGE, "0#2", 4, 3,
    ),
    "flatten": (
        lambda n: seq(nn.Conv2d(3, n, 3), nn.Flatten(), nn.Unflatten(1, (n, 36)), nn.Flatten(), nn.Linear(n * 36, 2)),
        IMAGE, "0", 4, 5,
    ),
    "pixel shuffle": (
        lambda n: seq(nn.Conv2d(3, 4 * n, 1), nn.PixelShuffle(2), nn.Conv2d(n, 2, 1)), IMAGE, "0", 3, 5,
    ),
    "one dimension": (
        lambda n: seq(nn.Conv1d(5, n, 3), nn.BatchNorm1d(n), nn.Conv1d(n, 2, 1)), ROWS, "0", 4, 6,
    ),
    "three dimensions": (
        lambda n: seq(nn.Conv3d(2, n, 2), nn.BatchNorm3d(n), nn.Conv3d(n, 2, 1)),
        (torch.zeros(1, 2, 4, 4, 4),), "0", 4, 6,
    ),
    "lstm": (
        lambda n: Calls(lambda m, x: m.b(m.r(x)[0]), r=nn.LSTM(6, n, 2, bidirectional=True), b=nn.Linear(2 * n, 2)),
        ROWS, "r.weight_ih_l0#2", 4, 7,
    ),
    "bilinear": (
        lambda n: Calls(lambda m, x: m.b(m.a(x), x), a=nn.Linear(6, n), b=nn.Bilinear(n, 6, 3)),
        ROWS, "a", 4, 5,
    ),
    "tied": (
        lambda n: Calls(lambda m, x: F.linear(m.b(m.a(x)), m.b.weight.mT), **linears(a=(6, 8), b=(8, n))),
        ROWS, "b", 5, 9,
    ),
    "twice": (
        lambda n: Calls(lambda m, x: m.c(m.b(m.b(m.a(x)))), **linears(a=(6, n), b=(n, n), c=(n, 2))),
        ROWS, "a", 4, 5,
    ),
    "dense, first": (lambda n: dense(n, 5), IMAGE, "a", 4, 7),
    "dense, second": (lambda n: dense(4, n), IMAGE, "b", 5, 3),
    "split, first": (lambda n: split(n, 5), ROWS, "a#1", 3, 4),
    "split, second": (lambda n: split(3, n), ROWS, "a#2", 5, 4),
    "separate, heads": (lambda n: separate(n, 3, 5), ROWS, "q#1", 2, 4),
    "separate, keys": (lambda n: separate(2, n, 5), ROWS, "q#2", 3, 4),
    "separate, values": (lambda n: separate(2, 3, n), ROWS, "v#2", 5, 4),
    "vit, stream": (lambda n: vit(n, 2, 4, 9), IMAGE, "patch", 8, 10),
    "vit, heads": (lambda n: vit(8, n, 4, 9), IMAGE, "qkv#2", 2, 3),
    "vit, head size": (lambda n: vit(8, 2, n, 9), IMAGE, "qkv#3", 4, 5),
    "vit, inner": (lambda n: vit(8, 2, 4, n), IMAGE, "up", 9, 12),
    "encoder, heads": (lambda n: encoder(n, 9), ROWS, "0#1", 2, 3),
    "encoder, inner": (lambda n: encoder(2, n), ROWS, "1.linear1", 9, 5),
    "transformer, heads": (lambda n: transformer(n, 9), ROWS, "a#1", 2, 4),
    "attention, heads": (odd_attention, ROWS, "t.q_proj_weight#1", 2, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_edit_gives_the_model_that_is_written_by_hand(name):
    make, inputs, space, old, new = CASES[name]
    before, after = (traced(make(n), *inputs) for n in (old, new))
    known = widths(before)
    dim = known.dims[space]
    assert dim.size == old
    assert dim.lock is None
    indices = Indices({id(dim): Index(torch.zeros(new, dtype=torch.long), torch.ones(new))})
    wanted = dict((*after.module.named_parameters(), *after.module.named_buffers()))
    for path, tensor in known.tensors.items():
        sizes = tuple(indices.size(d) for d in known.flow.tensors[id(tensor)])
        assert (path, sizes) == (path, tuple(wanted[path].shape))
    for path, field, size, entry in known.flow.attributes:
        value = getattr(after.module.get_submodule(path), field)
        value = value if entry is None else value[entry]
        assert (path, field, indices.size(size)) == (path, field, value)
    assert_numbers_agree(before, after, known, indices)


def assert_numbers_agree(before, after, known, indices):
    computed = numbers_after(known.flow, indices)
    written = {}
    for node, way, dim, sign in known.flow.written:
        written[node.name, way] = sign * indices.size(dim)
    pairs = list(zip(before.module.graph.nodes, after.module.graph.nodes, strict=True))
    for old, new in pairs:
        assert (old.name, old.op) == (new.name, new.op)
        if old.name in known.flow.chunked:
            continue
        for way, value in numbers(new, old):
            got = written.get((old.name, way), read_at(old, way))
            if isinstance(got, fx.Node):
                continue
            assert (old.name, way, got) == (old.name, way, value)
        for way, value in ((w, n) for (name, w), n in written.items() if name == old.name):
            given = read_at(old, way)
            if isinstance(given, fx.Node):
                assert computed.get(given.name, value) == value


def numbers(node, twin, way=None):
    """Yield all whole numbers in a call's arguments with the way to them."""
    if way is None:
        for place in ("args", "kwargs"):
            yield from numbers(getattr(node, place), twin, (place,))
    elif isinstance(node, tuple | list):
        for index, part in enumerate(node):
            yield from numbers(part, twin, (*way, index))
    elif isinstance(node, dict):
        for name, part in node.items():
            yield from numbers(part, twin, (*way, name))
    elif isinstance(node, slice):
        for name in ("start", "stop", "step"):
            yield from numbers(getattr(node, name), twin, (*way, name))
    elif type(node) is int:
        yield way, node
