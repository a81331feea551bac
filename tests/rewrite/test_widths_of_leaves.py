"""Recurrent layers, embeddings and torch's attention are resized whole, and still run."""

import pytest
import torch
from torch import Tensor, nn

import topograph as tg


class Words(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.memory = kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear(8 * (1 + bool(options.get("bidirectional"))), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.words(x))[0])


def changed(model, x, mutation):
    traced = tg.trace(model.eval(), (x,))
    revision = tg.apply(traced, tg.plan(traced, [mutation]))
    kept = tg.recompile(revision.after)
    assert torch.equal(kept.eval()(x), revision.after.module.eval()(x))
    kept.train()(x).sum().backward()
    assert all(p.grad is not None for p in kept.parameters())
    return kept.eval()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_a_recurrent_layer_gets_another_state(kind, options):
    torch.manual_seed(0)
    model, x = Words(kind, **options), torch.randint(0, 11, (2, 5))
    ways = 1 + bool(options.get("bidirectional"))
    wider = changed(model, x, tg.WidenLayer(where=tg.named("memory"), to=10 * ways))
    assert (wider.memory.hidden_size, model.memory.hidden_size) == (10, 8)
    assert torch.allclose(wider(x), model(x), atol=1e-6)
    narrow = changed(model, x, tg.NarrowLayer(where=tg.named("memory"), to=5 * ways))
    by_hand = kind(6, 5, **options)
    shapes = {path: p.shape for path, p in narrow.memory.named_parameters()}
    assert shapes == {path: p.shape for path, p in by_hand.named_parameters()}
    other = changed(model, x, tg.WidenLayer(where=tg.named("words"), to=9))
    assert (other.memory.input_size, other.words.embedding_dim) == (9, 9)
    assert torch.allclose(other(x), model(x), atol=1e-6)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 12), nn.Linear(12, 2)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def test_heads_of_torchs_own_attention_go_with_its_stream():
    torch.manual_seed(0)
    model, x = Attends(), torch.randn(2, 7, 5)
    narrow = changed(model, x, tg.NarrowLayer(where=tg.named("attention"), to=6))
    layer = narrow.attention
    assert (layer.embed_dim, layer.num_heads, layer.head_dim) == (6, 2, 3)
    assert (narrow.stem.out_features, narrow.head.in_features) == (6, 6)
    wider = changed(model, x, tg.WidenLayer(where=tg.named("attention"), to=15))
    assert (wider.attention.embed_dim, wider.attention.num_heads) == (15, 5)
    assert torch.allclose(wider(x), model(x), atol=1e-6)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        halves = (self.stem(x) * self.scale).chunk(2, -1)
        return self.head(halves[0])


@pytest.mark.parametrize(
    ("node", "said"), [("x", "an input"), ("scale", "a parameter"), ("chunk", "a chunk")]
)
def test_what_is_no_layer_is_refused_in_words(node, said):
    traced = tg.trace(Scaled(), (torch.randn(2, 4),))
    with pytest.raises(tg.RefusedError, match=f"{node}: it is {said}, no layer with a width; choo"):
        tg.plan(traced, [tg.WidenLayer(where=tg.at(node), to=8)])
