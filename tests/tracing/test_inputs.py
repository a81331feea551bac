"""Inputs of every form, closed and opened submodules, and tracing without inputs."""

import copy

import pytest
import torch
from torch import nn

import topograph as tg
from tests.zoo import BY_NAME, ROW, ZOO, Foreign, with_opaque
from topograph.errors import ShapeError

OTHER = ROW + 1


class Subtract(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, first, second):
        return self.fc(first) - 2 * self.fc(second)


def test_a_tensor_given_twice_is_two_inputs():
    model = Subtract()
    network = tg.trace(model, (ROW, ROW)).module
    assert torch.equal(network(ROW, OTHER), model(ROW, OTHER))
    assert torch.equal(network(second=ROW, first=OTHER), model(OTHER, ROW))


class Mixed(nn.Module):
    def forward(self, x, power, other, size=(2, 3), *more, shift, **named):
        total = x**power + other + sum(more) + shift["a"][0] + named["last"]
        return total.reshape(-1, *size)


def test_constants_may_stand_between_tensors():
    args = (ROW, 2, OTHER, (3, 2), ROW, OTHER)
    kwargs = {"shift": {"a": [ROW]}, "last": OTHER}
    traced = tg.trace(Mixed(), args, kwargs)
    network = traced.module
    assert torch.equal(network(**traced.inputs), Mixed()(*args, **kwargs))
    inputs = [node.target for node in traced.module.graph.nodes if node.op == "placeholder"]
    assert inputs == ["x", "power", "other", "size", "more_0", "more_1", "shift", "last"]


class Reserved(nn.Module):
    """Names that Python's builtins have; the graph's nodes are called otherwise."""

    def forward(self, input, id, *, type=None):
        return input * 2 + id


def test_inputs_keep_their_names():
    traced = tg.trace(Reserved(), (ROW,), {"id": OTHER})
    assert torch.equal(traced.module(input=ROW, id=OTHER), ROW * 2 + OTHER)
    assert tg.verify(Reserved(), traced, (ROW,), {"id": OTHER}) == ()
    assert set(traced.inputs) == {"input", "id", "type"}


class Options:
    power = 2


class WithOptions(nn.Module):
    def forward(self, x, options):
        return x**options.power


def test_an_input_of_a_foreign_type_is_accepted():
    network = tg.trace(WithOptions(), (ROW, Options())).module
    assert torch.equal(network(ROW, Options()), ROW**2)


def test_a_submodule_that_was_asked_to_stay_closed_is_one_node():
    example = BY_NAME["resnet"]
    model = example.model()
    traced = tg.trace(model, example.inputs, opaque=["blocks.0"])
    node = traced.topology.by_name["blocks_0"]
    assert (node.kind, node.op, node.opaque) == ("module", "basicblock", "asked for")
    assert traced.opaque == {"blocks.0": "asked for"}
    assert tg.verify(model, traced, example.inputs) == ()
    assert not any(n.target.startswith("blocks.0.") for n in traced.topology.nodes)


def test_a_layer_that_was_asked_to_be_opened_is_opened():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    traced = tg.trace(model, (ROW,), transparent=["0"])
    assert [node.op for node in traced.topology.nodes] == [
        "input", "parameter", "parameter", "linear", "relu", "output",
    ]  # fmt: skip
    assert tg.verify(model, traced, (ROW,)) == ()


OPAQUE = [
    ("on_data", "reads a tensor's value (Tensor.__bool__)"),
    ("foreign", "calls Doubled, whose own backward no graph can hold"),
]


@pytest.mark.parametrize(("name", "reason"), OPAQUE)
def test_what_cannot_be_written_down_stays_whole_with_its_reason(name, reason):
    traced = tg.trace(BY_NAME[name].model(), BY_NAME[name].inputs)
    assert traced.opaque == {"2": reason}
    assert (
        traced.topology.by_name[f"{type(BY_NAME[name].model()[2]).__name__.lower()}_2"].opaque
        == reason
    )
    assert [node.target for node in traced.topology.nodes[1:-1]] == ["0", "1", "2", "3"]


def test_an_own_backward_in_the_model_itself_is_refused():
    with pytest.raises(tg.TraceError, match=r"Foreign\.forward itself calls Doubled, whose own"):
        tg.trace(Foreign(), (ROW,))
    assert torch.autograd.Function.__dict__["apply"].__func__.__name__ == "apply"


class UsesData(nn.Module):
    def forward(self, x):
        x.data.mul_(2)
        return x


class UsesList(nn.Module):
    def forward(self, x):
        return x + torch.tensor(x.tolist())


REASONS = [(UsesList, r"reads a tensor's value \(Tensor.tolist\)")]


def test_tensor_data_is_read_without_gradients():
    model = UsesData()
    assert tg.verify(model, tg.trace(model, (ROW,)), (ROW,)) == ()


@pytest.mark.parametrize(("part", "reason"), REASONS)
def test_other_reasons(part, reason):
    with pytest.raises(tg.TraceError, match=f"{part.__name__}.forward itself {reason}"):
        tg.trace(part(), (ROW,))


SYMBOLIC = ["mlp", "residual", "resnet", "conv1d", "densenet", "gated", "tied", "twice", "norms"]


@pytest.mark.parametrize("name", SYMBOLIC)
def test_without_inputs_the_graph_is_traced_symbolically(name):
    example = BY_NAME[name]
    model = example.model()
    traced = tg.trace(model)
    assert tg.verify(model, traced, example.inputs, example.kwargs) == ()
    assert traced.notes == (
        "traced without example inputs: no shapes, and Python's control flow was not followed",
    )
    assert traced.values is None
    assert all(node.shape is None and not node.axes for node in traced.topology.nodes)


def test_without_inputs_a_mode_in_the_call_is_followed():
    model = BY_NAME["dropout"].model()
    traced = tg.trace(model)
    assert tg.verify(model, traced, (ROW,)) == ()


def test_without_inputs_control_flow_is_refused():
    with pytest.raises(
        tg.TraceError, match=r"cannot be traced without example inputs: .*; pass example"
    ):
        tg.trace(BY_NAME["on_data"].model())


def test_a_model_that_takes_no_inputs_is_recorded():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self):
            return self.weight * 2

    model = Constant()
    assert tg.verify(model, tg.trace(model)) == ()


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_tracing_twice_gives_the_same_topology(example):
    first = tg.trace(example.model(), example.inputs, example.kwargs).topology
    assert tg.trace(example.model(), example.inputs, example.kwargs).topology == first


def test_a_closed_part_can_be_traced_around():
    model = with_opaque(Foreign())
    traced = tg.trace(model, (ROW,))
    change = tg.InsertLayer(where=tg.at("tanh_1"), block=tg.Bottleneck(units=2))
    after = tg.apply(traced, tg.plan(traced, [change]), step=0).after
    assert torch.equal(after.module(ROW), model(ROW))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, mask=None, scale=1.0):
        x = self.layer(x) * scale
        return x if mask is None else x * mask


def test_a_constant_of_the_recording_cannot_be_replaced_silently():
    row = torch.randn(2, 3)
    network = tg.trace(Masked(), (row,)).module
    assert torch.equal(network(row, None), network(row, mask=None, scale=1.0))
    for call in (
        lambda: network(row, torch.ones(2, 3)),
        lambda: network(row, mask=torch.ones(2, 3)),
        lambda: copy.deepcopy(network)(row, mask=torch.ones(2, 3)),
    ):
        with pytest.raises(ShapeError, match="was traced with mask=None, so it cannot be called"):
            call()
    with pytest.raises(ShapeError, match=r"traced with scale=1\.0, .* another value \(float\)"):
        network(row, scale=2.0)


def test_a_grown_network_still_knows_its_constants():
    row = torch.randn(2, 3)
    traced = tg.trace(Masked(), (row,))
    change = tg.InsertLayer(where=tg.named("layer"), block=tg.Bottleneck(units=2))
    grown = tg.apply(traced, tg.plan(traced, [change])).after.module
    with pytest.raises(ShapeError, match="was traced with mask=None"):
        grown(row, torch.ones(2, 3))


class Positions(nn.Module):
    """A slice up to a size, as every model with learned positions has it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.position = nn.Parameter(torch.randn(1, 9, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position[:, : tokens.shape[1]]
        x = nn.functional.dropout(x, 0.5, self.training)
        return x + self.attention(x, x, x, need_weights=False)[0][:, : x.shape[1], -x.shape[2] :]


def test_a_slice_up_to_a_size_stays_symbolic():
    model, tokens = Positions(), torch.randint(0, 20, (2, 5))
    traced = tg.trace(model, (tokens,))
    assert tg.verify(model, traced, (tokens,)) == ()
    longer = torch.randint(0, 20, (3, 8))
    assert torch.equal(traced.module.eval()(longer), model.eval()(longer))
    change = tg.InsertLayer(where=tg.at("add"), block=tg.Bottleneck(units=2))
    grown = tg.apply(traced, tg.plan(traced, [change])).after.module.eval()
    assert torch.equal(grown(longer), model(longer))


def test_a_compiled_model_is_unwrapped_with_a_note():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    traced = tg.trace(torch.compile(model, backend="eager"), (ROW,))
    assert traced.module.get_parameter("0.weight") is model[0].weight
    assert "wrapper was taken off" in traced.notes[0]
