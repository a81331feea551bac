"""The closed form of self-attention is the finite difference of the network that is grown by it."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import topograph as tg
from tests.attention_nets import (
    MASKS,
    language,
    language_data,
    mask_name,
    padded,
    padded_data,
    weights_of,
)
from tests.nets import data, make, places_of
from tests.virtual_maps import losses_each
from topograph.rewrite.apply import set_step
from topograph.sensitivity import mean_loss
from topograph.sensitivity.contexts import Context

VARIANTS = {
    "one head": {},
    "causal": {"heads": 2, "causal": True},
    "norm": {"norm": True},
    "similar": {"heads": 3, "keys": "similar"},
    "all": {"heads": 3, "keys": "similar", "causal": True, "norm": True},
}


def everywhere(traced, block):
    """Return the block at every node and on every use that takes it; at least one of each."""
    found = [places_of(traced, block, edges=edges) for edges in (False, True)]
    assert all(found)
    return [*found[0], *found[1]]


def assert_exact(traced, batches, wanted, **how):
    """Check scores against the network as it is grown: the error falls with the step squared."""
    scores = tg.score(traced, batches, F.cross_entropy, wanted, **how)
    assert len(scores) == len(wanted)
    before = mean_loss(traced, batches, F.cross_entropy)
    steps = (1e-2, 1e-3)
    for score, (at_0, *after) in losses_each(traced, scores, batches, (0, *steps), F.cross_entropy):
        assert score.order == 2
        length = sum(part.square().sum().item() for part in score.direction.values())
        assert length == pytest.approx(1)
        assert at_0 == before
        falls = zip(steps, after, strict=True)
        errors = [abs((before - loss) / step**2 / score.value - 1) for step, loss in falls]
        assert errors[0] < 1e-2, score
        assert errors[1] < 0.012 * errors[0] + 1e-9 / score.value, (score, errors)
    return scores


@pytest.mark.parametrize("variant", ["one head", "all"])
def test_at_every_node_and_edge(variant):
    block = tg.SelfAttention(units=2, **VARIANTS[variant])
    assert_exact(make("vit"), data("vit", 2), everywhere(make("vit"), block))


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_a_vision_transformer(variant):
    block = tg.SelfAttention(units=2, **VARIANTS[variant])
    where = [tg.at("add"), tg.between("add", "add_1")]
    wanted = [tg.InsertLayer(where=place, block=block) for place in where]
    assert_exact(make("vit"), data("vit", 2), wanted)


@pytest.mark.parametrize("variant", ["causal", "all"])
def test_in_a_language_model(variant):
    traced, block = language(), tg.SelfAttention(units=2, **VARIANTS[variant])
    wanted = places_of(traced, block)
    assert {place.where.node for place in wanted} > {"embed", "add", "add_1", "add_2", "norm"}
    assert_exact(traced, language_data(2), wanted[::2])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", MASKS)
def test_with_a_mask(form, variant):
    if form in ("added", "pairs") and VARIANTS[variant].get("causal"):
        return  # refused
    traced = padded(form)
    block = tg.SelfAttention(units=2, mask=mask_name(traced, form), **VARIANTS[variant])
    where = [tg.at("embed"), tg.at("norm"), tg.between("embed", "up")]
    wanted = [tg.InsertLayer(where=place, block=block) for place in where]
    assert_exact(traced, padded_data(form, 2), wanted)


@pytest.mark.parametrize("gate", [0.7, -0.5])
def test_as_the_path_of_a_branch(gate):
    traced, batches = padded("keys"), padded_data("keys", 2)
    path = tg.SelfAttention(units=2, heads=3, keys="similar", mask="keys")
    wanted = [tg.AddBranch(source="embed", target="norm", gate=gate, path=path)]
    assert_exact(traced, batches, wanted)
    shut = [tg.AddBranch(source="embed", target="norm", path=path)]
    with pytest.raises(tg.RefusedError, match="its path is drawn behind a gate of 0, and the"):
        tg.score(traced, batches, F.cross_entropy, shut)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_other_direction_does_better(variant):
    traced, batches = make("vit"), data("vit", 2)
    block = tg.SelfAttention(units=2, **VARIANTS[variant])
    change = tg.InsertLayer(where=tg.at("add"), block=block)
    (score,) = tg.score(traced, batches, F.cross_entropy, [change])
    after = tg.apply(traced, tg.plan(traced, [change]), directions=[score], step=0).after
    weights = dict(after.module.self_attention_1.named_parameters())
    parts = ["value.weight", "value.bias", "out.weight"]
    with torch.no_grad():
        for part in parts:
            weights[part].zero_()

    def loss(*given):
        named = {f"self_attention_1.{p}": g for p, g in zip(parts, given, strict=True)}
        run = torch.func.functional_call
        module = after.module.eval()
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return sum(F.cross_entropy(run(module, named, (x,)), y) for x, y in batches) / 2

    start = tuple(weights[part].detach() for part in parts)
    rows = torch.autograd.functional.hessian(loss, start)
    sizes = [part.numel() for part in start]
    dense = torch.cat(
        [torch.cat([rows[i][j].reshape(sizes[i], sizes[j]) for j in range(3)], 1) for i in range(3)]
    )
    largest = torch.linalg.eigvalsh(-dense)[-1].item() / 2
    assert score.value == pytest.approx(largest, rel=1e-9)


def test_several_directions_lie_in_the_best_head():
    traced, batches = make("vit"), data("vit", 2)
    block = tg.SelfAttention(units=2, heads=3, keys="similar")
    change = tg.InsertLayer(where=tg.at("add"), block=block)
    for count in (2, 5):  # a head has two units
        (score,) = assert_exact(traced, batches, [change], directions=count)
        assert score.direction["value.weight"].shape == (2, 6)


def test_the_best_head_is_first_at_any_step():
    traced, batches = make("vit"), data("vit", 2)
    block = tg.SelfAttention(units=2, heads=3, keys="similar")
    scores = tg.score(traced, batches, F.cross_entropy, everywhere(traced, block))
    moved = [score for score in scores if score.start]
    assert moved
    assert len(moved) < len(scores)
    for score in moved[:2]:
        plan = tg.plan(traced, [score.mutation])
        revision = tg.apply(traced, plan, directions=[score], step=0)
        assert mean_loss(revision.after, batches, F.cross_entropy) == mean_loss(
            traced, batches, F.cross_entropy
        )
        layers = revision.after.module.self_attention_1
        channels = layers.query.weight.argmax(1).view(3, 2)[:, 0].tolist()
        assert sorted(channels) == [0, 2, 4]
        assert channels[0] != 0
        assert torch.equal(layers.query.weight, layers.key.weight)
        set_step(revision, [score], 0.1)
        assert mean_loss(revision.after, batches, F.cross_entropy) < mean_loss(
            traced, batches, F.cross_entropy
        )


@pytest.mark.parametrize("units", [0, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", [None, *MASKS])
def test_the_statistic_is_the_sum_over_pairs_of_tokens(form, units, causal):
    generator = torch.Generator().manual_seed(0)
    x, p = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    mask = {
        None: None,
        "keys": torch.rand(3, 4, generator=generator) < 0.6,
        "counted": torch.tensor([[1, 1, 0, 1]] * 3),
        "added": torch.randn(3, 4, generator=generator, dtype=torch.float64),
        "pairs": torch.rand(1, 1, 4, 4, generator=generator) < 0.5,
    }[form]
    heads = 2 if units else 1
    found = Context(False, causal, heads, units, ())
    found(x, p, *([] if mask is None else [mask]))
    scores = torch.zeros(3, heads, 4, 4, dtype=torch.float64)
    for head in range(heads if units else 0):
        part = x[..., head * units : (head + 1) * units]
        scores[:, head] = part @ part.mT / math.sqrt(units)
    weights = weights_of(scores, mask, causal)
    ones = torch.cat([x, torch.ones(3, 4, 1, dtype=torch.float64)], 2)
    expected = torch.zeros(heads, 5, 6, dtype=torch.float64)
    for n, h, t, key in itertools.product(range(3), range(heads), range(4), range(4)):
        expected[h] += weights[n, h, t, key] * torch.outer(p[n, t], ones[n, key])
    torch.testing.assert_close(found.total, expected)


def test_long_values_are_read_in_parts():
    x, p = torch.randn(2, 9, 200, 30)
    keys = torch.rand(9, 200) < 0.8
    whole, parts = (Context(True, True, 2, 4, ()) for _ in range(2))
    whole(x, p, keys)
    for one in range(9):
        parts(x[one : one + 1], p[one : one + 1], keys[one : one + 1])
    torch.testing.assert_close(whole.total, parts.total, rtol=1e-4, atol=1e-3)


def test_heads_that_are_the_same_share_one_value():
    traced, batches = make("vit"), data("vit", 2)
    wanted = [
        tg.InsertLayer(where=tg.at("add"), block=tg.SelfAttention(units=2, heads=heads, **others))
        for heads in (1, 3)
        for others in ({}, {"causal": True}, {"norm": True}, {"keys": "similar"})
    ]
    scores = tg.score(traced, batches, F.cross_entropy, wanted)
    values = {s.mutation: s.value for s in scores}
    first, second = ([values[m] for m in wanted[i : i + 4]] for i in (0, 4))
    assert first[:3] == second[:3]
    assert first[3] <= second[3]  # a larger choice of heads
    assert len(set(first)) == 4


@pytest.mark.parametrize("variant", ["causal", "norm", "all"])
def test_the_cost_is_what_the_plan_says(variant):
    block = tg.SelfAttention(units=2, **VARIANTS[variant])
    for traced, batches in ((make("vit"), data("vit")), (language(), language_data(1))):
        for change in places_of(traced, block)[::4]:
            (score,) = tg.score(traced, batches, F.cross_entropy, [change])
            effects = tg.plan(traced, [change]).effects
            assert score.cost.parameters == effects.parameters_after - effects.parameters_before
            assert score.cost.flops == effects.flops_after - effects.flops_before


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_is_near_double(variant):
    block = tg.SelfAttention(units=2, mask="keys", **VARIANTS[variant])
    values = []
    for dtype in (torch.float64, torch.bfloat16):
        traced = padded("keys", dtype=dtype)
        wanted = places_of(traced, block)
        found = tg.score(traced, padded_data("keys", 2, 32), F.cross_entropy, wanted)
        values.append({str(s.mutation.where): s.value for s in found})
        assert all(p.dtype != torch.bfloat16 for s in found for p in s.direction.values())
    for place, value in values[0].items():
        assert values[1][place] == pytest.approx(value, rel=0.2)
