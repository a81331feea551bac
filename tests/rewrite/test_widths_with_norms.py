"""A residual stream under norms is widened by any number of units, and keeps its function."""

import pytest
import torch
from torch import Tensor, nn

import topograph as tg


class Plain(nn.Module):
    """A root mean square with an epsilon of another name, as language models have it."""

    def __init__(self, width: int, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(width) + 1 - offset)
        self.variance_epsilon, self.offset = 1e-3, offset

    def forward(self, x: Tensor) -> Tensor:
        root = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.offset + self.weight) * (x * root)


class PlainRmsNorm(Plain):
    pass


class Stream(nn.Module):
    """Pre-norm blocks; the embedding is the head's weight where it is tied."""

    def __init__(self, norm, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.norms = nn.Embedding(11, 6), nn.ModuleList(norm() for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(6, 10) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(10, 6) for _ in range(2))
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            x = x + down(torch.tanh(up(norm(x))))
        return self.head(self.norms[-1](x))


def layer_norm():
    norm = nn.LayerNorm(6, eps=1e-3)
    nn.init.normal_(norm.weight, 1, 0.1)
    nn.init.normal_(norm.bias, 0, 0.1)
    return norm


NORMS = {
    "layer": layer_norm,
    "rms": lambda: nn.RMSNorm(6, eps=1e-3),
    "plain": lambda: PlainRmsNorm(6, 0.0),
    "offset": lambda: PlainRmsNorm(6, 1.0),
}
WORDS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("to", [7, 9, 12])
def test_any_width_keeps_the_function_and_every_new_unit_learns(name, tied, to):
    torch.manual_seed(0)
    model = Stream(NORMS[name], tied).eval()
    traced = tg.trace(model, (WORDS,))
    plan = tg.plan(traced, [tg.WidenLayer(where=tg.named("down.0"), to=to)])
    whole = to == 12 and not tied
    assert plan.changes[0].mutation.how == ("duplicate" if whole else HOW[name])
    wider = tg.recompile(tg.apply(traced, plan).after)
    assert (wider.embed.embedding_dim, wider.head.in_features) == (to, to)
    assert (wider.head.weight is wider.embed.weight) is tied
    assert torch.allclose(wider.eval()(WORDS), model(WORDS), atol=1e-6)
    before = {path: p.detach().clone() for path, p in wider.named_parameters()}
    optimizer = torch.optim.SGD(wider.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits = wider.train()(WORDS)
        nn.functional.cross_entropy(logits.flatten(0, 1), WORDS.roll(1, 1).flatten()).backward()
        optimizer.step()
    still = {p for p, value in wider.named_parameters() if torch.equal(value, before[p])}
    assert not still
    assert not torch.equal(wider.down[0].weight[6:], before["down.0.weight"][6:])
    assert not torch.equal(wider.up[0].weight[:, 6:], before["up.0.weight"][:, 6:])


HOW = {"layer": "mean", "rms": "silent", "plain": "silent", "offset": "silent"}


class PostNorm(nn.Module):
    """The norm's own output goes on along the stream, so that no new unit stays at the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 6), layer_norm()
        self.inner, self.last, self.head = nn.Linear(6, 6), layer_norm(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(self.last(x + self.inner(x)))


def test_behind_a_norm_only_whole_copies_do():
    torch.manual_seed(0)
    traced = tg.trace(PostNorm().eval(), (torch.randn(4, 5),))
    with pytest.raises(tg.RefusedError, match="only copies of all 6 keep the function"):
        tg.plan(traced, [tg.WidenLayer(where=tg.named("stem"), to=8)])
    assert tg.plan(traced, [tg.WidenLayer(where=tg.named("stem"), to=12)])
    with pytest.raises(tg.RefusedError, match="that start mean change the function"):
        tg.plan(traced, [tg.WidenLayer(where=tg.named("stem"), to=8, how="mean")])
