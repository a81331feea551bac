"""What `score` refuses, with its words, and that it leaves everything as it was."""

import gc
import random
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import SHAPES, Skip, data, frozen_copy, make, places_of, same
from topograph.sensitivity import mean_loss

WIDE = tg.Bottleneck(units=2)


def mean(output, _):
    return output.mean()


def dirty(traced):
    """Give a network gradients, frozen parameters, mixed modes; all must survive."""
    module = traced.module
    for index, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
        parameter.requires_grad_(index % 3 != 0)
    module.train()
    list(module.modules())[-1].eval()
    return module


@pytest.mark.parametrize("net", SHAPES)
def test_score_changes_nothing(net):
    traced = make(net)
    module, batches = dirty(traced), data(net, 2)
    before, python = frozen_copy(module), random.getstate()

    def noisy(output, target):
        random.random()
        return F.cross_entropy(output + torch.rand(()) * 1e-3, target)

    kinds = [WIDE, tg.Linear(), tg.ConvBottleneck(units=1)]
    wanted = [
        c for block in kinds for edges in (0, 1) for c in places_of(traced, block, edges=edges)
    ]
    tg.score(traced, batches, noisy, wanted)
    mean_loss(traced, batches, noisy)
    assert same(before, frozen_copy(module))
    assert random.getstate() == python


@pytest.mark.parametrize("fail_at", ["loss", "batches", "backward", "forward"])
def test_a_failure_half_way_changes_nothing(fail_at):
    traced = make("cnn")
    module, batches = dirty(traced), data("cnn", 2)
    before = frozen_copy(module)
    calls = []

    def loss(output, target):
        calls.append(1)
        if fail_at == "loss" and len(calls) == 2:
            raise RuntimeError("here it fails")
        value = F.cross_entropy(output, target)
        if fail_at == "backward" and len(calls) == 2:
            output.register_hook(lambda _: (_ for _ in ()).throw(RuntimeError("here it fails")))
        return value

    def stream():
        yield batches[0]
        if fail_at == "batches":
            raise RuntimeError("here it fails")
        yield (batches[1][0][:, :1], batches[1][1]) if fail_at == "forward" else batches[1]

    message = "expected input.* to have 2 channels" if fail_at == "forward" else "here it fails"
    kind = RuntimeError
    if fail_at in ("loss", "forward"):  # which batch it was is said
        kind, message = (
            tg.ShapeError,
            f"probe batch 1 does not go through .*RuntimeError: .*{message}",
        )
    with pytest.raises(kind, match=message):
        tg.score(traced, stream(), loss, places_of(traced, tg.ConvBottleneck(units=2)))
    assert same(before, frozen_copy(module))
    assert tg.score(traced, batches, F.cross_entropy, places_of(traced, tg.ConvBottleneck(units=2)))


def test_nothing_flows_into_inputs_or_into_the_loss():
    traced = make("mlp")
    x = data("mlp")[0][0].requires_grad_()
    temperature = nn.Parameter(torch.ones((), dtype=torch.float64))
    teacher = nn.Linear(5, 3).double()

    def loss(output, target):
        return (output * temperature - teacher(target)).square().mean()

    wanted = places_of(traced, WIDE)
    assert wanted[0].where.node == traced.topology.nodes[0].name  # the input itself is a place
    for _ in range(2):
        tg.score(traced, [(x, x)], loss, wanted)
    assert x.grad is None
    assert not x._backward_hooks
    assert temperature.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("passing", [nn.Identity(), nn.Dropout(0.5)])
def test_no_hook_stays_on_the_network(passing):
    traced = tg.trace(Skip(passing).double(), (torch.zeros(2, 5, dtype=torch.float64),))
    tg.score(traced, data("mlp"), F.cross_entropy, places_of(traced, WIDE))
    assert not any(parameter._backward_hooks for parameter in traced.module.parameters())
    assert not any(module._forward_hooks for module in traced.module.modules())


def nan(output, _):
    return output.mean() * float("nan")


def infinite_slope(output, _):
    return (output - output.detach()).square().sum().sqrt()  # 0, but its gradient is 0 / 0


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (nan, tg.NonFiniteError, "the loss of batch 0 is nan"),
        (lambda y, _: y.mean() + float("inf"), tg.NonFiniteError, "the loss of batch 0 is inf"),
        (infinite_slope, tg.NonFiniteError, "the adjoint at linear_4 is not finite in batch 0"),
        (lambda y, _: y.mean(1), tg.ShapeError, r"must be one number, got \[8\]; take the mean"),
        (lambda y, _: 1.5, tg.ShapeError, "a float; return a tensor of one number, without .item"),
        (
            lambda y, _: torch.ones(()),
            tg.ShapeError,
            "the loss does not depend on any scored place",
        ),
    ],
)
def test_a_loss_that_is_no_loss(loss, error, message):
    traced = make("mlp")
    before = frozen_copy(dirty(traced))
    with pytest.raises(error, match=message):
        tg.score(traced, data("mlp"), loss, places_of(traced, WIDE))
    assert same(before, frozen_copy(traced.module))


def test_a_target_that_is_not_a_number_names_its_batch():
    traced, (first, second) = make("mlp"), data("mlp", 2)
    batches = [(x, F.one_hot(y, 3).double()) for x, y in (first, second)]
    batches[1][1][3, 1] = float("nan")
    with pytest.raises(tg.NonFiniteError, match="the loss of batch 1 is nan"):
        tg.score(traced, batches, F.mse_loss, places_of(traced, WIDE))


@pytest.mark.parametrize("batches", [[], iter([]), ()])
def test_no_batches(batches):
    traced = make("mlp")
    with pytest.raises(tg.ShapeError, match="there are no batches to score on; give at least one"):
        tg.score(traced, batches, F.cross_entropy, places_of(traced, WIDE))


def test_an_unknown_scorer():
    traced = make("mlp")
    with pytest.raises(
        tg.SpecError, match="no scorer is called 'guess'; there are auto, topological_deriv"
    ):
        tg.score(traced, data("mlp"), F.cross_entropy, places_of(traced, WIDE), scorer="guess")


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (
            tg.RemoveLayer(where=tg.named("tanh")),
            "topological_derivative knows no remove_layer; score add_adapter or add_branch or",
        ),
        (
            tg.AddBranch(source="a", target="tanh", gate=0.5),
            "tanh: its gate starts at 0.5, which is no small change of the function; give gate=0",
        ),
        (
            tg.InsertLayer(where=tg.named("a"), block=tg.ConvBottleneck(units=1)),
            "works on .N, C, space",
        ),
    ],
)
def test_candidates_without_a_derivative(candidate, message):
    traced = make("twice")
    with pytest.raises(tg.RefusedError, match=message) as caught:
        tg.score(traced, data("twice"), F.cross_entropy, [candidate])
    assert "no candidate can be scored" in str(caught.value)
    assert len(caught.value.refusals) == 1
    # beside one that has a derivative it is left out
    fine = tg.InsertLayer(where=tg.named("a"), block=WIDE)
    assert len(tg.score(traced, data("twice"), F.cross_entropy, [candidate, fine])) == 1


def test_no_candidates_at_all():
    with pytest.raises(tg.RefusedError, match=r"scored: the list is empty; give at least one$"):
        tg.score(make("mlp"), data("mlp"), F.cross_entropy, [])


def test_a_selector_that_matches_nothing():
    wanted = [tg.InsertLayer(where=tg.after(op="relu"), block=WIDE)]
    with pytest.raises(tg.SelectorError, match="no node has the operation 'relu'; nearest: "):
        tg.score(make("mlp"), data("mlp"), F.cross_entropy, wanted)


def test_a_trace_without_inputs():
    traced = tg.trace(nn.Sequential(nn.Linear(5, 3)))
    wanted = [tg.InsertLayer(where=tg.all(), block=WIDE)]
    with pytest.raises(
        tg.SelectorError, match="traced without example inputs, so no shapes are known"
    ):
        tg.score(traced, data("mlp"), F.cross_entropy, wanted)


@pytest.mark.parametrize("step", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite(step):
    traced = make("mlp")
    scores = tg.score(traced, data("mlp"), F.cross_entropy, places_of(traced, WIDE))
    plan = tg.plan(traced, [scores[0].mutation])
    with pytest.raises(tg.NonFiniteError, match=f"step is {step}; give a finite number"):
        tg.apply(traced, plan, directions=scores, step=step)


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, F.binary_cross_entropy_with_logits])
def test_half_precision_is_compared_in_float32(loss):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).bfloat16()
    batch = torch.randn(32, 4).bfloat16(), torch.rand(32, 2).bfloat16()
    traced = tg.trace(net, batch[:1])
    expected = loss(net(batch[0]).float(), batch[1].float()).item()
    assert mean_loss(traced, [batch], loss) == expected
    assert float(torch.tensor(expected).bfloat16()) != expected  # or nothing is shown
    change = tg.InsertLayer(where=tg.named("tanh_1"), block=tg.Linear())
    assert tg.score(traced, [batch], loss, [change])[0].value > 0


def test_nothing_of_a_run_stays_alive():
    """Not even until the collector of cycles comes by."""
    traced, seen = make("cnn"), []

    def loss(output, target):
        value = F.cross_entropy(output, target)
        seen.extend([weakref.ref(output), weakref.ref(value)])
        return value

    gc.disable()
    try:
        tg.score(traced, data("cnn", 3), loss, places_of(traced, tg.ConvBottleneck(units=1)))
        assert len(seen) == 6
        assert not any(reference() is not None for reference in seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("net", ["mlp", "residual"])
def test_batches_that_share_their_memory(net):
    """A loader may fill the same buffer anew for every batch."""
    traced, batches = make(net), data(net, 3, size=1)
    wanted = places_of(traced, WIDE)
    buffer = torch.empty_like(batches[0][0])

    def refilled():
        for x, y in batches:
            yield buffer.copy_(x), y

    expected = [s.value for s in tg.score(traced, batches, F.cross_entropy, wanted)]
    found = [s.value for s in tg.score(traced, refilled(), F.cross_entropy, wanted)]
    assert found == expected


class Overflowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.reads, self.writes = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.writes(torch.sigmoid(self.reads(x) * 1e30 * 1e30))


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("topological_derivative", "the values of mul_1 are not finite in the probe batches, or"),
        ("natural", "the values of mul_1 are not finite in the probe batches, or too large"),
        ("gradmax", "the values of mul_1 are not finite in the probe batches, or too large to"),
        ("tiny", "the covariance at bottleneck after mul cannot be decomposed .*look for infin"),
        ("features", "the covariance at bottleneck after mul cannot be decomposed .*look for in"),
    ],
)
def test_values_that_are_not_finite_are_named_though_the_loss_is(scorer, message):
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(4)]
    traced = tg.trace(Overflowing(), batches[0][:1])
    wanted = [tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))]
    with pytest.raises(tg.NonFiniteError, match=message):
        tg.score(traced, batches, F.cross_entropy, wanted, scorer=scorer)
