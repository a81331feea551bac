"""Edge cases of other widths: heads, blocks, closed parts, constants; see `test_edge_cases`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import topograph as tg
from tests.edge_cases.resizing import refusal, resized
from tests.zoo import BY_NAME, drawn

ROW, IMAGE, TOKENS = drawn(3, 6), drawn(2, 3, 8, 8), drawn(2, 5, 6)


class Attention(nn.Module):
    """Grouped queries; the numbers of heads and their size are attributes."""

    def __init__(self, heads=4, groups=2, size=3):
        super().__init__()
        self.num_heads, self.num_groups, self.head_dim = heads, groups, size
        self.hidden_dim = heads * size
        self.q, self.out = nn.Linear(6, heads * size), nn.Linear(heads * size, 6)
        self.k, self.v = nn.Linear(6, groups * size), nn.Linear(6, groups * size)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def forward(self, x):
        q = self.split(self.q(x), self.num_heads)
        k, v = (self.split(part(x), self.num_groups) for part in (self.k, self.v))
        repeat = self.num_heads // self.num_groups
        k, v = (part.repeat_interleave(repeat, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(x.shape[0], x.shape[1], self.hidden_dim))


def by_hand(old, groups):
    """Return the attention that has some of the groups of heads only."""
    size, repeat = old.head_dim, old.num_heads // old.num_groups
    small = [g * size + i for g in groups for i in range(size)]
    heads = [g * repeat + h for g in groups for h in range(repeat)]
    large = [h * size + i for h in heads for i in range(size)]
    hand, state = Attention(len(heads), len(groups), size), old.state_dict()
    picked = {"q.weight": large, "q.bias": large}
    picked |= {f"{part}.{name}": small for part in "kv" for name in ("weight", "bias")}
    state = {key: value[picked[key]] if key in picked else value for key, value in state.items()}
    state["out.weight"] = state["out.weight"][:, large]
    hand.load_state_dict(state)
    return hand


def test_grouped_query_heads():
    model = Attention()
    revision = resized(model, TOKENS, "k", 3)
    rows = revision.moved["k.weight"][0].old
    assert rows.tolist() in ([0, 1, 2], [3, 4, 5])  # a whole group
    hand = by_hand(model, [int(rows[0]) // 3])
    kept = tg.recompile(revision.after)
    assert tuple(kept.q.weight.shape) == (6, 6)  # and the queries that read it
    assert torch.equal(kept(TOKENS), hand(TOKENS))


def test_attributes_that_copy_a_width():
    """The forward that reads them runs its recorded graph, which has the new numbers in it."""
    model = nn.Sequential(Attention(), nn.Linear(6, 2))
    revision = resized(model, TOKENS, "0.k", 3)
    kept = tg.recompile(revision.after)
    assert revision.after.hosts == {"0"}
    assert "0 will run its recorded graph" in str(revision.plan)
    groups = [int(revision.moved["0.k.weight"][0].old[0]) // 3]
    hand = nn.Sequential(by_hand(model[0], groups), model[1])
    for batch in (1, 4):
        x = drawn(batch, 7, 6)
        assert torch.equal(kept(x), hand(x))
    assert (kept[0].q.out_features, kept[0].k.out_features, kept[0].out.in_features) == (6, 3, 6)


class Upscale(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.up, self.last = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width // 4, 2, 1)

    def forward(self, x):
        return self.last(F.pixel_shuffle(self.up(x), 2))


def test_pixel_shuffle_takes_whole_blocks():
    model = Upscale(12)
    revision = resized(model, IMAGE, "up", 5)
    keep, old = revision.moved["up.weight"][0].old, model.state_dict()
    assert revision.plan.changes[0].mutation.to == len(keep) == 8
    blocks = (keep.view(2, 4)[:, 0] // 4).tolist()
    assert keep.tolist() == [4 * block + i for block in blocks for i in range(4)]
    hand = Upscale(8)
    hand.load_state_dict(
        {
            "up.weight": old["up.weight"][keep],
            "up.bias": old["up.bias"][keep],
            "last.weight": old["last.weight"][:, blocks],
            "last.bias": old["last.bias"],
        }
    )
    assert torch.equal(tg.recompile(revision.after)(IMAGE), hand(IMAGE))


@pytest.mark.parametrize("name", ["vit", "resnet", "densenet", "gated", "recurrent"])
def test_other_sizes_after_a_resize(name):
    example = BY_NAME[name]
    base = tg.trace(example.model().eval(), example.inputs)
    layers = [n for n in base.topology.nodes if n.op in ("linear", "conv2d")]
    done = 0
    for node in layers:
        width = node.shape[-1 if node.op == "linear" else 1]
        ask = tg.NarrowLayer(where=tg.at(node.name), to=width // 2, outputs="change")
        if isinstance(tg.candidates(base, [ask])[0], tg.Refusal):
            continue
        after = tg.apply(base, tg.plan(base, [ask])).after
        first = tg.recompile(after)(*example.inputs)
        for batch in (1, 6):
            x = example.inputs[0][[0] * batch]
            for found, wanted in zip(leaves(tg.recompile(after)(x)), leaves(first), strict=True):
                assert found.shape == (batch, *wanted.shape[1:])
                assert torch.allclose(found[0], wanted[0], atol=1e-5)
        done += 1
    assert done


def leaves(output):
    return [*output.values()] if isinstance(output, dict) else [output]


def test_what_is_closed_is_left_alone():
    example = BY_NAME["on_data"]
    mutation = tg.WidenLayer(where=tg.named("0"), to=12)
    said = refusal(example.model(), example.inputs, mutation)
    assert said.startswith("linear_0: its width of 8 is fixed: ")
    assert "ondata" in said
    free = resized(example.model(), example.inputs, "3", 2, outputs="change")
    assert tg.recompile(free.after)(*example.inputs).shape == (3, 2)


def test_none_and_keyword_inputs():
    example = BY_NAME["keywords"]
    model = example.model()
    traced = tg.trace(model, example.inputs, example.kwargs)
    mutation = tg.NarrowLayer(where=tg.named("a"), to=3, outputs="change")
    revision = tg.apply(traced, tg.plan(traced, [mutation]))
    keep, kept = revision.moved["a.weight"][0].old, tg.recompile(revision.after)
    found = kept(*example.inputs, **example.kwargs)
    wanted = model(*example.inputs, **example.kwargs)
    assert torch.allclose(found["logits"], wanted["logits"][:, keep], atol=1e-6)
    assert (found["parts"][1], found["scale"]) == (None, 2.0)
    assert type(kept) is type(model)


def test_buffers_keep_their_persistence():
    example = BY_NAME["odds"]
    model = example.model()
    revision = resized(model, example.inputs, "fc", 4)
    keep, kept = revision.moved["fc.weight"][0].old, tg.recompile(revision.after)
    assert list(kept.state_dict()) == list(model.state_dict())
    assert "scale" not in kept.state_dict()
    assert torch.equal(kept.scale, model.scale[keep])
    assert torch.equal(kept.shift, model.shift[keep])
    assert kept.spare is model.spare
    assert kept.idle.weight is model.idle.weight
    assert not kept.frozen.weight.requires_grad


def test_a_parametrized_weight_is_refused():
    model = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    said = refusal(model, ROW, tg.WidenLayer(where=tg.named("0"), to=12))
    assert said.startswith(("linear_0: its width of 8 is fixed: ", "parametrizedlinear_0: "))
    assert "parametriz" in said
