"""Several rules and all budgets: who grows first, and where growth ends."""

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.growth.growth_parts import INSERT, PROBE, picture, policy_of, train, training
from tests.nets import same
from topograph.growth.propose import used_up

FREEZE = tg.Freeze(where=tg.named("0"))
WIDEN = tg.WidenLayer(where=tg.named("4"), to=6)


def rule_of(candidate, **fields):
    fields = {"trigger": tg.Every(steps=1), **fields}
    return tg.Rule(candidates=(candidate,), scorer="none", **fields)


def kinds(parts, steps, metrics=None):
    found = []
    for _ in range(steps):
        revision = parts.grower.step(metrics, batches=PROBE)
        found.append(revision and revision.plan.changes[0].mutation.kind)
    return found


def test_the_first_rule_that_is_due_and_finds_something_grows():
    policy = policy_of(
        candidates=(FREEZE,),
        scorer="none",
        trigger=tg.Every(steps=2),
        more=(rule_of(WIDEN, name="wider"),),
    )
    parts = training(policy)
    assert kinds(parts, 4) == ["widen_layer", "freeze", None, None]
    reason = parts.grower.decision.reason
    assert parts.grower.decision.rule == "rule 1"
    assert reason.startswith("step 4 of every 2, but ")
    assert "; wider: nothing: step 4 of every 1, but " in reason


def test_each_rule_says_what_it_waits_for():
    gap = tg.TrainValidationGap(gap=0.5, when="above")
    policy = policy_of(trigger=tg.Schedule(at=(9,)), more=(rule_of(WIDEN, name="w", trigger=gap),))
    parts = training(policy)
    assert parts.grower.step({"train_loss": 1.0, "val_loss": 1.25}) is None
    assert str(parts.grower.decision) == (
        "step 1: waiting: rule 1: the schedule's next step is 9; "
        "w: val_loss - train_loss = 0.25 is not above 0.5"
    )
    assert parts.grower.step({"train_loss": 1.0, "val_loss": 1.75}, batches=PROBE) is not None
    assert parts.grower.decision.rule == parts.grower.growth.rule == "w"


def test_batches_are_read_once_for_all_rules():
    reads = []

    def batches():
        reads.append(1)
        return iter(PROBE)

    policy = policy_of(candidates=(FREEZE,), scorer="none", more=(rule_of(WIDEN),))
    parts = training(policy)
    grown = [parts.grower.step(batches=batches) is not None for _ in range(3)]
    assert grown == [True, True, False]
    assert len(reads) == 3


def test_the_triggers_of_all_rules_start_anew_after_a_growth():
    still = tg.Plateau(metric="m", patience=2, min_delta=0.0)
    policy = policy_of(
        candidates=(FREEZE,), scorer="none", trigger=still, more=(rule_of(WIDEN, trigger=still),)
    )
    assert kinds(training(policy), 6, {"m": 1.0}) == [
        None, None, "freeze", None, None, "widen_layer",
    ]  # fmt: skip


def test_growths_are_counted_by_rule_and_in_all():
    widths = tuple(tg.WidenLayer(where=tg.named("4"), to=n) for n in (5, 6, 7))
    policy = policy_of(
        candidates=widths,
        scorer="none",
        most=1,
        more=(rule_of(FREEZE), rule_of(tg.WidenLayer(where=tg.named("0"), to=9))),
        budget=tg.Budget(revisions=2),
    )
    parts = training(policy)
    assert kinds(parts, 1) == ["widen_layer"]
    assert kinds(parts, 1) == ["freeze"]
    assert kinds(parts, 1) == [None]
    decision = parts.grower.decision
    assert decision.outcome == "budget"
    assert decision.reason.count("the budget of 2 revisions is used up") == 3
    parts = training(policy.model_copy(update={"budget": tg.Budget(), "more": ()}))
    assert kinds(parts, 2) == ["widen_layer", None]
    assert "the rule's 1 growths are used up" in parts.grower.decision.reason


def test_a_budget_of_time():
    rule, budget = policy_of(), tg.Budget(share=0.1)
    assert used_up(rule, budget, (0,), 0, 1.0, 10.0) is None
    assert used_up(rule, budget, (0,), 0, 1.01, 10.0) == (
        "growth took 10.1% of the time, more than the budget's 10.0%"
    )
    assert used_up(rule, budget, (0,), 0, 0.0, 0.0) is None
    parts = training(policy_of(budget=tg.Budget(share=0.0)))
    assert kinds(parts, 2) == ["insert_layer", None]  # the first one could not know its time
    assert "of the time, more than the budget's 0.0%" in parts.grower.decision.reason


def test_the_measured_score_has_to_be_above_the_minimum():
    parts = training(policy_of(selection=tg.Selection(minimum=1e6)))
    assert parts.grower.step(batches=PROBE) is None
    reason = parts.grower.decision.reason
    best = tg.score(parts.grower.traced, PROBE, F.cross_entropy, [INSERT])[0].value
    assert f"but the best of 2 scores is {best:.4g}, not above 1e+06" in reason


def test_the_reason_of_a_budget_says_what_would_be_enough():
    count = training(policy_of()).grower.traced.topology.parameter_count
    parts = training(policy_of(budget=tg.Budget(parameters=count + 35)))
    assert parts.grower.step(batches=PROBE) is None
    assert parts.grower.decision.outcome == "budget"
    assert parts.grower.decision.reason == (
        "step 1 of every 1, but of 2 candidates the smallest is too large: "
        f"{count + 36} parameters are more than the budget of {count + 35}"
    )


def test_spread_and_cost_reach_the_plan():
    blocks = (tg.Bottleneck(units=1), tg.Bottleneck(units=4))
    candidates = tuple(tg.InsertLayer(where=tg.after(op="tanh"), block=b) for b in blocks)
    parts = training(policy_of(candidates=candidates, selection=tg.Selection(k=2, spread=True)))
    traced = parts.grower.traced
    scores = tg.score(traced, PROBE, F.cross_entropy, candidates)
    revision = parts.grower.step(batches=PROBE)
    nodes = [change.mutation.where.node for change in revision.plan.changes]
    assert len(set(nodes)) == 2
    assert scores[0].mutation in [change.mutation for change in revision.plan.changes]
    parts = training(policy_of(candidates=candidates, selection=tg.Selection(per="parameter")))
    revision = parts.grower.step(batches=PROBE)
    best = max(scores, key=lambda s: -s.predicted(0.1) / s.cost.parameters)
    assert [change.mutation for change in revision.plan.changes] == [best.mutation]


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], tg.ShapeError, "it is time to grow .*, but step was given no batches"),
        ([torch.zeros(2)], tg.ShapeError, "probe batch 0 is a Tensor; give pairs"),
        ([PROBE[0], (1, 2, 3)], tg.ShapeError, "probe batch 1 is a tuple of 3; give pairs"),
        (
            [(x * float("nan"), y) for x, y in PROBE],
            tg.NonFiniteError,
            "nan",
        ),
    ],
)
def test_an_error_in_a_step_changes_nothing_and_the_step_can_be_made_again(
    batches, error, message, tmp_path
):
    parts = training(policy_of(), run=tmp_path / "run")
    train(parts)
    before, journal = picture(parts), parts.grower.run.history
    with pytest.raises(error, match=message):
        parts.grower.step({"m": 1.0}, batches=batches)
    assert same(before, picture(parts))
    assert parts.grower.run.history == journal
    assert parts.grower.step({"m": 1.0}, batches=PROBE) is not None
    assert parts.grower.steps == 1


def test_a_batch_of_one_sample_is_enough_for_a_score():
    """Also behind a norm that counts: the network is scored in eval mode."""
    parts = training(policy_of())
    assert parts.grower.step(batches=[(x[:1], y[:1]) for x, y in PROBE]) is not None
