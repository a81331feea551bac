"""Every kind that the topological derivative scores grows along its direction."""

import json

import pytest
import torch

import topograph as tg
from tests.growth.growth_parts import INSERT, PROBE, policy_of, train, training
from topograph.spec import Growth

KINDS = {
    "widen_layer": tg.WidenLayer(where=tg.named("4"), to=8),
    "add_adapter": tg.AddAdapter(where=tg.named("6"), rank=2),
    "add_branch": tg.AddBranch(source="linear_0", target="linear_4", projection="linear"),
    "insert_layer": INSERT,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_search_lowers_the_loss_and_training_goes_on(kind):
    parts = training(policy_of(candidates=(KINDS[kind],)))
    train(parts)
    revision = parts.grower.step(batches=PROBE)
    assert revision is not None, parts.grower.decision
    growth = parts.grower.growth
    assert growth.step > 0
    assert growth.predicted < 0
    assert growth.loss_after < growth.loss_before
    chosen = next(ranked for ranked in growth.ranking if ranked.chosen)
    assert chosen.mutation.kind == kind
    effects = revision.plan.effects
    assert chosen.parameters == effects.parameters_after - effects.parameters_before
    held = {id(p) for group in parts.optimizer.param_groups for p in group["params"]}
    assert held >= {id(p) for p in parts.grower.model.parameters()}
    values = {path: p.detach().clone() for path, p in parts.grower.model.named_parameters()}
    parts.optimizer.zero_grad()
    train(parts)
    after = dict(parts.grower.model.named_parameters())
    still = [path for path, value in values.items() if torch.equal(value, after[path])]
    assert not [path for path in still if path.startswith(("4.", "6.", "adapter", "branch"))]


def test_all_kinds_are_ranked_together():
    parts = training(policy_of(candidates=tuple(KINDS.values()), step=tg.Fixed(size=0.01)))
    assert parts.grower.step(batches=PROBE) is not None, parts.grower.decision
    growth = parts.grower.growth
    assert {ranked.mutation.kind for ranked in growth.ranking} == set(KINDS)
    change = growth.loss_after - growth.loss_before
    assert change == pytest.approx(growth.predicted, rel=0.1)


@pytest.mark.parametrize("scorer", ["natural", "topological_derivative"])
def test_the_history_keeps_the_error_of_every_score(scorer):
    parts = training(policy_of(scorer=scorer, step=tg.Zero()))
    loss, traced = torch.nn.functional.cross_entropy, parts.grower.traced
    errors = [found.error for found in tg.score(traced, PROBE, loss, [INSERT], scorer=scorer)]
    parts.grower.step(batches=PROBE)
    ranking = parts.grower.growth.ranking
    assert [ranked.error for ranked in ranking] == errors
    assert (None in errors) == (scorer == "topological_derivative")


def test_a_history_from_before_there_were_errors_is_read():
    parts = training(policy_of())
    parts.grower.step(batches=PROBE)
    growth = parts.grower.growth
    document = json.loads(growth.dump())
    for ranked in document["ranking"]:
        assert ranked.pop("error") is None
    assert Growth.parse(json.dumps(document)) == growth


def test_a_place_without_a_closed_form_says_why():
    """BatchNorm stands behind the first layer, which alone is asked for."""
    widen = tg.WidenLayer(where=tg.named("0"), to=8)
    with pytest.raises(tg.RefusedError, match="batchnorm1d_1 is batchnorm1d, no Linear and no"):
        training(policy_of(candidates=(widen,)))
