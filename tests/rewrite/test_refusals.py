"""Every "no" names a node, a reason and a next step."""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
from torch import nn

import topograph as tg
from tests.zoo import BY_NAME, IMAGE, ROW

LINEAR, CONV = tg.Bottleneck(units=2), tg.ConvBottleneck(units=2)


def insert(where, block=LINEAR):
    return tg.InsertLayer(where=where, block=block)


class Odd(nn.Module):
    """Integers, an unread value, a parameter, a value with its own rank, a tuple."""

    def __init__(self):
        super().__init__()
        self.fc, self.wide, self.weight = (
            nn.Linear(6, 6),
            nn.Linear(6, 4),
            nn.Parameter(torch.ones(6)),
        )
        self.precise = nn.Linear(6, 6).double()

    def forward(self, x):
        h = self.fc(x)
        torch.tanh(h)
        best = h.argmax(1)
        double = self.precise(h.double())
        outer = h[:, :, None] * h[:, None, :]
        return h * self.weight, self.wide(h), best, outer.exp(), double + 1


CASES = [
    ("odd", insert(tg.at("output")), "'output' is the model's output, no layer"),
    ("odd", insert(tg.at("weight")), "weight: a block follows a value that flows; this is parameter"),
    ("odd", insert(tg.at("tanh")), "tanh: a block follows a value that flows; .* choose a module"),
    ("odd", insert(tg.at("argmax")), "argmax: its value is int64, not floating point; choose another"),
    ("odd", insert(tg.at("exp")), "exp: its value .* has no certain channel axis; choose a node behind"),
    ("odd", insert(tg.at("fc"), CONV), r"fc: a conv_bottleneck works on \[N, C, space…\]; here is \[N, 6\]"),
    ("resnet", insert(tg.at("conv")), "conv: a bottleneck works on channels on the last axis; here is"),
    ("resnet", insert(tg.at("blocks_0_conv3")), "no node is called 'blocks_0_conv3'; nearest: blocks_0_conv"),
    ("vit", insert(tg.between("norm1", "size_2")), "size_2: it reads a size, no values; choose another reader"),
    ("odd", tg.AddBranch(source="fc", target="wide"), r"wide: a branch must keep the shape: \[N, 6\] joins \[N, 4\]; give proj"),
    ("odd", tg.AddBranch(source="mul_1", target="fc"), "fc: mul_1 is not above it, so the branch would be a cycle"),
    ("odd", tg.AddBranch(source="fc", target="fc"), "fc: fc is not above it, so the branch would be a cycle"),
    ("odd", tg.AddBranch(source="weight", target="wide"), "weight: parameter is no tensor value; choose a layer"),
    ("odd", tg.AddBranch(source="fc", target="tanh"), "tanh: nothing reads it; choose another end"),
    ("odd", tg.AddBranch(source="tanh", target="precise"), "tanh: nothing reads it; choose another end"),
    ("odd", tg.AddBranch(source="fc", target="precise"), "precise: float32 joins float64; both must be one floating"),
    ("odd", tg.AddBranch(source="fc", target="argmax"), "argmax: float32 joins int64"),
    ("odd", tg.AddBranch(source="fc", target="exp", projection="linear"), "exp: a projection needs one channel axis on both ends"),
    ("resnet", tg.AddBranch(source="conv", target="fc", projection="linear"), "fc: a projection needs one channel axis"),
    ("odd", tg.RemoveLayer(where=tg.at("wide")), r"wide: it makes \[N, 4\] float32 of \[N, 6\] float32; remove only layers that keep"),
    ("odd", tg.RemoveLayer(where=tg.at("x")), "x: it is input, no layer; choose a layer"),
    ("odd", tg.RemoveLayer(where=tg.at("tanh")), "tanh: nothing reads it any more; leave it out"),
    ("odd", tg.RemoveLayer(where=tg.at("double")), r"double: it makes \[N, 6\] float64 of \[N, 6\] float32"),
    ("odd", tg.RemoveLayer(where=tg.between("fc", "wide")), "wide: an edge is not a layer; name the node"),
    ("residual", tg.RemoveLayer(where=tg.at("add")), "add: a removed layer is replaced by its one input; this one reads tanh, act"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "mutation", "message"), CASES)
def test_a_refusal_has_a_node_a_reason_and_a_next_step(name, mutation, message):
    inputs = {"odd": ROW, "residual": ROW}.get(name, IMAGE)
    model = Odd() if name == "odd" else BY_NAME[name].model()
    traced = tg.trace(model, (inputs,))
    with pytest.raises((tg.RefusedError, tg.SelectorError), match=message):
        tg.plan(traced, [mutation])


def test_candidates_give_places_and_refusals_in_topological_order():
    traced = tg.trace(BY_NAME["residual"].model(), (ROW,))
    found = tg.candidates(traced, [insert(tg.named("*"))])
    names = [m.where.node if isinstance(m, tg.InsertLayer) else m.node for m in found]
    assert names == [node.name for node in traced.topology.nodes if node.kind != "output"]
    assert all(
        refusal.reason and refusal.fix for refusal in found if isinstance(refusal, tg.Refusal)
    )


def test_some_refused_places_do_not_stop_the_others():
    traced = tg.trace(BY_NAME["resnet"].model(), (IMAGE,))
    plan = tg.plan(traced, [insert(tg.all())])
    assert plan.changes
    assert plan.refusals
    assert "refused  conv: a bottleneck works on channels on the last axis" in str(plan)


def test_all_refused_carries_the_refusals():
    traced = tg.trace(BY_NAME["resnet"].model(), (IMAGE,))
    with pytest.raises(tg.RefusedError, match=r"every place was refused \(6\):") as caught:
        tg.plan(traced, [insert(tg.after(op="conv2d"))])
    assert caught.value.refusals[0].node == "conv"
