"""The correlation M against autograd through a virtual map, and the identities it obeys."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import topograph as tg
from tests.nets import Skip, data, make, places_of
from topograph.sensitivity.statistics import Convolution, Inner, Matrix
from topograph.sensitivity.tape import Probe, sweep
from topograph.spec import At, Between

EXACT = {"rtol": 1e-11, "atol": 1e-13}


class Virtual(fx.Interpreter):
    """Runs a graph with a map between one node and its readers, without any hook."""

    def __init__(self, traced, node, added):
        super().__init__(traced.module)
        self.node, self.added = node, added

    def run_node(self, n):
        value = super().run_node(n)
        return value + self.added(value.detach()) if n.name == self.node else value


def heard(traced, batches, listeners):
    """Return the totals of statistics, divided by the number of batches."""
    count = sweep(
        traced,
        batches,
        F.cross_entropy,
        [Probe(place, state, m) for (place, state), m in listeners],
    )
    totals = [m.product().dense() if isinstance(m, Matrix) else m.total for _, m in listeners]
    return [total / count for total in totals]


def oracle(traced, batches, node, shape, added):
    """Return -dJ/dA at A = 0, by autograd, for a map that is linear in A."""
    matrix = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    traced.module.eval()
    losses = [
        F.cross_entropy(Virtual(traced, node, lambda x: added(x, matrix)).run(x), y)
        for x, y in batches
    ]
    return -torch.autograd.grad(torch.stack(losses).mean(), matrix)[0]


def augmented(x, matrix):
    return torch.cat([x, torch.ones_like(x[..., :1])], -1) @ matrix.T


def normed(x, matrix):
    return augmented(F.layer_norm(x, x.shape[-1:]), matrix)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("net", ["mlp", "residual", "twice", "identity", "dropout", "vit"])
def test_matrix_at_every_node(net, norm):
    traced, batches = make(net), data(net, 2)
    block = tg.Bottleneck(units=1, norm=norm)
    names = [change.where.node for change in places_of(traced, block)]
    assert len(names) > 4
    # all at once, and each alone: what else is listened to must not matter
    listeners = [((At(node=name), name), Matrix(norm)) for name in names]
    together = heard(traced, batches, listeners)
    for name, found in zip(names, together, strict=True):
        expected = oracle(traced, batches, name, found.shape, normed if norm else augmented)
        torch.testing.assert_close(found, expected, **EXACT)
        alone = heard(traced, batches, [((At(node=name), name), Matrix(norm))])[0]
        torch.testing.assert_close(alone, expected, **EXACT)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("net", ["cnn1d", "cnn", "cnn3d"])
def test_convolution_at_every_node(net, kernel):
    traced, batches = make(net), data(net, 2)
    names = [c.where.node for c in places_of(traced, tg.ConvBottleneck(units=1, kernel=kernel))]
    assert {"conv1", "norm1", "act", "conv2", "norm2", "act_1"} <= set(names)
    listeners = [((At(node=name), name), Convolution(kernel)) for name in names]
    for name, found in zip(names, heard(traced, batches, listeners), strict=True):

        def added(x, weight):
            ones = torch.ones_like(x[:, :1])
            convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
            return convolve(torch.cat([x, ones], 1), weight, padding=kernel // 2)

        expected = oracle(traced, batches, name, found.shape, added)
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("passing", [nn.Identity(), nn.Dropout(0.5), nn.Sequential(nn.Identity())])
@pytest.mark.parametrize("with_input", [False, True])
def test_a_layer_that_hands_back_its_input_has_its_own_adjoint(passing, with_input):
    torch.manual_seed(0)
    traced = tg.trace(Skip(passing).double(), (torch.zeros(2, 5, dtype=torch.float64),))
    batches = data("mlp", 2)
    name = next(n.name for n in traced.topology.nodes if n.op in ("identity", "dropout"))
    places = ["x", name] if with_input else [name]  # an upstream place makes the tensor shared
    found = heard(traced, batches, [((At(node=p), p), Matrix(False)) for p in places])[-1]
    torch.testing.assert_close(
        found, oracle(traced, batches, name, found.shape, augmented), **EXACT
    )


@pytest.mark.parametrize("net", ["residual", "twice", "identity", "vit"])
def test_the_uses_of_a_value_add_up_to_the_value(net):
    traced, batches = make(net), data(net, 2)
    names = [c.where.node for c in places_of(traced, tg.Bottleneck(units=1))]
    for name in names:
        edges = [edge for edge in traced.topology.edges if edge.source == name]
        places = [Between(source=e.source, target=e.target, slot=e.slot) for e in edges]
        listeners = [((place, name), Matrix(False)) for place in (At(node=name), *places)]
        whole, *parts = heard(traced, batches, listeners)
        torch.testing.assert_close(whole, torch.stack(parts).sum(0), **EXACT)


def weight_gradients(traced, batches):
    """Return -dJ/dW and -dJ/db of every Linear, by autograd."""
    parameters = dict(traced.module.named_parameters())
    traced.module.eval()
    loss = torch.stack([F.cross_entropy(traced.module(x), y) for x, y in batches]).mean()
    found = torch.autograd.grad(loss, list(parameters.values()))
    return {path: -g for path, g in zip(parameters, found, strict=True)}


def test_identities_around_a_linear():
    """M_x = W^T G_W on the edge into a Linear only, M_y = G_W W^T + g_b b^T out of a Linear."""
    traced, batches = make("mlp"), data("mlp", 3)
    gradients, values = weight_gradients(traced, batches), dict(traced.module.named_parameters())
    for path, read in (("0", "input_1"), ("2", "tanh_1"), ("4", "gelu_3")):
        weight, bias = values[f"{path}.weight"].detach(), values[f"{path}.bias"].detach()
        g, g_bias = gradients[f"{path}.weight"], gradients[f"{path}.bias"]
        places = [At(node=read), At(node=f"linear_{path}")]
        into, out = heard(traced, batches, [((p, p.node), Matrix(False)) for p in places])
        torch.testing.assert_close(into[:, :-1], weight.T @ g, **EXACT)
        torch.testing.assert_close(out[:, :-1], g @ weight.T + torch.outer(g_bias, bias), **EXACT)
        torch.testing.assert_close(out[:, -1], g_bias, **EXACT)


def test_the_uses_of_a_residual_stream_obey_the_same_identity():
    traced, batches = make("residual"), data("residual", 2)
    gradients, values = weight_gradients(traced, batches), dict(traced.module.named_parameters())
    place = Between(source="stem", target="first", slot=0)
    (into,) = heard(traced, batches, [((place, "stem"), Matrix(False))])
    expected = values["first.weight"].detach().T @ gradients["first.weight"]
    torch.testing.assert_close(into[:, :-1], expected, **EXACT)
    (whole,) = heard(traced, batches, [((At(node="stem"), "stem"), Matrix(False))])
    assert not torch.allclose(whole[:, :-1], expected)  # the skip reads it too


@pytest.mark.parametrize("factor", [0.125, 8.0])
def test_rescaling_an_edge_changes_no_score(factor):
    """Reading c x instead of x divides the adjoint by c; M without its bias column stays."""
    traced, batches = make("mlp"), data("mlp", 2)
    (plain,) = heard(traced, batches, [((At(node="tanh_1"), "tanh_1"), Matrix(False))])
    with torch.no_grad():
        values = dict(traced.module.named_parameters())
        values["2.weight"] /= factor
    layers = list(traced.module.children())
    scaled = tg.trace(nn.Sequential(*layers[:2], Scale(factor), *layers[2:]), (batches[0][0],))
    name = next(n.name for n in scaled.topology.nodes if n.op == "mul")
    (found,) = heard(scaled, batches, [((At(node=name), name), Matrix(False))])
    torch.testing.assert_close(found[:, :-1], plain[:, :-1], **EXACT)
    torch.testing.assert_close(found[:, -1] * factor, plain[:, -1], **EXACT)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_the_gate_is_the_inner_product_by_autograd():
    traced, batches = make("vit"), data("vit", 2)
    pairs = [("embed", "add"), ("norm1", "add_1"), ("embed", "norm2")]
    listeners = [((At(node=target), source), Inner()) for source, target in pairs]
    for (source, target), found in zip(pairs, heard(traced, batches, listeners), strict=True):
        gate = torch.zeros((), dtype=torch.float64, requires_grad=True)
        traced.module.eval()
        losses = [F.cross_entropy(_gated(traced, x, source, target, gate), y) for x, y in batches]
        expected = -torch.autograd.grad(torch.stack(losses).mean(), gate)[0]
        torch.testing.assert_close(found, expected, **EXACT)


def _gated(traced, x, source, target, gate):
    run = Virtual(traced, target, lambda value: gate * kept[source])
    kept = {}
    inner = run.run_node

    def keeping(node):
        value = inner(node)
        kept[node.name] = value.detach() if isinstance(value, torch.Tensor) else value
        return value

    run.run_node = keeping
    return pytree.tree_leaves(run.run(x))[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    generator = torch.Generator().manual_seed(0)
    x, p = (torch.randn(4096, 3, generator=generator).to(dtype) for _ in range(2))
    found = Matrix(norm=False)
    found(x, p)
    total = found.product().dense()
    assert total.dtype == torch.float32
    expected = p.double().T @ torch.cat([x.double(), torch.ones(4096, 1).double()], 1)
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-3)
