"""One matrix behind a curve without slope: all outputs' forms, their eigenvalues, their start."""

import operator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, measured, places_of
from tests.rewrite.laws import assert_laws, without_gradient
from tests.virtual_maps import falls_each
from topograph.sensitivity import curved
from topograph.sensitivity.closed_forms import outcome
from topograph.sensitivity.curved import Squares, largest_of_each
from topograph.sensitivity.products import Product
from topograph.sensitivity.tape import Probe, sweep
from topograph.spec import At

CURVED = tg.Linear(activation="z_tanh_z")
WITHOUT_BIAS = tg.Linear(activation="z_tanh_z", bias=False)


def rows(positions, outputs, inner, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(positions, outputs, generator=generator, dtype=torch.float64)
    x = torch.randn(positions, inner, generator=generator, dtype=torch.float64)
    return p.to(dtype), x.to(dtype)


def dense(p, x):
    return torch.einsum("si,sa,sb->iab", p, x, x)


@pytest.mark.parametrize("block", [CURVED, WITHOUT_BIAS], ids=["bias", "no bias"])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("net", ["mlp", "residual", "twice", "vit"])
def test_the_loss_falls_by_the_value(net, edges, block):
    traced, batches = make(net), data(net, 2)
    places = places_of(traced, block, edges=edges)
    scores = tg.score(traced, batches, F.cross_entropy, places)
    assert len(scores) == len(places) > 4
    for score, (fall,) in falls_each(traced, scores, batches, 1e-3):
        assert score.order == 2
        assert set(score.direction) == {"linear.weight", "linear.bias"} - (
            set() if block.bias else {"linear.bias"}
        )
        assert (score.direction["linear.weight"].abs().sum(1) > 0).sum() == 1  # one output alone
        assert fall == pytest.approx(score.value, rel=2e-5)


@pytest.mark.parametrize("net", ["mlp", "vit"])
def test_no_unit_direction_brings_more(net):
    """The largest eigenvalue of the second derivative by W and b, by autograd."""
    traced, batches = make(net), data(net, 2)
    for change in places_of(traced, CURVED)[:4]:
        (score,) = tg.score(traced, batches, F.cross_entropy, [change])
        after = tg.apply(traced, tg.plan(traced, [change]), step=0).after.module.eval()
        path = next(n for n, _ in after.named_modules() if n.endswith("linear_1.linear"))
        layer = after.get_submodule(path)
        size = layer.weight.numel()

        def loss(flat, after=after, path=path, layer=layer, size=size):
            given = {
                f"{path}.weight": flat[:size].reshape(layer.weight.shape),
                f"{path}.bias": flat[size:],
            }
            outputs = [(torch.func.functional_call(after, given, (x,)), y) for x, y in batches]
            return sum(F.cross_entropy(out, y) for out, y in outputs) / len(batches)

        start = torch.zeros(size + len(layer.bias), dtype=torch.float64)
        hessian = torch.func.hessian(loss)(start)
        top = torch.linalg.eigvalsh(-hessian)[-1].item()
        assert score.value == pytest.approx(top / 2, rel=1e-9)


class Raised(nn.Module):
    """Adds what it reads to the loss, so that nothing above 0 can lower it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x).mul(1.0)


def test_a_value_below_0_says_that_every_direction_raises_the_loss():
    torch.manual_seed(0)
    x = torch.randn(16, 4, dtype=torch.float64)
    traced = tg.trace(Raised().double(), (x,))
    change = tg.InsertLayer(where=tg.at("a"), block=CURVED)

    def total(output, _):
        return output.sum(1).mean()

    batches = [(x, None)]
    (score,) = tg.score(traced, batches, total, [change])
    assert score.value < 0
    assert measured(traced, score, batches, 1e-3, total) == pytest.approx(score.value, rel=1e-4)


@settings(max_examples=40)
@given(
    st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 6), st.integers(1, 12), st.booleans()
)
def test_the_largest_eigenvalues_of_small_forms(seed, positions, outputs, inner, folded):
    p, x = rows(positions, outputs, inner, seed)
    p[:, 0] = 0  # an output that the loss does not hear
    expected = torch.linalg.eigvalsh(dense(p, x))[:, -1]
    found = largest_of_each(dense(p, x) if folded else Product((p.T, x)))
    scale = dense(p, x).abs().max().clamp_min(1).item()
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(outputs).double())
    reached = torch.einsum("ia,iab,ib->i", found.vectors, dense(p, x), found.vectors)
    torch.testing.assert_close(found.values, reached, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rank", [1, 3, 200])
def test_forms_of_low_rank_and_one_sign(rank, sign):
    """Of a negative form of low rank the largest eigenvalue is 0, outside of what the rows span."""
    p, x = rows(rank, 5, 100)
    p = sign * p.abs()
    top = torch.linalg.eigvalsh(dense(p, x))[:, -1]
    found = largest_of_each(Product((p.T, x)))
    assert (found.values <= top + 1e-9).all()
    assert (found.values >= top - 1e-3 * top.abs().max() - 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("within", [3, 7])
def test_rows_that_lie_in_a_plane(within, dtype):
    """A Linear that widens makes such ones; what is left of an image is then rounding alone."""
    p, x = rows(160, 18, within, dtype=dtype)
    p = p * torch.logspace(-4, 0, 18).to(p)
    x = x @ torch.randn(within, 19, generator=torch.Generator().manual_seed(1)).to(x)
    top = torch.linalg.eigvalsh(dense(p.double(), x.double()))[:, -1]
    for forms in (Product((p.T, x)), dense(p, x)):
        found = largest_of_each(forms).values.double()
        torch.testing.assert_close(found, top, rtol=1e-4, atol=1e-5 * top.max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_forms_and_nothing_is_drawn(dtype):
    p, x = rows(600, 40, 90, dtype=dtype)
    state = torch.random.get_rng_state()
    found = [largest_of_each(f) for f in (Product((p.T, x)), dense(p, x)) for _ in (0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found[0].vectors, found[1].vectors)
    top = torch.linalg.eigvalsh(dense(p.double(), x.double()))[:, -1]
    for values in (found[0].values, found[2].values):
        best = values.argmax()
        assert best == top.argmax()
        assert values[best].item() == pytest.approx(top[best].item(), rel=1e-5)


@pytest.mark.parametrize("positions", [30, 400, 1500])
def test_of_many_outputs_the_best_is_found(positions):
    p, x = rows(positions, 40, 41, seed=positions)
    top = torch.linalg.eigvalsh(dense(p, x))[:, -1]
    change = tg.InsertLayer(where=tg.all(), block=WITHOUT_BIAS)
    found = outcome(change, Product((p.T, torch.cat([x[:, 1:], x[:, :1]], 1)))).derivative
    smaller = torch.linalg.eigvalsh(dense(p, x[:, 1:]))[:, -1]
    assert smaller.max() < top.max()  # the column that is left out counts
    assert found.value == pytest.approx(smaller.max().item(), rel=1e-9)
    assert found.direction["linear.weight"].norm(dim=1).argmax() == smaller.argmax()


@pytest.mark.parametrize("size", [2, 40])
def test_rows_and_matrices_are_the_same_form(size):
    """Few positions are kept as rows, many are summed; over ranks they are summed."""
    traced, batches = make("residual"), data("residual", 3, size=size)
    kept, summed = Squares(), Squares()
    probes = [Probe(At(node="tanh"), "tanh", heard) for heard in (kept, summed)]
    sweep(traced, batches, F.cross_entropy, probes)
    assert summed.total.shape == (4, 5, 5)
    mean = kept.mean(3)
    assert isinstance(mean, Product if size == 2 else torch.Tensor)
    found = dense(mean.factors[0].T, mean.factors[1]) * mean.scale if size == 2 else mean
    torch.testing.assert_close(found, summed.total / 3, rtol=1e-12, atol=1e-15)


def test_more_than_there_is_room_for_is_refused(monkeypatch):
    monkeypatch.setattr(curved, "ROOM", 100)
    p, x = rows(4, 5, 5)
    heard = Squares()
    heard(x, p)  # 44 numbers; the matrices have 180
    message = "5 matrices of 6 x 6 are more than the 100 numbers that are kept of a place, and so"
    heard(x, p)
    with pytest.raises(tg.ShapeError, match=message):
        heard(x, p)
    with pytest.raises(tg.ShapeError, match="give fewer batches, on one rank, or score"):
        _ = heard.total


def test_infinite_squares_are_named():
    huge = [(x * 1e200, y) for x, y in data("mlp", 2)]
    traced = tg.trace(nn.Sequential(nn.Linear(5, 3)).double(), huge[0][:1])
    change = tg.InsertLayer(where=tg.at("input_1"), block=CURVED)
    message = "the score of linear after input_1 is nan; look for infinities"
    with pytest.raises(tg.NonFiniteError, match=message):
        tg.score(traced, huge, F.cross_entropy, [change])


def test_a_curved_layer_is_z_tanh_z_of_plain_layers_and_keeps_the_laws():
    traced = make("residual")
    change = tg.InsertLayer(where=tg.at("tanh"), block=CURVED)
    plan = tg.plan(traced, [change])
    revision = assert_laws(traced, plan)
    network = revision.after.module
    layers = network.get_submodule(plan.changes[0].name)
    assert [type(layer) for layer in layers.values()] == [nn.Linear, nn.Tanh]
    nn.init.normal_(layers.linear.weight)
    calls = {node.name: node for node in network.graph.nodes}
    product = calls["linear_1_product"]
    assert product.target is operator.mul
    x = data("residual")[0][0]
    h = network.stem(x)
    t = torch.tanh(network.first(h))
    z = layers.linear(t)
    h = h + t + z * torch.tanh(z)
    torch.testing.assert_close(network(x), network.head(h + torch.tanh(network.second(h))))


def test_it_learns_from_a_score_and_the_plan_says_so():
    traced, batches = make("residual"), data("residual", 2)
    change = tg.InsertLayer(where=tg.at("tanh"), block=CURVED)
    plan = tg.plan(traced, [change])
    found = {check.name: check.found for check in plan.checks}["gradient"]
    assert found == "linear_1 has none at 0: apply it with a score and a step"
    assert without_gradient(tg.apply(traced, plan)) == [
        "linear_1.linear.bias",
        "linear_1.linear.weight",
    ]
    (score,) = tg.score(traced, batches, F.cross_entropy, [change])
    revision = tg.apply(traced, plan, directions=[score])
    x, y = batches[0]
    F.cross_entropy(revision.after.module(x), y).backward()
    assert revision.after.module.linear_1.linear.weight.grad.abs().sum() > 0
    usual = tg.plan(traced, [tg.InsertLayer(where=tg.at("tanh"), block=tg.Linear())])
    assert "gradient" not in {check.name for check in usual.checks}
