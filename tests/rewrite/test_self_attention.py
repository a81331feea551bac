"""The block `self_attention`: what it computes, what it keeps, and where it does not fit."""

import pytest
import torch
from torch import nn

import topograph as tg
from tests.attention_nets import MASKS, TOKENS, attended, mask_name, padded, padded_data
from tests.nets import make
from tests.rewrite.laws import assert_laws, change, new_parameters, without_gradient
from tests.rewrite.mutation_laws import laws, replayed
from tests.zoo import BY_NAME

VARIANTS = {
    "one head": {},
    "causal": {"heads": 2, "causal": True},
    "norm": {"heads": 3, "norm": True},
    "similar": {"heads": 2, "keys": "similar", "norm": True},
    "causal and similar": {"heads": 4, "keys": "similar", "causal": True},
}


def drawn(layers):
    """Give every parameter of a block another value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))


def seen_at(network, name, *inputs):
    """Return the value of a node when a graph runs."""
    values = {}

    class Look(torch.fx.Interpreter):
        def run_node(self, node):
            values[node.name] = super().run_node(node)
            return values[node.name]

    Look(network).run(*inputs)
    return values[name]


def inserted(traced, block, node):
    request = tg.InsertLayer(where=tg.at(node), block=block)
    return tg.apply(traced, tg.plan(traced, [request]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_what_is_written_out(variant):
    traced, block = make("vit"), tg.SelfAttention(units=3, **VARIANTS[variant])
    network = inserted(traced, block, "add").after.module.eval()
    drawn(network.self_attention_1)
    x = torch.randn(3, TOKENS, 4, dtype=torch.float64)
    before = seen_at(network, "add", x)
    expected = before + attended(network.self_attention_1, block, before)
    torch.testing.assert_close(seen_at(network, "self_attention_1_sum", x), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", MASKS)
def test_it_reads_a_mask(form, causal):
    if causal and form in ("added", "pairs"):
        return  # refused
    traced = padded(form)
    mask = mask_name(traced, form)
    block = tg.SelfAttention(units=2, heads=3, causal=causal, mask=mask, keys="similar")
    network = inserted(traced, block, "norm").after.module
    drawn(network.self_attention_1)
    ((words, keys), _), *_ = padded_data(form, 1)
    assert (keys.sum(1) == 0).any()  # one that sees nothing
    before, given = (seen_at(network, name, words, keys) for name in ("norm", mask))
    expected = before + attended(network.self_attention_1, block, before, given)
    torch.testing.assert_close(seen_at(network, "self_attention_1_sum", words, keys), expected)


def test_keys_start_at_0_or_as_channels():
    traced = make("vit")
    for keys in ("uniform", "similar"):
        block = tg.SelfAttention(units=4, heads=2, keys=keys)
        layers = inserted(traced, block, "add").after.module.self_attention_1
        assert layers.out.weight.abs().sum() == 0
        assert layers.value.weight.abs().min() > 0
        if keys == "uniform":
            assert layers.key.weight.abs().sum() == 0
            assert layers.query.weight.abs().min() > 0
        else:
            channels = torch.eye(6, dtype=torch.float64)[[0, 1, 2, 3, 4, 5, 0, 1]]
            assert torch.equal(layers.key.weight, channels)
            assert torch.equal(layers.query.weight, channels)


EVERYWHERE = [("vit", "norm"), ("tied", "similar"), ("attention", "causal and similar")]


@pytest.mark.parametrize(
    ("name", "variant"),
    [*EVERYWHERE, ("pooling", "one head"), *(("encoder", variant) for variant in VARIANTS)],
)
def test_it_changes_nothing_and_all_laws_hold(name, variant):
    example = BY_NAME[name]
    model = example.model()
    traced = tg.trace(model, example.inputs, example.kwargs)
    block = tg.SelfAttention(units=3, **VARIANTS[variant])
    plan = tg.plan(traced, [tg.InsertLayer(where=tg.all(), block=block)])
    revision = assert_laws(traced, plan)
    call = (example.inputs, example.kwargs)
    assert laws(traced, plan, [call]).problems == []
    assert replayed(revision, example.model(), call) == []
    assert tg.Plan.parse(plan.dump()) == plan
    assert not tg.plan(revision.after, [change.mutation for change in plan.changes])


@pytest.mark.parametrize("form", MASKS)
def test_with_a_mask_it_changes_nothing(form):
    traced = padded(form)
    block = tg.SelfAttention(units=3, heads=2, mask=mask_name(traced, form))
    everywhere = [tg.InsertLayer(where=tg.all(), block=block)]
    edges = [
        tg.InsertLayer(where=tg.between(e.source, e.target, e.slot), block=block)
        for e in traced.topology.edges
    ]
    for requests in (everywhere, edges):
        fitting = [m for m in tg.candidates(traced, requests) if isinstance(m, tg.InsertLayer)]
        assert len(fitting) > 3
        revision = assert_laws(traced, tg.plan(traced, fitting))
        inputs = padded_data(form, 1)[0][0]
        assert change(traced.module, revision.after.module, traced.inputs) == 0
        assert torch.equal(traced.module(*inputs), revision.after.module(*inputs))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_learns(variant):
    block = tg.SelfAttention(units=3, **VARIANTS[variant])
    revision = inserted(make("vit"), block, "add")
    parts = {path.split(".")[1] for path in new_parameters(revision)}
    assert parts == {"query", "key", "value", "out"} | ({"norm"} if block.norm else set())
    assert without_gradient(revision) == []


@pytest.mark.parametrize("gate", [0.0, -0.5, 1.0])
def test_as_the_path_of_a_branch(gate):
    traced = padded("keys")
    path = tg.SelfAttention(units=3, heads=2, mask="keys", causal=True)
    mutation = tg.AddBranch(source="embed", target="norm", gate=gate, path=path)
    revision = assert_laws(traced, tg.plan(traced, [mutation]))
    assert without_gradient(revision) == []
    network = revision.after.module
    drawn(network.branch_1)
    ((words, keys), _), *_ = padded_data("keys", 1)
    read, before = (seen_at(network, name, words, keys) for name in ("embed", "norm"))
    layers = network.branch_1
    expected = before + layers.gate * attended(layers.path, path, read, keys)
    torch.testing.assert_close(seen_at(network, "branch_1_sum", words, keys), expected)


@pytest.mark.parametrize(
    ("part", "space", "how", "shape"),
    [
        ("value", "value#2", "auto", (2, 4, 8)),
        ("value", "query#1", "auto", (4, 4, 4)),
        ("query", "query#2", "random", (2, 8, 4)),  # what mixes all units knows no start that keeps
    ],
)
def test_its_heads_and_their_widths_are_spaces(part, space, how, shape):
    traced = inserted(make("vit"), tg.SelfAttention(units=4, heads=2), "add").after
    drawn(traced.module.self_attention_1)
    where, space = tg.named(f"self_attention_1.{part}"), f"self_attention_1.{space}"
    wider = tg.WidenLayer(where=where, to=16, space=space, how=how)
    after = tg.apply(traced, tg.plan(traced, [wider])).after
    layers = after.module.self_attention_1
    heads = after.topology.by_name["self_attention_1_value_heads"].shape[1]
    assert (heads, len(layers.query.weight) // heads, len(layers.value.weight) // heads) == shape
    x = torch.randn(3, TOKENS, 4, dtype=torch.float64)
    given, found = (module.eval()(x) for module in (traced.module, after.module))
    assert torch.allclose(given, found) == (how == "auto")


def test_windows_folded_into_the_batch_have_tokens():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x.reshape(-1, 5, 4))).reshape(x.shape[0], -1)

    traced = tg.trace(Windows(), (torch.randn(3, 4, 5, 4),))
    assert traced.topology.by_name["a"].shape == ("4N", 5, 6)
    request = tg.InsertLayer(where=tg.at("a"), block=tg.SelfAttention(units=2))
    assert_laws(traced, tg.plan(traced, [request]))
