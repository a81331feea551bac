"""What limits the correlation M, in float64: the residual stream, its head, and changes of basis.

Those around one Linear, the sum over the uses of a value, and the rescaling of an edge are in
`test_statistics`.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data
from topograph.sensitivity.statistics import Matrix
from topograph.sensitivity.tape import Probe, sweep
from topograph.spec import At

CLOSE = {"rtol": 1e-11, "atol": 1e-14}


class Stream(nn.Module):
    """A residual stream of blocks of two matrices, without a norm."""

    def __init__(self, depth=3):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 4), nn.Linear(4, 3)
        self.inner = nn.ModuleList(nn.Linear(4, 6) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(6, 4) for _ in range(depth))

    def forward(self, x):
        h = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(torch.tanh(inner(h)))
        return self.head(h)


def made(network, batches):
    torch.manual_seed(0)
    return tg.trace(network().double(), batches[0][:1])


def correlations(traced, batches, names):
    """Return M of some nodes, the mean over batches, without the column of ones."""
    heard = {name: Matrix(norm=False) for name in names}
    probes = [Probe(At(node=name), name, found) for name, found in heard.items()]
    sweep(traced, batches, F.cross_entropy, probes)
    return [found.total[:, :-1] / len(batches) for found in heard.values()]


def gradients(traced, batches):
    """Return -dJ/dW of every parameter, and the parameters."""
    values = {path: p.detach() for path, p in traced.module.named_parameters()}
    parameters = list(traced.module.parameters())
    loss = sum(F.cross_entropy(traced.module(x), y) for x, y in batches) / len(batches)
    found = torch.autograd.grad(loss, parameters)
    return {path: -part for path, part in zip(values, found, strict=True)}, values


def test_what_a_block_of_two_matrices_changes_on_the_stream():
    """M_{t+1} - M_t = G_{W2} W2^T + g_{b2} b2^T - W1^T G_{W1}; at the head M = W_o^T G_o."""
    batches = data("mlp", 3)
    traced = made(Stream, batches)
    g, w = gradients(traced, batches)
    stream = correlations(traced, batches, ["stem", "add", "add_1", "add_2"])
    for t in range(3):
        written = g[f"outer.{t}.weight"] @ w[f"outer.{t}.weight"].T
        bias = torch.outer(g[f"outer.{t}.bias"], w[f"outer.{t}.bias"])
        read = w[f"inner.{t}.weight"].T @ g[f"inner.{t}.weight"]
        torch.testing.assert_close(stream[t + 1] - stream[t], written + bias - read, **CLOSE)
        assert (stream[t + 1] - stream[t]).norm() > 1e-3  # away from a stationary point
    torch.testing.assert_close(stream[3], w["head.weight"].T @ g["head.weight"], **CLOSE)


def test_at_a_stationary_point_the_whole_stream_has_no_derivative():
    """So a place there says nothing, while the adjoints are far from 0."""
    batches = data("mlp", 1, size=64)
    traced = made(lambda: Stream(1), batches)
    x, y = batches[0]
    optimizer = torch.optim.LBFGS(
        traced.module.parameters(), max_iter=2000, max_eval=4000, tolerance_grad=1e-10,
        tolerance_change=1e-16, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        weights = sum(p.square().sum() for p in traced.module.parameters())
        loss = F.cross_entropy(traced.module(x), y) + 1e-2 * weights
        loss.backward()
        return loss

    optimizer.step(closure)
    g, w = gradients(traced, batches)
    for path, part in g.items():  # only the decay is left: G = lambda W
        torch.testing.assert_close(part, 2e-2 * w[path], rtol=1e-4, atol=1e-7)
    (head,) = correlations(traced, batches, ["add"])
    torch.testing.assert_close(
        head, 2e-2 * w["head.weight"].T @ w["head.weight"], rtol=1e-3, atol=1e-7
    )


class Turned(nn.Module):
    """Writes T x on an edge, and reads it through the inverse of T."""

    def __init__(self, turn):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)
        self.register_buffer("turn", turn)
        self.register_buffer("back", torch.linalg.inv(turn))

    def forward(self, x):
        h = F.linear(torch.tanh(self.a(x)), self.turn)
        return self.b(F.linear(h, self.back))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_another_basis_turns_m_and_keeps_its_values_if_it_is_orthogonal(orthogonal):
    """x -> T x gives T^-T M T^T."""
    batches = data("mlp", 2)
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turn = torch.linalg.qr(turn).Q if orthogonal else turn
    place = tg.InsertLayer(where=tg.at("linear"), block=tg.Bottleneck(units=1, activation="tanh"))
    found, scores = [], []
    for matrix in (torch.eye(4).double(), turn):
        traced = made(lambda matrix=matrix: Turned(matrix), batches)
        found += correlations(traced, batches, ["linear"])
        scores += tg.score(traced, batches, F.cross_entropy, [place])
    torch.testing.assert_close(found[1], torch.linalg.inv(turn).T @ found[0] @ turn.T, **CLOSE)
    values = [torch.linalg.svdvals(matrix) for matrix in found]
    assert torch.allclose(*values, rtol=1e-9) == orthogonal
    assert (scores[1].value == pytest.approx(scores[0].value, rel=1e-9)) == orthogonal
