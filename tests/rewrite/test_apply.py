"""Law 3, drift, and what one plan may hold."""

import typing
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import topograph as tg
from tests.nets import data, make, same
from tests.often import SMALL
from tests.rewrite.laws import assert_laws, assert_same, change, run, snapshot
from tests.zoo import BY_NAME, ROW
from topograph.rewrite import set_step
from topograph.rewrite.table import RULES, rule_for
from topograph.spec.mutations import Mutation

INSERT = tg.InsertLayer(where=tg.at("tanh"), block=tg.Bottleneck(units=3))


@pytest.fixture
def base():
    return tg.trace(BY_NAME["residual"].model(), (ROW,))


def test_the_table_covers_the_union():
    kinds, *_ = typing.get_args(Mutation)
    assert set(typing.get_args(kinds)) == set(RULES)
    with pytest.raises(
        tg.SelectorError, match="Bottleneck is no mutation; give a list of mutations"
    ):
        rule_for(tg.Bottleneck(units=2))


@pytest.mark.parametrize("example", SMALL)
def test_planning_again_after_applying_says_no_changes(example):
    base = tg.trace(example.model(), example.inputs, example.kwargs)
    request = tg.InsertLayer(where=tg.all(), block=tg.Linear())
    if not [m for m in tg.candidates(base, [request]) if isinstance(m, tg.InsertLayer)]:
        request = tg.InsertLayer(where=tg.all(), block=tg.ConvBottleneck(units=2))
    after = tg.apply(base, tg.plan(base, [request])).after
    again = tg.plan(after, [request])
    assert not again
    assert str(again) == "no changes (1 request already applied)"
    assert tg.apply(after, again).after is after


def test_a_plan_read_back_gives_a_bit_equal_network(base):
    requests = [
        tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=3, norm=True)),
        tg.AddBranch(source="tanh", target="add_1", projection="linear", gate=0.25),
        tg.RemoveLayer(where=tg.at("act_1")),
    ]
    plan = tg.plan(base, requests)
    parsed = tg.Plan.parse(plan.dump())
    torch.manual_seed(123)  # new weights do not depend on the global generator
    first, second = tg.apply(base, plan).after, tg.apply(base, parsed).after
    ours, theirs = first.module.state_dict(), second.module.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert first.topology == second.topology
    assert first.module.code == second.module.code


def test_new_weights_differ_from_place_to_place(base):
    request = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=3))
    state = tg.apply(base, tg.plan(base, [request])).after.module.state_dict()
    drawn = [value for key, value in state.items() if key.endswith("reduce.bias")]
    assert len({tuple(value.tolist()) for value in drawn}) == len(drawn) > 3


def refused(base, plan, error, message, **options):
    before = snapshot(base)
    with pytest.raises(error, match=message):
        tg.apply(base, plan, **options)
    assert_same(before, snapshot(base))


def test_a_failed_apply_changes_nothing(base):
    plan = tg.plan(base, [INSERT])
    after = tg.apply(base, plan).after
    direction = SimpleNamespace(
        mutation=INSERT, start={}, direction={"reduce.weight": torch.ones(9, 9)}
    )
    nan = SimpleNamespace(
        mutation=INSERT, start={}, direction={"reduce.weight": torch.full((1, 8), torch.nan)}
    )
    other = SimpleNamespace(mutation=INSERT, start={}, direction={"nothing": torch.ones(1)})
    edited = plan.model_copy(update={"after_sha256": "0" * 64})
    foreign = plan.model_copy(update={"base_sha256": "1" * 64})
    gone = plan.changes[0].model_copy(
        update={"mutation": tg.AddBranch(source="add", target="tanh")}
    )
    refused(base, edited, tg.DriftError, "the plan promises 000000000000 but makes")
    refused(base, foreign, tg.DriftError, "was made for the topology 111111111111, this is")
    refused(after, plan, tg.DriftError, "the plan is already applied to this model; make a new one")
    refused(
        base,
        plan.model_copy(update={"changes": (gone,)}),
        tg.DriftError,
        "the plan no longer fits: tanh: add is not above it",
    )
    refused(
        base,
        plan,
        tg.ShapeError,
        r"a direction of shape \[9, 9\] does not fit \[3, 8\]; score",
        directions=[direction],
    )
    refused(
        base,
        plan,
        tg.ShapeError,
        r"bottleneck_1\.nothing: .* does not fit any parameter",
        directions=[other],
    )
    refused(
        base,
        plan,
        tg.NonFiniteError,
        "the direction for reduce.weight is not finite",
        directions=[nan],
    )
    for step in (float("nan"), float("inf")):
        refused(base, plan, tg.NonFiniteError, "step is (nan|inf); give a finite number", step=step)


def test_undo_takes_a_revision(base):
    with pytest.raises(TypeError, match="undo takes a Revision, got TracedModel; pass what apply"):
        tg.undo(base)


@pytest.mark.parametrize("example", SMALL)
def test_undo_gives_back_an_equal_model(example):
    base = tg.trace(example.model(), example.inputs, example.kwargs)
    before = snapshot(base)
    removable = [
        m for m in tg.candidates(base, [tg.RemoveLayer(where=tg.named("*"))])
        if isinstance(m, tg.RemoveLayer)
    ]  # fmt: skip
    for mutation in removable:
        revision = tg.apply(base, tg.plan(base, [mutation]))
        assert revision.diff.changes
        run(revision.after.module, dict(base.inputs), True)
        assert_same(before, snapshot(tg.undo(revision)))
    assert_same(before, snapshot(base))


def test_many_mutations_in_one_plan(base):
    plan = tg.plan(
        base,
        [
            INSERT,
            tg.InsertLayer(where=tg.at("tanh"), block=tg.Linear()),
            tg.InsertLayer(where=tg.between("tanh", "layers_0"), block=tg.Bottleneck(units=2)),
            tg.InsertLayer(where=tg.between("tanh", "add"), block=tg.Linear(bias=False)),
            tg.AddBranch(source="tanh", target="add_1"),
            tg.AddBranch(source="tanh", target="add", projection="linear"),
            tg.AddBranch(source="stem", target="add"),
            tg.InsertLayer(where=tg.at("add"), block=tg.Bottleneck(units=4, norm=True)),
        ],
    )
    assert len(plan.changes) == 8
    revision = assert_laws(base, plan)
    names = [c.name for c in plan.changes]
    assert len(set(names)) == 8
    assert names[0] == "bottleneck_1"
    assert set(names) <= set(revision.after.module._modules)


def test_a_block_behind_a_removed_layer_is_refused_and_one_before_it_stays(base):
    remove = tg.RemoveLayer(where=tg.at("act"))
    behind = tg.InsertLayer(where=tg.at("act"), block=tg.Linear())
    plan = tg.plan(base, [remove, behind])
    assert [str(refusal) for refusal in plan.refusals] == [
        "act: the same plan removes it; plan them apart"
    ]
    onto = tg.InsertLayer(where=tg.between("layers_0", "act"), block=tg.Linear())
    plan = tg.plan(base, [remove, onto])
    assert [refusal.node for refusal in plan.refusals] == ["act"]
    branch = tg.AddBranch(source="act", target="add")
    assert tg.plan(base, [remove, branch]).refusals[0].reason == "the same plan removes it"


@pytest.mark.parametrize("where", [tg.at("act"), tg.at("layers_0"), tg.between("layers_0", "act")])
def test_a_block_next_to_a_layer_that_is_then_removed_stays_in_use(base, where):
    insert = tg.InsertLayer(where=where, block=tg.Linear())
    remove = tg.RemoveLayer(where=tg.at("act"))
    revision = tg.apply(base, tg.plan(base, [insert, remove]), step=0)
    alone = tg.apply(base, tg.plan(base, [remove])).after.module
    assert change(alone, revision.after.module, base.inputs) == 0.0
    with torch.no_grad():
        revision.after.module.linear_1.linear.weight.fill_(1)
    assert change(alone, revision.after.module, base.inputs) > 0.01


def test_parameters_of_both_are_shared_and_training_one_trains_the_other(base):
    revision = tg.apply(base, tg.plan(base, [INSERT]))
    old, new = base.module, revision.after.module
    assert all(a is b for a, b in zip(old.parameters(), list(new.parameters()), strict=False))
    assert "bottleneck_1" not in old._modules
    assert "bottleneck_1.reduce.weight" in new.state_dict()
    assert isinstance(new.bottleneck_1, nn.ModuleDict)


def test_a_grown_network_can_be_grown_again_and_again(base):
    traced = base
    for round_ in range(3):
        mutation = tg.InsertLayer(where=tg.at("add"), block=tg.Bottleneck(units=2 + round_))
        traced = assert_laws(traced, tg.plan(traced, [mutation])).after
    assert change(base.module, traced.module, base.inputs) == 0.0
    assert len(traced.topology.applied) == 3


def test_without_example_inputs_nothing_can_be_planned():
    traced = tg.trace(BY_NAME["mlp"].model())
    for verb in (tg.plan, tg.candidates):
        with pytest.raises(
            tg.SelectorError, match=r"traced without example inputs, .*example_inputs"
        ):
            verb(traced, [tg.RemoveLayer(where=tg.named("*"))])


STEPPED = {
    "insert_layer": (INSERT, "topological_derivative"),
    "with a start": (INSERT, "features"),
    "gate": (tg.AddBranch(source="tanh", target="add_1"), "topological_derivative"),
    "new units": (tg.WidenLayer(where=tg.named("0"), to=8), "topological_derivative"),
    "halves": (tg.WidenLayer(where=tg.named("0"), to=8, how="split"), "topological_derivative"),
}


@pytest.mark.parametrize("name", STEPPED)
def test_a_step_is_what_apply_makes_of_it_whatever_was_set_before(name):
    request, scorer = STEPPED[name]
    net = "mlp" if isinstance(request, tg.WidenLayer) else "residual"
    traced, batches = make(net), data(net, 2)
    scores = tg.score(traced, batches, nn.functional.cross_entropy, [request], scorer=scorer)[:1]
    plan = tg.plan(traced, [scores[0].mutation])
    made = {
        step: dict(tg.apply(traced, plan, directions=scores, step=step).after.module.state_dict())
        for step in (0, 0.3, 2)
    }
    assert not same(made[0], made[0.3])
    revision = tg.apply(traced, plan, directions=scores, step=0.1)
    for step in (2, 0, 0.3, 0):
        set_step(revision, scores, step)
        assert same(dict(revision.after.module.state_dict()), made[step])
    x, _ = batches[0]
    torch.testing.assert_close(revision.after.module.eval()(x), traced.module.eval()(x))
    set_step(revision, [], 0.5)  # nor is anything left of a start
    bare = tg.apply(traced, plan).after.module.state_dict()
    assert same(dict(revision.after.module.state_dict()), dict(bare))
