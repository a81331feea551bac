"""Law 5 for what is trained: moments outlive a freeze, copies of tied parameters get copies."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel

import topograph as tg

TOKENS = torch.tensor([[0, 3, 1], [2, 2, 4]])
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.05),
}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.middle, self.head = nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.middle(torch.tanh(self.middle(self.embed(tokens))))))


def one_step(module, optimizer):
    module(TOKENS).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def trained(kind="AdamW", steps=2):
    traced = tg.trace(Tied(), (TOKENS,))
    optimizer = OPTIMIZERS[kind](traced.module.parameters())
    for _ in range(steps):
        one_step(traced.module, optimizer)
    return traced, optimizer


def carried(traced, optimizer, *mutations, **companions):
    revision = tg.apply(traced, tg.plan(traced, mutations))
    return revision, tg.migrate(revision, optimizer=optimizer, **companions)


def moments(optimizer, parameter):
    return copy.deepcopy(dict(optimizer.state[parameter]))


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


def held(optimizer):
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_frozen_parameter_keeps_its_moments_and_unfreezing_goes_on_from_there(kind):
    traced, optimizer = trained(kind)
    weight = traced.module.middle.weight
    then, value = moments(optimizer, weight), weight.detach().clone()
    frozen, report = carried(traced, optimizer, tg.Freeze(where=tg.named("middle")))
    assert (len(report.kept), report.added, report.dropped) == (4, (), ())
    new = frozen.after.module.middle.weight
    assert weight not in optimizer.state
    assert held(optimizer) == [id(p) for p in frozen.after.module.parameters()]
    for _ in range(2):
        one_step(frozen.after.module, optimizer)
    assert torch.equal(new, value)
    assert equal(moments(optimizer, new), then)
    back, report = carried(frozen.after, optimizer, tg.Unfreeze(where=tg.named("middle")))
    assert (len(report.kept), report.added) == (4, ())
    again = back.after.module.middle.weight
    assert equal(moments(optimizer, again), then)
    twin = copy.deepcopy(back.after.module)
    twin_optimizer = OPTIMIZERS[kind](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    one_step(back.after.module, optimizer)
    one_step(twin, twin_optimizer)  # the same moments by torch's own way
    assert torch.equal(again, twin.middle.weight)
    assert not torch.equal(again, value)


def test_an_unfrozen_parameter_that_is_in_no_group_joins_one():
    model = Tied()
    model.middle.requires_grad_(False)
    traced = tg.trace(model, (TOKENS,))
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad])
    one_step(traced.module, optimizer)
    revision, report = carried(traced, optimizer, tg.Unfreeze(where=tg.named("middle")))
    assert report.added == ("middle.weight", "middle.bias")
    after = revision.after.module
    assert set(held(optimizer)) == {id(p) for p in after.parameters()}
    value = after.middle.weight.detach().clone()
    one_step(after, optimizer)
    assert not torch.equal(after.middle.weight, value)


def test_a_trained_parameter_that_was_left_out_on_purpose_stays_out():
    traced = tg.trace(Tied(), (TOKENS,))
    optimizer = optim.AdamW(traced.module.head.parameters())
    revision, report = carried(traced, optimizer, tg.Freeze(where=tg.named("head")))
    assert report.added == ()
    assert len(held(optimizer)) == 2
    after = revision.after.module
    assert set(held(optimizer)) == {id(after.head.weight), id(after.head.bias)}


def test_an_undone_freeze_can_be_carried_back():
    traced, optimizer = trained()
    then = moments(optimizer, traced.module.middle.weight)
    revision, _ = carried(traced, optimizer, tg.Freeze(where=tg.named("middle")))
    back = tg.Revision(before=revision.after, after=tg.undo(revision), plan=revision.plan)
    tg.migrate(back, optimizer=optimizer)
    assert held(optimizer) == [id(p) for p in traced.module.parameters()]
    assert equal(moments(optimizer, traced.module.middle.weight), then)


@pytest.mark.parametrize("node", ["embed", "head"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_copy_of_a_tied_parameter_gets_a_copy_of_its_moments(kind, node):
    traced, optimizer = trained(kind)
    then = moments(optimizer, traced.module.embed.weight)
    revision, report = carried(traced, optimizer, tg.Untie(where=tg.named(node)))
    assert str(report) == "5 kept, 0 added, 0 dropped"
    after = revision.after.module
    for weight in (after.embed.weight, after.head.weight):
        assert equal(moments(optimizer, weight), then)
    assert held(optimizer)[:2] == [id(after.embed.weight), id(after.head.weight)]
    assert len(held(optimizer)) == len(set(held(optimizer))) == 5
    one_step(after, optimizer)
    assert not torch.equal(after.embed.weight, after.head.weight)
    assert not any(
        optimizer.state[after.embed.weight][key].data_ptr() == value.data_ptr()
        for key, value in optimizer.state[after.head.weight].items()
        if isinstance(value, torch.Tensor)
    )


def test_the_copy_joins_the_group_of_the_original():
    traced = tg.trace(Tied(), (TOKENS,))
    named = dict(traced.module.named_parameters())
    first = named.pop("embed.weight")
    optimizer = optim.AdamW([{"params": named.values()}, {"params": [first], "lr": 0.5}])
    revision, _ = carried(traced, optimizer, tg.Untie(where=tg.named("head")))
    after = revision.after.module
    group = {id(p) for p in optimizer.param_groups[1]["params"]}
    assert group == {id(after.embed.weight), id(after.head.weight)}


def test_the_clone_of_a_shared_module_gets_copies_too():
    traced, optimizer = trained()
    then = moments(optimizer, traced.module.middle.weight)
    site = next(node.name for node in traced.topology.nodes if node.target == "middle")
    average = AveragedModel(traced.module)
    with torch.no_grad():
        average.module.middle.weight.fill_(7.0)
    revision, report = carried(traced, optimizer, tg.Untie(where=tg.at(site)), ema=average)
    assert str(report) == "6 kept, 0 added, 0 dropped"
    after = revision.after.module
    for weight in (after.middle.weight, after.untied_1.weight):
        assert equal(moments(optimizer, weight), then)
    assert set(held(optimizer)) == {id(p) for p in after.parameters()}
    assert (average.module.untied_1.weight == 7.0).all()
    assert (average.module.middle.weight == 7.0).all()


def test_adapters_are_added_and_their_frozen_layers_kept():
    traced, optimizer = trained()
    request = tg.AddAdapter(where=tg.named("middle"), rank=2, freeze=True)
    revision, report = carried(traced, optimizer, request)
    assert report.added == tuple(
        f"adapter_{n}.{part}.weight" for n in (1, 2) for part in ("reduce", "expand")
    )
    assert len(report.kept) == 4
    after = revision.after.module
    value, low = after.middle.weight.detach().clone(), after.adapter_1.reduce.weight.clone()
    for _ in range(2):
        one_step(after, optimizer)
    assert torch.equal(after.middle.weight, value)
    assert not torch.equal(after.adapter_1.reduce.weight, low)


def test_a_name_that_outlives_its_module_keeps_the_moments():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    torch.manual_seed(0)
    traced = tg.trace(Late(), (torch.ones(2, 6),))
    optimizer = optim.AdamW(traced.module.parameters())
    traced.module(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    then = moments(optimizer, traced.module.first.weight)
    revision, report = carried(traced, optimizer, tg.RemoveLayer(where=tg.named("first")))
    assert report.kept == ("second.weight", "second.bias")
    assert report.dropped == ("first.bias",)
    assert equal(moments(optimizer, revision.after.module.second.weight), then)


def test_both_models_share_memory_so_training_the_one_trains_the_other():
    model = Tied()
    traced = tg.trace(model, (TOKENS,))
    after = tg.apply(traced, tg.plan(traced, [tg.Freeze(where=tg.named("middle"))])).after.module
    old, new = model.middle.weight, after.middle.weight
    assert new is not old
    assert new.data_ptr() == old.data_ptr()
    with torch.no_grad():
        old.add_(1.0)
    assert torch.equal(new, old)
    assert new._version == old._version  # autograd sees the write through either
    after(TOKENS).sum().backward()
    assert new.grad is old.grad is None
    assert model.head.weight.grad is not None  # not frozen, so it is the same object


REQUESTS = (
    tg.Freeze(where=tg.named("middle")),
    tg.Untie(where=tg.named("head")),
    tg.AddAdapter(where=tg.named("middle"), rank=2, alpha=4.0, freeze=True),
    tg.Unfreeze(where=tg.named("*.bias")),
)


def test_a_run_journals_undoes_and_replays_them(tmp_path):
    path = tmp_path / "run"
    traced, optimizer = trained()
    states = []
    with tg.Run.create(path, traced, model="tests.training:Tied") as run:
        for request in REQUESTS:
            revision, _ = carried(traced, optimizer, request)
            run.commit(revision)
            traced = revision.after
            states.append(copy.deepcopy(traced.module.state_dict()))
            one_step(traced.module, optimizer)
        run.checkpoint(traced)
        kinds = [entry.kind for entry in run.history.entries]
        assert kinds == ["base", *["apply", "checkpoint"] * 4]
    again = tg.replay(path, Tied(), (TOKENS,))
    assert again.topology.fingerprint == traced.topology.fingerprint
    for now, then in zip(flags(again.module), flags(traced.module), strict=True):
        assert now == then
    torch.testing.assert_close(
        again.module.state_dict(), traced.module.state_dict(), rtol=0, atol=0
    )
    for number, state in zip((1, 3, 5, 7), states, strict=True):
        earlier = tg.replay(path, Tied(), (TOKENS,), number=number)
        torch.testing.assert_close(earlier.module.state_dict(), state, rtol=0, atol=0)
        tied = earlier.module.head.weight is earlier.module.embed.weight
        assert tied == (number == 1)
    with tg.Run.open(path) as run:
        run.undo(to=0)
    undone = tg.replay(path, Tied(), (TOKENS,))
    assert all(on for _, on in flags(undone.module))


def flags(module):
    return [(path, p.requires_grad) for path, p in module.named_parameters()]
