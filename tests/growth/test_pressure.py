"""The pressure of a rule: on what, from when to when, and over kills, trials and errors."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import topograph as tg
from tests.nets import rings, same
from tests.often import often
from topograph.growth.course import Gear
from topograph.growth.pressing import acting, check_pressure, pressed_by
from topograph.growth.within import go_on, paused, regrow, release, state_within
from topograph.training.pressure import soft_threshold

X, Y = rings(48)
PROBE = [(X, Y)]
TANH = tg.after(op="tanh")
CUT = tg.Disconnect(edge=tg.named("branch_*_scaled"))
GATES = tg.Pressure(on="gates", strength=0.05)
UNITS = tg.Pressure(on="units", strength=0.2, since="skips")
STEPS = 8


def rule(candidate, at, **fields):
    given = {"trigger": tg.Schedule(at=(at,)), "candidates": (candidate,), "scorer": "none"}
    return {**given, "most": 1, "selection": tg.Selection(k=99), **fields}


SKIPS = rule(tg.AddBranch(source=TANH, target=TANH), 2, name="skips")
NARROW = tg.NarrowLayer(where=tg.named("0") | tg.named("2"), to=4)
POLICY = tg.Policy(
    **SKIPS | {"after": tg.Afterwards(warmup=3, hold=2)},
    more=(
        tg.Rule(**rule(CUT, 5, name="cut", pressure=GATES, selection=tg.Selection(k=2))),
        tg.Rule(**rule(NARROW, 7, name="narrow", pressure=UNITS)),
    ),
)


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(6, 2))


def training(policy=POLICY, begin=tg.Grower, **others):
    model = net()
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    given = {"example_inputs": (X,), "loss": F.cross_entropy, "optimizer": optimizer}
    grower = begin(model, policy, scheduler=scheduler, **given, **others)
    return SimpleNamespace(grower=grower, optimizer=optimizer, scheduler=scheduler)


def train(parts, count=2):
    parts.grower.model.train()
    for _ in range(count):
        parts.optimizer.zero_grad()
        F.cross_entropy(parts.grower.model(X), Y).backward()
        parts.optimizer.step()
    parts.optimizer.zero_grad()
    parts.scheduler.step()


def run(parts, until=STEPS, metrics=None):
    while parts.grower.steps < until:
        train(parts)
        parts.grower.step(metrics, batches=PROBE)


def gates(grower):
    return {p: v for p, v in grower.traced.module.named_parameters() if p.endswith(".gate")}


def hooks(parts):
    return len(parts.optimizer._optimizer_step_post_hooks)


def end(parts):
    return {
        "net": dict(parts.grower.traced.module.state_dict()),
        "optimizer": parts.optimizer.state_dict(),
        "topology": parts.grower.traced.topology.fingerprint,
    }


def test_a_pressure_acts_from_one_rules_growth_until_its_own():
    def names(*grown):
        return [found.name for found in acting(POLICY, grown)]

    assert names(0, 0, 0) == ["cut"]
    assert names(1, 0, 0) == ["cut", "narrow"]
    assert names(1, 1, 0) == ["narrow"]
    assert names(1, 1, 1) == []
    without = POLICY.more[0].model_copy(update={"most": None})
    assert acting(POLICY.model_copy(update={"more": (without,)}), (0, 99)) == [without]


def test_it_is_on_the_gates_and_the_units_that_the_candidates_stand_for():
    cut, narrow = POLICY.more
    traced = tg.trace(net(), (X,))
    assert pressed_by(traced, cut) == ([], [])  # it has no branches yet
    grown = tg.apply(traced, tg.plan(traced, POLICY.candidates)).after
    found, groups = pressed_by(grown, cut)
    named = dict(grown.module.named_parameters())
    assert [id(g) for g in found] == [id(named[f"branch_{n}.gate"]) for n in (1, 2, 3)]
    assert groups == []
    one = cut.model_copy(update={"candidates": (tg.Disconnect(edge=tg.named("branch_2_scaled")),)})
    assert [id(gate) for gate in pressed_by(grown, one)[0]] == [id(named["branch_2.gate"])]
    found, groups = pressed_by(traced, narrow)
    paths = {id(p): path for path, p in traced.module.named_parameters()}
    assert found == []
    assert [{(paths[id(p.parameter)], p.axis) for p in group} for group in groups] == [
        {("0.weight", 0), ("0.bias", 0)},
        {("2.weight", 0), ("2.bias", 0)},
    ]
    there = narrow.model_copy(update={"candidates": (NARROW.model_copy(update={"to": 6}),)})
    assert pressed_by(traced, there) == ([], [])  # it has 6 units already


def test_gates_are_shrunk_after_each_step_until_the_rule_has_grown():
    """A twin without a pressure is shrunk by hand; both are equal bit for bit."""
    fields = rule(CUT, 4, selection=tg.Selection(k=1))
    found = []
    for pressure in (GATES, None):
        policy = tg.Policy(**SKIPS, more=(tg.Rule(**fields, pressure=pressure),))
        parts = training(policy)
        for step in range(1, 7):
            for _ in range(3):
                train(parts, 1)
                rate = parts.scheduler.get_last_lr()[0] / 0.97  # that of the step
                if pressure is None and step <= 4:
                    with torch.no_grad():
                        for gate in gates(parts.grower).values():
                            gate.copy_(soft_threshold(gate, rate * GATES.strength))
            parts.grower.step(batches=PROBE)
        assert len(gates(parts.grower)) == 2
        found.append((end(parts), hooks(parts)))
    torch.testing.assert_close(found[0][0]["net"], found[1][0]["net"], rtol=1e-5, atol=1e-7)
    assert found[0][1] == found[1][1] == 0
    assert found[0][0]["topology"] == found[1][0]["topology"]


def test_what_is_pressed_follows_every_change():
    parts, counts = training(), []
    for until in range(1, STEPS + 1):
        run(parts, until)
        counts.append(
            [len(press._gates) + len(press._groups) for press in parts.grower._growing.gear.presses]
        )
    # nothing before the skips, which make all widths one; two of them are cut, then the narrowing
    assert counts == [[], [3, 1], [3, 1], [3, 1], [2], [2], [], []]


@pytest.mark.parametrize("stop", often(range(STEPS), range(0, STEPS, 2)))
def test_stopped_after_any_step_it_goes_on_bit_equal(stop, tmp_path, whole):
    parts = training(run=tmp_path / "run")
    run(parts, stop)
    parts.grower.run.close()
    parts = training(begin=lambda net, _, **given: tg.Grower.resume(tmp_path / "run", net, **given))
    assert parts.grower.steps == stop
    run(parts)
    assert same(end(parts), whole[0])
    assert hooks(parts) == 1  # that of the pace
    assert tg.read_history(tmp_path / "run").decisions == whole[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    parts = training(run=path)
    run(parts)
    decisions = tg.read_history(path).decisions
    assert [decision.rule for decision in decisions if decision.outcome == "grew"] == [
        "skips", "cut", "narrow",
    ]  # fmt: skip
    return end(parts), decisions


def test_after_a_growth_that_is_taken_back_the_next_one_may_press():
    """Growths that were taken back count: the rule had its one growth."""
    cut = rule(CUT, 3, pressure=GATES, acceptance=tg.Acceptance(metric="m", within=1))
    parts = training(tg.Policy(**SKIPS, more=(tg.Rule(**cut),)))
    run(parts, 2, {"m": 0.0})
    assert hooks(parts) == 1
    run(parts, 3, {"m": 0.0})
    assert hooks(parts) == 0
    run(parts, 4, {"m": 1.0})
    assert parts.grower.decision.outcome == "undone"
    assert len(gates(parts.grower)) == 3
    assert hooks(parts) == 0
    twice = cut | {"most": 2, "trigger": tg.Every(steps=3)}
    parts = training(tg.Policy(**SKIPS, more=(tg.Rule(**twice),)))
    run(parts, 3, {"m": 0.0})
    run(parts, 4, {"m": 1.0})
    assert (parts.grower.decision.outcome, hooks(parts)) == ("undone", 1)


def test_it_ends_with_the_grower():
    parts = training()
    run(parts, 3)
    assert hooks(parts) == 3  # the pace, and two rules
    parts.grower.close()
    assert hooks(parts) == 1
    before = {path: gate.item() for path, gate in gates(parts.grower).items()}
    for parameter in parts.grower.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optim.SGD(parts.grower.model.parameters(), lr=1.0).step()
    assert {path: gate.item() for path, gate in gates(parts.grower).items()} == before


def test_within_a_trainer_it_is_taken_off_and_made_anew():
    parts = training(save=None)
    run(parts, 3)
    network = paused(parts.grower)
    assert hooks(parts) == 0
    given = {"loss": F.cross_entropy, "optimizer": parts.optimizer}
    parts.grower = go_on(network, POLICY, **given)
    assert hooks(parts) == 3
    state = state_within(parts.grower)
    release(parts.grower)
    assert hooks(parts) == 0
    base = tg.trace(net(), (X,))
    again = regrow(base, state)
    grower = go_on(
        again, POLICY, loss=F.cross_entropy, optimizer=optim.AdamW(again.model.parameters())
    )
    assert [len(press._gates) for press in grower._growing.gear.presses] == [3, 0]
    release(grower)


def test_a_resume_that_fails_leaves_no_hooks(tmp_path):
    parts = training(run=tmp_path / "run")
    run(parts, 3)
    parts.grower.run.close()
    (tmp_path / "run" / "journal.sqlite").write_bytes(b"")
    model = net()
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    given = {"example_inputs": (X,), "loss": F.cross_entropy, "optimizer": optimizer}
    with pytest.raises(tg.TopographError):
        tg.Grower.resume(tmp_path / "run", model, **given)
    assert not optimizer._optimizer_step_post_hooks


def test_a_race_leaves_the_pressed_as_they_were():
    race = tg.Selection(race=tg.Race(of=2, steps=3))
    insert = tg.InsertLayer(where=TANH, block=tg.Bottleneck(units=2))
    more = (
        tg.Rule(**rule(CUT, 9, pressure=GATES)),
        tg.Rule(
            trigger=tg.Schedule(at=(3,)),
            candidates=(insert,),
            selection=race,
            step=tg.Zero(),
            most=1,
        ),
    )
    parts = training(tg.Policy(**SKIPS, more=more))
    run(parts, 2)
    train(parts, 4)
    before = {path: gate.item() for path, gate in gates(parts.grower).items()}
    assert any(before.values())
    parts.grower.step(batches=PROBE)
    assert " the race of 2" in parts.grower.decision.reason
    assert {path: gate.item() for path, gate in gates(parts.grower).items()} == before


def test_what_cannot_be_pressed_is_refused_at_the_beginning():
    model = net()
    given = {"example_inputs": (X,), "loss": F.cross_entropy}
    with pytest.raises(tg.MigrationError, match="a pressure cannot act with LBFGS; pass an optim"):
        tg.Grower(model, POLICY, optimizer=optim.LBFGS(model.parameters()), **given)
    gear = Gear(optim.SGD(model.parameters(), lr=0.1), {})
    check_pressure(POLICY, gear, sharded=False)
    with pytest.raises(
        tg.MigrationError, match="on units needs whole parameters, which fsdp2 cuts"
    ):
        check_pressure(POLICY, gear, sharded=True)
    check_pressure(POLICY.model_copy(update={"more": POLICY.more[:1]}), gear, sharded=True)
