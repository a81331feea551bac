"""Law 5: old moments and the next learning rates survive a change, new parameters are trained."""

import copy
import io

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedulers

import topograph as tg

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, lr=0.01, betas=(0.9, 0.99)),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "AdamW amsgrad": lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
    "ASGD": lambda p: optim.ASGD(p, lr=0.1),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.05),
}
SCHEDULERS = {
    "StepLR": lambda o: schedulers.StepLR(o, step_size=2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, milestones=[2, 5]),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=8),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, max_lr=0.5, total_steps=20),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=False),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda n: 0.95),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.5, total_iters=4),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=6),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=9, power=2.0),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=3), schedulers.CosineAnnealingLR(o, 6)], [3]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, total_iters=4), schedulers.ExponentialLR(o, 0.9)]
    ),
}
PAIRS = [(o, s) for o in OPTIMIZERS for s in ("OneCycleLR", "LambdaLR")]
PAIRS += [(o, s) for s in SCHEDULERS for o in ("SGD momentum", "AdamW")]
PAIRS = [
    (o, s)
    for o, s in dict.fromkeys(PAIRS)
    if (o, s)
    not in {
        # OneCycleLR turns a momentum or a beta, and these have none
        (name, "OneCycleLR")
        for name in ("Adagrad", "Adadelta", "Rprop", "ASGD", "Adafactor", "SGD")
    }
]
INSERT = tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Bottleneck(units=3))
REMOVE = tg.RemoveLayer(where=tg.named("middle"))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.middle(self.first(x))))


def fresh():
    torch.manual_seed(0)
    return tg.trace(Net(), (torch.zeros(2, 4),))


def batch(index):
    generator = torch.Generator().manual_seed(index)
    return torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def one_step(module, optimizer, scheduler, index):
    x, y = batch(index)
    loss = F.cross_entropy(module(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        scheduler.step(1.0)  # never better, so that it acts
    elif scheduler is not None:
        scheduler.step()
    return [group["lr"] for group in optimizer.param_groups]


def trained(optimizer, scheduler, steps=3):
    traced = fresh()
    made = OPTIMIZERS[optimizer](traced.module.parameters())
    drives = SCHEDULERS[scheduler](made) if scheduler else None
    for index in range(steps):
        one_step(traced.module, made, drives, index)
    return traced, made, drives


def changed(traced, mutation):
    return tg.apply(traced, tg.plan(traced, [mutation]))


def moments(module, optimizer):
    """Return a copy of the state of every parameter that the optimizer has one for, by path."""
    return {
        path: copy.deepcopy(dict(optimizer.state[p]))
        for path, p in module.named_parameters()
        if p in optimizer.state
    }


def equal_state(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k])
        if isinstance(first[k], torch.Tensor)
        else first[k] == second[k]
        for k in first
    )


@pytest.mark.parametrize("mutation", [INSERT, REMOVE], ids=["insert", "remove"])
@pytest.mark.parametrize(("optimizer", "scheduler"), PAIRS)
def test_law_5(optimizer, scheduler, mutation):
    traced, made, drives = trained(optimizer, scheduler)
    _, twin_optimizer, twin_drives = trained(optimizer, scheduler)
    twin = fresh().module
    twin.load_state_dict(traced.module.state_dict())
    before = moments(traced.module, made)
    revision = changed(traced, mutation)
    report = tg.migrate(revision, optimizer=made, scheduler=drives)
    after = dict(revision.after.module.named_parameters())
    assert report.kept == tuple(p for p in dict(traced.module.named_parameters()) if p in after)
    assert set(report.kept) | set(report.added) == set(after)
    assert set(report.dropped) == (
        {"middle.weight", "middle.bias"} if mutation is REMOVE else set()
    )
    now = moments(revision.after.module, made)
    assert set(now) == {path for path in before if path in after}
    for path, state in now.items():
        assert equal_state(state, before[path]), path
    held = [p for group in made.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in after.values()}
    assert len(held) == len(after)
    assert set(made.state) <= set(held)  # what is gone takes its moments along
    # next rates are those of a twin that goes on unchanged
    values = {path: p.detach().clone() for path, p in after.items()}
    module = twin_module(twin_optimizer)
    rates = [one_step(module, twin_optimizer, twin_drives, 10 + i) for i in range(4)]
    with torch.no_grad():  # a last matrix of 0 lets no gradient through to the first
        for path, p in after.items():
            if path.startswith("bottleneck"):
                p.add_(0.1)
                values[path] = p.clone()
    found = [one_step(revision.after.module, made, drives, 10 + i) for i in range(4)]
    assert found == rates
    for path, p in after.items():
        assert not torch.equal(p, values[path]), f"{path} was not updated"
    stored = io.BytesIO()
    torch.save(made.state_dict(), stored)
    stored.seek(0)
    again = OPTIMIZERS[optimizer](revision.after.module.parameters())
    again.load_state_dict(torch.load(stored, weights_only=True))
    one_step(revision.after.module, again, None, 20)


def twin_module(optimizer):
    """Return the network an optimizer of `trained` belongs to, rebuilt around its parameters."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    net = Net()
    for (path, _), p in zip(list(net.named_parameters()), weights, strict=True):
        owner, name = path.split(".")
        setattr(getattr(net, owner), name, p)
    return net


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "Adafactor"])
def test_old_parameters_move_as_in_a_twin_that_did_not_grow(optimizer):
    """A block that starts as the identity changes no gradient of what was there."""
    traced, made, _ = trained(optimizer, None)
    twin, twin_optimizer, _ = trained(optimizer, None)
    revision = changed(traced, INSERT)
    tg.migrate(revision, optimizer=made)
    one_step(revision.after.module, made, None, 7)
    one_step(twin.module, twin_optimizer, None, 7)
    grown = dict(revision.after.module.named_parameters())
    for path, p in twin.module.named_parameters():
        torch.testing.assert_close(grown[path], p, rtol=1e-6, atol=1e-8)


def test_every_new_parameter_learns_within_two_steps():
    traced, made, _ = trained("AdamW", None)
    revision = changed(traced, INSERT)
    tg.migrate(revision, optimizer=made)
    new = {p: v for p, v in revision.after.module.named_parameters() if p.startswith("bottleneck")}
    start = {path: v.detach().clone() for path, v in new.items()}
    for index in range(2):
        one_step(revision.after.module, made, None, index)
    assert not [path for path, v in new.items() if torch.equal(v, start[path])]
    assert len(new) == 3


def test_groups_keep_their_kind():
    traced = fresh()
    named = dict(traced.module.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    others = [p for p in named.values() if p.ndim < 2]
    made = optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": matrices, "lr": 0.5}])
    revision = changed(traced, INSERT)
    tg.migrate(revision, optimizer=made)
    plain, decayed = ({id(p) for p in group["params"]} for group in made.param_groups)
    for path, p in revision.after.module.named_parameters():
        assert id(p) in (decayed if p.ndim > 1 else plain), path
    assert [group["weight_decay"] for group in made.param_groups] == [0.0, 0.01]
    assert [group["lr"] for group in made.param_groups] == [0.001, 0.5]


def test_a_frozen_body_stays_out_and_others_stay_in():
    traced = fresh()
    head = [p for path, p in traced.module.named_parameters() if path.startswith("last")]
    foreign = nn.Parameter(torch.zeros(3))
    made = optim.Adam([*head, foreign])
    revision = changed(traced, INSERT)
    report = tg.migrate(revision, optimizer=made)
    assert report.kept == ("last.weight", "last.bias")
    assert str(report) == "2 kept, 3 added, 0 dropped"
    held = {id(p) for p in made.param_groups[0]["params"]}
    assert id(foreign) in held
    assert id(traced.module.first.weight) not in held
    # and over the next change, now that the first is carried
    change = tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Linear())
    assert len(tg.migrate(changed(revision.after, change), optimizer=made).kept) == 5


def test_migrate_without_an_optimizer_reports_what_happened():
    traced = fresh()
    assert len(tg.migrate(changed(traced, INSERT)).added) == 3
    assert tg.migrate(changed(traced, REMOVE)).dropped == ("middle.weight", "middle.bias")


def test_two_growths_and_a_removal_in_a_row():
    traced, made, drives = trained("AdamW", "OneCycleLR")
    for mutation in (INSERT, tg.AddBranch(source="first", target="middle"), REMOVE):
        if mutation is REMOVE:
            mutation = tg.RemoveLayer(where=tg.named("bottleneck_1.activation"))
        revision = changed(traced, mutation)
        tg.migrate(revision, optimizer=made, scheduler=drives)
        traced = revision.after
        one_step(traced.module, made, drives, 3)
    held = {id(p) for group in made.param_groups for p in group["params"]}
    assert held == {id(p) for p in traced.module.parameters()}
