"""Moments and averages follow the units of a resized layer."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import topograph as tg

X, Y = torch.randn(16, 5), torch.randn(16, 2)


def trained(make, steps=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = make(model.parameters())
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(X), Y).backward()
    optimizer.step()
    optimizer.zero_grad()


def resized(model, mutation):
    traced = tg.trace(model, (X,))
    return tg.apply(traced, tg.plan(traced, [mutation]))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, amsgrad=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kept_units_keep_their_moments_bit_for_bit(name):
    model, optimizer = trained(OPTIMIZERS[name])
    weight = model[0].weight
    before = {k: v.clone() for k, v in optimizer.state[weight].items() if torch.is_tensor(v)}
    keep = tg.NarrowLayer(where=tg.named("0"), to=3, by="keep", keep=(0, 2, 5))
    revision = resized(model, keep)
    moved = tg.migrate(revision, optimizer=optimizer)
    assert (len(moved.kept), moved.added, moved.dropped) == (6, (), ())
    grown = tg.recompile(revision.after)
    now = optimizer.state[grown[0].weight]
    for key, old in before.items():
        along = old.ndim == 2 and old.shape[0] == 6
        assert torch.equal(now[key], old[[0, 2, 5]] if along else old), key
    assert not any(p is weight for group in optimizer.param_groups for p in group["params"])
    old = {path: p.clone() for path, p in grown.named_parameters()}
    step(grown, optimizer)
    live = {path: p for path, p in grown.named_parameters() if path != "0.bias"}  # BatchNorm's
    assert all(not torch.equal(p, old[path]) for path, p in live.items())


def test_new_units_start_with_moments_of_zero_and_copies_with_those_of_their_unit():
    model, optimizer = trained(OPTIMIZERS["adamw"])
    old = optimizer.state[model[0].weight]["exp_avg"].clone()
    zero = resized(model, tg.WidenLayer(where=tg.named("0"), to=8, how="zero"))
    tg.migrate(zero, optimizer=optimizer)
    new = optimizer.state[zero.after.module.get_parameter("0.weight")]["exp_avg"]
    assert torch.equal(new[:6], old)
    assert new[6:].abs().sum() == 0

    model, optimizer = trained(OPTIMIZERS["adamw"])
    copies = resized(model, tg.WidenLayer(where=tg.named("0"), to=12, how="duplicate"))
    tg.migrate(copies, optimizer=optimizer)
    new = optimizer.state[copies.after.module.get_parameter("0.weight")]["exp_avg"]
    assert torch.equal(new, torch.cat([old, old]))


def test_an_average_keeps_its_function():
    model, optimizer = trained(OPTIMIZERS["sgd"])
    average = AveragedModel(model)
    for _ in range(3):
        step(model, optimizer)
        average.update_parameters(model)
    wanted = average.eval()(X)
    revision = resized(model, tg.WidenLayer(where=tg.named("0"), to=12, how="duplicate"))
    tg.migrate(revision, optimizer=optimizer, ema=average)
    assert torch.allclose(average.eval()(X), wanted, atol=1e-6)
    average.update_parameters(revision.after.module)


def test_an_optimizer_that_missed_a_resize_is_an_error():
    model, optimizer = trained(OPTIMIZERS["adamw"])
    first = resized(model, tg.WidenLayer(where=tg.named("0"), to=8))
    plan = tg.plan(first.after, [tg.WidenLayer(where=tg.named("0"), to=9)])
    with pytest.raises(tg.MigrationError, match=r"lacks \['0.weight'.*call migrate after every"):
        tg.migrate(tg.apply(first.after, plan), optimizer=optimizer)


def test_several_turns_in_one_plan_move_moments_once():
    model, optimizer = trained(OPTIMIZERS["adamw"])
    old = optimizer.state[model[0].weight]["exp_avg"].clone()
    traced = tg.trace(model, (X,))
    asked = [
        tg.NarrowLayer(where=tg.named("0"), to=3, by="keep", keep=(0, 2, 5)),
        tg.InsertLayer(where=tg.named("2"), block=tg.Bottleneck(units=2)),
        tg.WidenLayer(where=tg.named("0"), to=4, how="zero"),
    ]
    revision = tg.apply(traced, tg.plan(traced, asked))
    tg.migrate(revision, optimizer=optimizer)
    new = optimizer.state[revision.after.module.get_parameter("0.weight")]["exp_avg"]
    assert torch.equal(new[:3], old[[0, 2, 5]])
    assert new[3:].abs().sum() == 0


@pytest.mark.parametrize("to", [4, 9])
def test_an_optimizer_goes_back_with_the_model(to):
    model, optimizer = trained(OPTIMIZERS["adamw"])
    old = {p: optimizer.state[p]["exp_avg"].clone() for p in model.parameters()}
    kind = tg.WidenLayer if to > 6 else tg.NarrowLayer
    revision = resized(model, kind(where=tg.named("0"), to=to))
    tg.migrate(revision, optimizer=optimizer)
    moved = tg.migrate(revision, optimizer=optimizer, undone=True)
    assert (moved.added, moved.dropped) == ((), ())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    back = tg.recompile(tg.undo(revision))
    for parameter, moments in old.items():
        now = optimizer.state[parameter]["exp_avg"]
        kept = now == moments
        assert kept.all() if to > 6 else (kept | (now == 0)).all()
    step(back, optimizer)


def test_a_copy_of_a_tied_parameter_that_is_resized_in_the_same_plan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[4].weight = model[2].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(X).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    old = optimizer.state[model[2].weight]["exp_avg"].clone()
    traced = tg.trace(model, (X,))
    asked = [
        tg.Untie(where=tg.named("4")),
        tg.NarrowLayer(where=tg.named("4"), to=2, by="keep", keep=(1, 4), outputs="change"),
    ]
    revision = tg.apply(traced, tg.plan(traced, asked))
    tg.migrate(revision, optimizer=optimizer)
    narrow = tg.recompile(revision.after)
    assert torch.equal(optimizer.state[narrow[4].weight]["exp_avg"], old[[1, 4]])
    assert torch.equal(optimizer.state[narrow[2].weight]["exp_avg"], old)
    narrow(X).square().mean().backward()
    optimizer.step()


def test_a_resized_model_and_its_optimizer_can_be_saved(tmp_path):
    model, optimizer = trained(OPTIMIZERS["adamw"])
    revision = resized(model, tg.WidenLayer(where=tg.named("0"), to=8))
    tg.migrate(revision, optimizer=optimizer)
    grown = tg.recompile(revision.after)
    torch.save((grown, optimizer), tmp_path / "both.pt")
    again, _ = torch.load(tmp_path / "both.pt", weights_only=False)
    assert torch.equal(again.eval()(X), grown.eval()(X))
