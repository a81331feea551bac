"""Other widths against models of that width whose weights were set by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.rewrite.laws import change
from tests.zoo import BY_NAME, DenseNet, GatedMLP, VisionTransformer, drawn
from topograph.spec import Refusal

ROW, IMAGE = drawn(3, 6), drawn(2, 3, 8, 8)
EPS = torch.finfo(torch.float32).eps


def made(model, inputs, mutation):
    """Return the revision of one mutation; the model's weights are drawn anew."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    traced = tg.trace(model.eval(), (inputs,))
    return tg.apply(traced, tg.plan(traced, [mutation]))


def loaded(model, state):
    """Return a model with a state; every key must be there and fit."""
    model.load_state_dict(state)
    return model.eval()


def mlp(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, 3))


def test_zero_draws_new_units_that_nothing_reads_yet():
    model = mlp()
    old = {key: value.clone() for key, value in model.state_dict().items()}
    traced = tg.trace(model, (ROW,))
    change_ = tg.WidenLayer(where=tg.named("0"), to=12)
    revision = tg.apply(traced, tg.plan(traced, [change_]))
    kept = tg.recompile(revision.after)
    state = kept.state_dict()
    assert type(kept) is nn.Sequential
    assert [layer.out_features for layer in (kept[0], kept[2])] == [12, 3]
    assert kept[2].in_features == 12
    assert torch.equal(state["0.weight"][:8], old["0.weight"])
    assert torch.equal(state["2.weight"][:, :8], old["2.weight"])
    assert (state["2.weight"][:, 8:] == 0).all()
    assert (state["0.bias"][8:] == 0).all()
    new = state["0.weight"][8:]
    assert 0.5 / 6**0.5 < new.abs().max() <= 1 / 6**0.5  # as torch starts a Linear(6, ...)
    assert torch.equal(loaded(mlp(12), state)(ROW), kept.eval()(ROW))
    assert change(traced.module, revision.after.module, traced.inputs) <= 8 * EPS


@pytest.mark.parametrize("to", [11, 16, 19])
def test_duplicate_is_net2wider_by_hand(to):
    revision = made(mlp(), ROW, tg.WidenLayer(where=tg.named("0"), to=to, how="duplicate"))
    index = revision.moved["2.weight"][1]
    old, share = index.old, index.share
    assert old[:8].tolist() == list(range(8))
    assert len(old) == to
    assert set(old.tolist()) == set(range(8))
    total = torch.zeros(8, dtype=torch.float64).index_add_(0, old, share)
    assert torch.allclose(total, torch.ones(8, dtype=torch.float64))
    before = revision.before.module.state_dict()
    state = {
        "0.weight": before["0.weight"][old],
        "0.bias": before["0.bias"][old],
        "2.weight": before["2.weight"][:, old] * share.float(),
        "2.bias": before["2.bias"],
    }
    found = tg.recompile(revision.after).state_dict()
    assert all(torch.allclose(found[key], state[key], rtol=EPS) for key in state)
    x = drawn(4, 6)
    assert torch.allclose(
        loaded(mlp(to), state)(x), revision.before.module(x), rtol=1e-5, atol=1e-5
    )


def test_copies_of_one_unit_have_different_shares_so_that_they_part():
    revision = made(mlp(), ROW, tg.WidenLayer(where=tg.named("0"), to=16, how="duplicate"))
    share = revision.moved["2.weight"][1].share
    assert ((share[:8] - share[8:]).abs() > 1e-3).any()
    assert ((share >= 0.3) & (share <= 0.7)).all()


def test_random_changes_the_function_and_the_plan_says_so():
    model = mlp()
    traced = tg.trace(model, (ROW,))
    plan = tg.plan(traced, [tg.WidenLayer(where=tg.named("0"), to=12, how="random")])
    assert "as asked: the function changes" in str(plan)
    revision = tg.apply(traced, plan)
    assert (revision.after.module.state_dict()["2.weight"][:, 8:] != 0).all()
    assert change(traced.module, revision.after.module, traced.inputs) > 1e-3


def cnn(width=4):
    body = (nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16 * width, 3))


def test_a_flattened_convolution_takes_whole_blocks_of_the_next_layer():
    keep = [0, 2, 3]
    mutation = tg.NarrowLayer(where=tg.named("0"), to=3, by="keep", keep=tuple(keep))
    revision = made(cnn(), IMAGE, mutation)
    old = revision.before.module.state_dict()
    state = {key: value[keep] for key, value in old.items() if value.ndim and "4." not in key}
    state["1.num_batches_tracked"] = old["1.num_batches_tracked"]
    state["4.weight"] = old["4.weight"].view(3, 4, 16)[:, keep].reshape(3, 48)
    state["4.bias"] = old["4.bias"]
    assert torch.equal(loaded(cnn(3), state)(IMAGE), tg.recompile(revision.after)(IMAGE))


def test_offsets_behind_a_cat():
    keep = (1, 3)
    mutation = tg.NarrowLayer(where=tg.named("stem"), to=2, by="keep", keep=keep)
    revision = made(DenseNet(), IMAGE, mutation)
    old = revision.before.module.state_dict()
    narrow = DenseNet()
    narrow.stem, narrow.a = nn.Conv2d(3, 2, 3, 1, 1), nn.Conv2d(2, 2, 1)
    narrow.b, narrow.norm, narrow.fc = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(6), nn.Linear(6, 3)
    own, a, b = list(keep), [*keep, 4, 5], [*keep, 4, 5, 6, 7]
    state = {
        key: value[b] if key.startswith("norm") and value.ndim else value
        for key, value in old.items()
    }
    state |= {"stem.weight": old["stem.weight"][own], "stem.bias": old["stem.bias"][own]}
    state |= {"a.weight": old["a.weight"][:, own], "b.weight": old["b.weight"][:, a]}
    state["fc.weight"] = old["fc.weight"][:, b]
    assert torch.equal(loaded(narrow, state)(IMAGE), tg.recompile(revision.after)(IMAGE))


def test_both_halves_of_a_gated_layer():
    keep = (0, 2, 5)
    mutation = tg.NarrowLayer(where=tg.named("up"), to=6, by="keep", keep=keep)
    revision = made(GatedMLP(), ROW, mutation)
    old = revision.before.module.state_dict()
    narrow, halves = GatedMLP(), [*keep, *(8 + unit for unit in keep)]
    narrow.up, narrow.down = nn.Linear(6, 6), nn.Linear(3, 6)
    state = {
        "up.weight": old["up.weight"][halves],
        "up.bias": old["up.bias"][halves],
        "down.weight": old["down.weight"][:, list(keep)],
        "down.bias": old["down.bias"],
    }
    found, wanted = tg.recompile(revision.after)(ROW), loaded(narrow, state)(ROW)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_groups_go_whole():
    def grouped(width):
        part = nn.Conv2d(width, width, 3, 1, 1, groups=width // 2)
        return nn.Sequential(nn.Conv2d(3, width, 1), part, nn.Conv2d(width, 2, 1))

    revision = made(grouped(8), IMAGE, tg.NarrowLayer(where=tg.named("0"), to=5))
    (edit,) = revision.plan.changes
    assert edit.mutation.to == 6  # whole groups of two
    old, found = revision.before.module.state_dict(), tg.recompile(revision.after)
    rows = revision.moved["0.weight"][0].old
    assert rows.view(3, 2).diff(dim=1).eq(1).all()
    assert rows.view(3, 2)[:, 0].remainder(2).eq(0).all()
    state = {
        **{f"0.{name}": old[f"0.{name}"][rows] for name in ("weight", "bias")},
        **{f"1.{name}": old[f"1.{name}"][rows] for name in ("weight", "bias")},
        "2.weight": old["2.weight"][:, rows],
        "2.bias": old["2.bias"],
    }
    assert found[1].groups == 3
    assert torch.equal(loaded(grouped(6), state)(IMAGE), found(IMAGE))


def test_depthwise_follows_its_input():
    def depthwise(width):
        part = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        return nn.Sequential(nn.Conv2d(3, width, 1), part, nn.Conv2d(width, 2, 1))

    keep = [1, 2]
    mutation = tg.NarrowLayer(where=tg.named("1"), to=2, by="keep", keep=tuple(keep))
    revision = made(depthwise(4), IMAGE, mutation)
    old, found = revision.before.module.state_dict(), tg.recompile(revision.after)
    state = {key: value[keep] for key, value in old.items() if "2." not in key}
    state |= {"2.weight": old["2.weight"][:, keep], "2.bias": old["2.bias"]}
    assert torch.equal(loaded(depthwise(2), state)(IMAGE), found(IMAGE))


class Heads(nn.Module):
    """Attention whose heads and head size are attributes."""

    def __init__(self, heads=4, size=2):
        super().__init__()
        self.num_heads, self.head_dim = heads, size
        self.qkv, self.out = nn.Linear(6, 3 * heads * size), nn.Linear(heads * size, 6)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dim).unbind(2)
        y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.out(y.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


def test_heads_go_whole():
    x = drawn(2, 5, 6)
    revision = made(Heads(), x, tg.NarrowLayer(where=tg.named("qkv"), to=12))
    old = revision.before.module.state_dict()
    columns = revision.moved["out.weight"][1].old
    heads = columns.view(2, 2)[:, 0] // 2
    assert columns.tolist() == [2 * head + i for head in heads.tolist() for i in (0, 1)]
    rows = torch.cat([columns, 8 + columns, 16 + columns])
    state = {"qkv.weight": old["qkv.weight"][rows], "qkv.bias": old["qkv.bias"][rows]}
    state |= {"out.weight": old["out.weight"][:, columns], "out.bias": old["out.bias"]}
    assert torch.equal(loaded(Heads(2), state)(x), tg.recompile(revision.after)(x))


def test_the_residual_stream_of_a_transformer_with_copies_of_all():
    base = tg.trace(VisionTransformer().eval(), (IMAGE,))
    plan = tg.plan(base, [tg.WidenLayer(where=tg.named("patch"), to=16)])
    assert plan.changes[0].mutation.how == "duplicate"
    revision = tg.apply(base, plan)
    assert revision.after.module.state_dict()["position"].shape == (1, 5, 16)
    assert change(base.module, revision.after.module, base.inputs) <= 64 * EPS


def test_magnitude_keeps_the_largest_rows():
    model = mlp()
    revision = made(model, ROW, tg.NarrowLayer(where=tg.named("0"), to=3))
    old = revision.before.module.state_dict()["0.weight"]
    best = sorted(old.square().sum(1).topk(3).indices.tolist())
    assert revision.plan.changes[0].mutation.keep == {"0": tuple(best)}
    assert torch.equal(revision.after.module.state_dict()["0.weight"], old[best])


def test_magnitude_counts_every_matrix_of_a_residual_stream_alike():
    example = BY_NAME["residual"]
    model = example.model()
    with torch.no_grad():
        model.layers[0].weight *= 1e-3  # its scale must not matter
    traced = tg.trace(model, example.inputs)
    plan = tg.plan(traced, [tg.NarrowLayer(where=tg.named("stem"), to=5)])
    makers = [model.stem.weight, *(layer.weight for layer in model.layers)]
    sums = [weight.detach().double().square().sum(1) for weight in makers]
    worth = sum(one / one.mean() for one in sums)
    assert plan.changes[0].mutation.keep == {"stem": tuple(sorted(worth.topk(5).indices.tolist()))}


def test_scores_choose_and_the_plan_writes_units_down():
    scores = (0.1, 5.0, 0.2, 4.0, 0.0, 0.3, 0.0, 3.0)
    traced = tg.trace(mlp(), (ROW,))
    mutation = tg.NarrowLayer(where=tg.named("0"), to=3, by="scores", scores=scores)
    pinned = tg.plan(traced, [mutation]).changes[0].mutation
    assert (pinned.by, pinned.keep, pinned.scores) == ("keep", {"0": (1, 3, 7)}, None)


@pytest.mark.parametrize("name", ["mlp", "residual", "resnet", "vit", "gated", "densenet"])
def test_wider_and_back_is_bit_equal(name):
    example = BY_NAME[name]
    base = tg.trace(example.model(), example.inputs)
    done = 0
    for node in base.topology.nodes:
        if node.op not in ("linear", "conv2d"):
            continue
        old = node.shape[-1 if node.op == "linear" else 1]
        ask = tg.WidenLayer(where=tg.at(node.name), to=2 * old, how="zero")
        if isinstance(tg.candidates(base, [ask])[0], Refusal):
            continue
        wide = tg.apply(base, tg.plan(base, [ask]))
        keep = {edit.space: tuple(range(edit.before)) for edit in wide.plan.edits[0].spaces}
        back = tg.NarrowLayer(where=tg.at(node.name), to=old, by="keep", keep=keep)
        narrow = tg.apply(wide.after, tg.plan(wide.after, [back])).after
        first, second = base.module.state_dict(), narrow.module.state_dict()
        assert change(base.module, narrow.module, base.inputs) == 0.0
        assert name == "vit" or narrow.topology == base.topology  # its scale is written out
        assert all(torch.equal(first[key], second[key]) for key in first)
        done += 1
    assert done


def test_new_units_in_front_of_frozen_readers_are_copies_so_that_they_learn():
    model = mlp()
    model[2].requires_grad_(False)
    traced = tg.trace(model, (ROW,))
    plan = tg.plan(traced, [tg.WidenLayer(where=tg.named("0"), to=12)])
    assert plan.changes[0].mutation.how == "duplicate"
    after = tg.apply(traced, plan).after.module
    after(ROW).square().sum().backward()
    assert (after.get_parameter("0.weight").grad[8:].abs().amax(1) > 0).all()
