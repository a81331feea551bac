"""`remove_layer` against the eager model without that layer; `between` against the eager edge."""

import pytest
import torch
from torch import nn

import topograph as tg
from tests.rewrite.laws import run
from tests.zoo import BY_NAME, ROW


def assert_equals(network, oracle, inputs):
    for training in (False, True):
        found, wanted = run(network, inputs, training), run(oracle, inputs, training)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def removed(name, path):
    example = BY_NAME[name]
    model = example.model()
    traced = tg.trace(model, example.inputs, example.kwargs)
    revision = tg.apply(traced, tg.plan(traced, [tg.RemoveLayer(where=tg.named(path))]))
    return model, revision, dict(traced.inputs)


REMOVALS = [
    ("resnet", "blocks.0.bn1"),
    ("resnet", "blocks.1.bn2"),
    ("vit", "norm2"),
    ("vit", "mlp.1"),
    ("encoder", "1"),
    ("norms", "1"),
    ("on_data", "2"),
    ("odds", "fc"),
    ("channels_last", "blocks.1.bn1"),
]


@pytest.mark.parametrize(("name", "path"), REMOVALS)
def test_removal_equals_the_model_without_the_layer(name, path):
    model, revision, inputs = removed(name, path)
    network = revision.after.module
    oracle = BY_NAME[name].model()
    oracle.set_submodule(path, nn.Identity())
    assert_equals(network, oracle, inputs)
    gone = {key for key in model.state_dict() if key.startswith(f"{path}.")}
    assert set(model.state_dict()) - set(network.state_dict()) == gone
    assert model.get_submodule(path) is not None  # the original keeps it
    with pytest.raises(AttributeError, match="has no attribute"):
        network.get_submodule(path)
    output = network(**inputs)
    if output.requires_grad:
        output.sum().backward()


def test_a_function_can_be_removed():
    model, revision, inputs = removed("residual", "tanh")
    h = model.stem(ROW)
    for layer in model.layers:
        h = h + torch.relu(layer(h))
    assert torch.equal(revision.after.module(**inputs), model.head(h))
    assert str(revision.diff.changes[0]).startswith("- tanh  tanh of stem")


def test_a_shared_module_stays_while_another_call_uses_it():
    example = BY_NAME["twice"]
    traced = tg.trace(example.model(), example.inputs)
    once = tg.apply(traced, tg.plan(traced, [tg.RemoveLayer(where=tg.at("shared_1"))])).after
    assert list(once.module.state_dict()) == list(traced.module.state_dict())
    assert [node.op for node in once.topology.nodes].count("linear") == 2
    fc, head = traced.module.shared, traced.module.head
    expected = head(torch.tanh(torch.tanh(fc(ROW))))
    assert torch.equal(once.module(ROW), expected)
    gone = tg.apply(once, tg.plan(once, [tg.RemoveLayer(where=tg.at("shared"))])).after
    assert "shared.weight" not in gone.module.state_dict()
    assert "shared.weight" in once.module.state_dict()


def test_a_weight_that_is_tied_or_read_by_itself_stays():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(x) @ self.fc.weight

    traced = tg.trace(Tied(), (ROW,))
    after = tg.apply(traced, tg.plan(traced, [tg.RemoveLayer(where=tg.at("fc"))])).after
    assert list(after.module.state_dict()) == ["fc.weight", "fc.bias"]
    assert torch.equal(after.module(ROW), ROW @ traced.module.fc.weight)


def test_a_part_of_a_closed_module_that_is_still_called_stays():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

        def forward(self, x):
            return self.inner(self.inner[0](x))

    traced = tg.trace(Outer(), (ROW,), opaque=["inner"])
    after = tg.apply(traced, tg.plan(traced, [tg.RemoveLayer(where=tg.at("inner_0"))])).after
    assert list(after.module.state_dict()) == list(traced.module.state_dict())
    assert torch.equal(after.module(ROW), traced.module.inner(ROW))


def test_layers_in_a_row_can_be_removed_in_one_plan():
    example = BY_NAME["vit"]
    traced = tg.trace(example.model(), example.inputs)
    requests = [tg.RemoveLayer(where=tg.named(path)) for path in ("norm1", "norm2", "mlp.1")]
    after = tg.apply(traced, tg.plan(traced, requests)).after
    oracle = example.model()
    for path in ("norm1", "norm2", "mlp.1"):
        oracle.set_submodule(path, nn.Identity())
    assert_equals(after.module, oracle, dict(traced.inputs))
    assert not any("norm" in key for key in after.module.state_dict())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        h = self.fc(x)
        return torch.addcmul(h, h, h) + h


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_between_changes_only_its_slot(slot):
    traced = tg.trace(Twice(), (ROW,))
    where = tg.between("fc", "addcmul", slot=slot)
    plan = tg.plan(traced, [tg.InsertLayer(where=where, block=tg.Linear())])
    assert len(plan.changes) == 1
    network = tg.apply(traced, plan, step=0).after.module
    with torch.no_grad():
        network.linear_1.linear.weight.copy_(torch.randn(6, 6))
        network.linear_1.linear.bias.fill_(0.5)
    h = network.fc(ROW)
    parts = [h, h, h]
    parts[slot] = h + network.linear_1.linear(h)
    assert torch.equal(network(ROW), torch.addcmul(*parts) + h)


def test_between_without_a_slot_means_every_use():
    traced = tg.trace(Twice(), (ROW,))
    where = tg.between("fc", "addcmul")
    assert len(tg.plan(traced, [tg.InsertLayer(where=where, block=tg.Linear())]).changes) == 3
