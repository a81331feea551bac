"""What `migrate` refuses, with its words, and that the optimizer is then as it was."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import topograph as tg

INSERT = tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Bottleneck(units=3))
SECOND = tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Linear(bias=False))


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 3))


def fresh():
    torch.manual_seed(0)
    return tg.trace(net(), (torch.zeros(2, 4),))


def changed(traced, mutation=INSERT):
    return tg.apply(traced, tg.plan(traced, [mutation]))


def step(module, optimizer):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()


def untouched(optimizer, act):
    """Assert that an optimizer is the same after something that fails."""
    groups = [list(group["params"]) for group in optimizer.param_groups]
    state = copy.deepcopy(optimizer.state_dict())
    act()
    now = [list(group["params"]) for group in optimizer.param_groups]
    assert [[id(p) for p in g] for g in groups] == [[id(p) for p in g] for g in now]
    assert str(optimizer.state_dict()) == str(state)


def refuse(revision, match, optimizer, **companions):
    def act():
        with pytest.raises(tg.MigrationError, match=match):
            tg.migrate(revision, optimizer=optimizer, **companions)

    untouched(optimizer, act)


def test_lbfgs_is_refused():
    traced = fresh()
    made = optim.LBFGS(traced.module.parameters())
    refuse(changed(traced), "LBFGS keeps one state for all parameters together", made)


def test_an_optimizer_of_another_model_is_refused():
    made = optim.Adam(net().parameters())
    refuse(changed(fresh()), "the Adam holds none of the model's parameters", made)


def test_an_optimizer_that_missed_a_growth_is_refused():
    traced = fresh()
    made = optim.AdamW(traced.module.parameters())
    step(traced.module, made)
    first = changed(traced)
    second = changed(first.after, SECOND)
    message = (
        "not carried over an earlier change: it lacks .*bottleneck_1.reduce.weight.*call migrate"
    )
    refuse(second, message, made)
    # carried over both, in order, it is fine
    tg.migrate(first, optimizer=made)
    assert len(tg.migrate(second, optimizer=made).kept) == 9


def test_a_grown_layer_that_is_frozen_may_be_missing():
    traced = fresh()
    made = optim.SGD(traced.module.parameters(), lr=0.1)
    first = changed(traced)
    first.after.module.get_submodule("bottleneck_1").requires_grad_(False)
    report = tg.migrate(changed(first.after, SECOND), optimizer=made)
    assert report.added == ("linear_1.linear.weight",)


def test_muon_takes_matrices_only():
    traced = fresh()
    made = optim.Muon([p for p in traced.module.parameters() if p.ndim == 2])
    refuse(
        changed(traced),
        "Muon trains matrices only, and .*bottleneck_1.reduce.bias.* are none",
        made,
    )
    revision = changed(traced, SECOND)
    assert tg.migrate(revision, optimizer=made).added == ("linear_1.linear.weight",)
    step(revision.after.module, made)


def test_the_scheduler_of_another_optimizer_is_refused():
    traced = fresh()
    made, other = (optim.SGD(traced.module.parameters(), lr=0.1) for _ in range(2))
    scheduler = optim.lr_scheduler.StepLR(other, 1)
    message = "the scheduler drives another optimizer"
    refuse(changed(traced), message, made, scheduler=scheduler)


def test_a_scaler_in_the_middle_of_a_step_is_refused():
    traced = fresh()
    made = optim.SGD(traced.module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loss = F.cross_entropy(traced.module(torch.randn(4, 4)), torch.tensor([0, 1, 2, 0]))
    scaler.scale(loss).backward()
    scaler.unscale_(made)
    revision = changed(traced)
    message = r"the GradScaler is between unscale_ and update; call scaler.update\(\)"
    refuse(revision, message, made, scaler=scaler)
    scaler.step(made)
    refuse(revision, message, made, scaler=scaler)
    scaler.update()
    assert len(tg.migrate(revision, optimizer=made, scaler=scaler).added) == 3


def test_an_average_of_another_model_is_refused():
    traced = fresh()
    made = optim.SGD(traced.module.parameters(), lr=0.1)
    other = AveragedModel(nn.Linear(4, 3))
    message = "the average has other parameters than the model before the change"
    refuse(changed(traced), message, made, ema=other)
    refuse(changed(traced), "an average of type Sequential cannot be carried", made, ema=net())


def test_an_average_and_an_optimizer_fail_together_or_not_at_all():
    traced = fresh()
    average = AveragedModel(traced.module)
    module = average.module
    made = optim.LBFGS(traced.module.parameters())
    refuse(changed(traced), "LBFGS keeps one state", made, ema=average)
    assert average.module is module


@pytest.mark.parametrize("buffers", [False, True])
def test_averages_are_kept_and_go_on(buffers):
    torch.manual_seed(0)
    model = net()  # averaged before it was ever traced
    traced = tg.trace(model, (torch.zeros(2, 4),))
    rule = {"multi_avg_fn": get_ema_multi_avg_fn(0.5), "use_buffers": buffers}
    average = AveragedModel(model, **rule)
    made = optim.AdamW(traced.module.parameters(), lr=0.1)
    for _ in range(3):
        step(traced.module, made)
        average.update_parameters(traced.module)
    old = {path: tensor.clone() for path, tensor in average.module.state_dict().items()}
    count = average.n_averaged.clone()
    revision = changed(traced)
    tg.migrate(revision, optimizer=made, ema=average)
    live, now = revision.after.module.state_dict(), average.module.state_dict()
    assert now.keys() == live.keys()
    assert {path for path in now if path not in old} == {p for p in live if "bottleneck" in p}
    for path, tensor in now.items():
        assert torch.equal(tensor, old[path] if path in old else live[path]), path
        assert tensor.data_ptr() != live[path].data_ptr()  # an average of its own
    assert torch.equal(average.n_averaged, count)
    step(revision.after.module, made)
    expected = {p: 0.5 * v + 0.5 * revision.after.module.state_dict()[p] for p, v in now.items()}
    average.update_parameters(revision.after.module)
    for path, _ in revision.after.module.named_parameters():
        torch.testing.assert_close(average.module.state_dict()[path], expected[path])
    average.eval()
    assert average(torch.randn(2, 4)).shape == (2, 3)


def test_averages_follow_a_removal():
    torch.manual_seed(0)
    traced = tg.trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (torch.zeros(2, 4),))
    average = AveragedModel(traced.module)
    average.update_parameters(traced.module)
    revision = changed(traced, tg.RemoveLayer(where=tg.named("0")))
    tg.migrate(revision, ema=average)
    assert set(average.module.state_dict()) == {"1.weight", "1.bias"}
    average.update_parameters(revision.after.module)
