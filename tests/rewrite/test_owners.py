"""Attributes that copy a width follow it, so that a model's own forward goes on working."""

import torch
from torch import Tensor, nn

import topograph as tg


class Attention(nn.Module):
    """Heads by attributes, as most implementations have them."""

    def __init__(self, dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.dim = dim
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(rows, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(rows, tokens, -1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = 12
        self.stem, self.attention, self.head = nn.Linear(5, 12), Attention(), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[-1] != self.hidden:
            raise ValueError("the width is not what the module was built for")
        return self.head(x + self.attention(x))


X = torch.randn(2, 7, 5)


def changed(mutation):
    torch.manual_seed(0)
    model = Block().eval()
    traced = tg.trace(model, (X,))
    return model, tg.apply(traced, tg.plan(traced, [mutation])).after


def test_heads_and_their_attribute_follow_each_other():
    model, after = changed(tg.NarrowLayer(where=tg.named("attention.qkv"), to=24))
    kept = tg.recompile(after)
    assert (kept.attention.num_heads, kept.attention.head_dim) == (2, 4)
    assert kept.attention.dim == 12  # also the width of the stream, which stays
    assert (model.attention.num_heads, model.attention.qkv.out_features) == (3, 36)
    assert not after.hosts
    assert type(kept.attention).forward is Attention.forward
    assert torch.equal(kept.eval()(X), after.module.eval()(X))
    assert kept(X[:1, :3]).shape == (1, 3, 2)


def test_a_width_that_a_forward_compares_follows():
    model, after = changed(tg.WidenLayer(where=tg.named("stem"), to=16))
    kept = tg.recompile(after).eval()
    assert (kept.hidden, model.hidden) == (16, 12)
    assert torch.equal(kept(X), after.module.eval()(X))
    assert torch.allclose(kept(X), model(X), atol=1e-6)


class Stubborn(nn.Module):
    """Has a width in its own code, where no attribute can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).reshape(-1, 2, 4).tanh().reshape(-1, 8))


def test_a_width_in_the_code_itself_makes_the_module_run_its_graph():
    model = nn.Sequential(nn.Linear(5, 5), Stubborn()).eval()
    x = torch.randn(3, 5)
    traced = tg.trace(model, (x,))
    plan = tg.plan(traced, [tg.NarrowLayer(where=tg.named("1.a"), to=4)])
    after = tg.apply(traced, plan).after
    assert after.hosts == {"1"}
    kept = tg.recompile(after).eval()
    assert isinstance(kept[1], Stubborn)
    assert torch.equal(kept(x), after.module.eval()(x))
    assert "1 will run its recorded graph" in str(plan)
