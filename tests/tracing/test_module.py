"""The network that a trace returns: an ordinary module with the state of the model."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

import topograph as tg
from tests.zoo import BY_NAME, ROW, ZOO


def outputs(module: nn.Module, example) -> list[torch.Tensor]:
    torch.manual_seed(0)
    leaves = pytree.tree_leaves(module(*example.inputs, **example.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def persistence(module: nn.Module) -> dict[str, set[str]]:
    return {path: set(part._non_persistent_buffers_set) for path, part in module.named_modules()}


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_the_state_is_the_models_own(example):
    model = example.model()
    network = tg.trace(model, example.inputs, example.kwargs).module
    assert list(network.state_dict()) == list(model.state_dict())
    assert persistence(network) == persistence(model)
    for named in ("named_parameters", "named_buffers"):
        ours, theirs = (list(getattr(m, named)(remove_duplicate=False)) for m in (network, model))
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(a is b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    network.load_state_dict(model.state_dict())


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_a_deep_copy_keeps_keys_ties_and_outputs(example):
    network = tg.trace(example.model(), example.inputs, example.kwargs).module
    twin = copy.deepcopy(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert persistence(twin) == persistence(network)
    assert len(list(twin.parameters())) == len(list(network.parameters()))  # ties are kept
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in network.parameters()}
    for a, b in zip(outputs(network, example), outputs(twin, example), strict=True):
        assert torch.equal(a, b)


def test_adding_a_module_to_the_network_adds_none_to_the_model():
    model = BY_NAME["residual"].model()
    network = tg.trace(model, (ROW,)).module
    network.add_module("extra", nn.Linear(2, 2))
    assert not hasattr(model, "extra")


def test_pickling_says_what_to_do_instead():
    network = tg.trace(BY_NAME["mlp"].model(), (ROW,)).module
    with pytest.raises(tg.TraceError, match=r"a recorded network is not pickled .*state_dict"):
        pickle.dumps(network)
    with pytest.raises(tg.TraceError, match="a recorded network is not pickled"):
        torch.save(network, io.BytesIO())


def test_an_averaged_model_works():
    network = tg.trace(BY_NAME["tied"].model(), BY_NAME["tied"].inputs).module
    average = AveragedModel(network)
    start = network.fc.weight.detach().clone()
    average.update_parameters(network)
    with torch.no_grad():
        network.fc.weight += 2
    average.update_parameters(network)
    assert torch.allclose(average.module.fc.weight, start + 1)
    assert average.module.head.weight is average.module.embedding.weight


def test_hooks_of_leaves_are_kept_and_those_of_containers_are_noted():
    seen = []
    model = nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ReLU()))
    model[0].register_forward_hook(lambda module, args, output: seen.append("leaf"))
    model[1].register_forward_hook(lambda module, args, output: seen.append("container"))
    traced = tg.trace(model, (ROW,))
    seen.clear()
    traced.module(ROW)
    assert seen == ["leaf"]
    assert traced.notes == ("hooks of 1 ran while recording and are not called again",)


def test_a_network_can_be_traced_again():
    example = BY_NAME["vit"]
    network = tg.trace(example.model(), example.inputs).module
    again = tg.trace(network, example.inputs)
    assert tg.verify(network, again, example.inputs) == ()


def test_training_the_network_trains_the_model():
    model = BY_NAME["residual"].model()
    network = tg.trace(model, (ROW,)).module
    before = model.stem.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(ROW).sum().backward()
    optimizer.step()
    assert not torch.equal(model.stem.weight, before)


class Holding(nn.Module):
    """A layer and a tensor under a name, or deeper down."""

    def __init__(self, name, what):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        if what == "buffer":
            self.register_buffer(name, torch.ones(3))
        else:
            part = nn.Linear(3, 3) if what == "submodule" else nn.Parameter(torch.ones(3))
            setattr(self, name, part)
        self.name, self.what = name, what

    def forward(self, x):
        part = getattr(self, self.name)
        return self.inner(part(x) if self.what == "submodule" else x * part)


@pytest.mark.parametrize("what", ["submodule", "parameter", "buffer"])
@pytest.mark.parametrize("name", ["code", "graph", "meta", "calling", "recompile", "_graph"])
def test_a_name_that_the_network_needs_itself_is_refused(name, what):
    message = (
        rf"^Holding\.{name}: a {what} at the top of a model cannot be called '{name}': the "
        rf"recorded network, a torch\.fx\.GraphModule, has an attribute of that name; rename the "
        rf"{what}$"
    )
    with pytest.raises(tg.TraceError, match=message):
        tg.trace(Holding(name, what), (torch.ones(2, 3),))


@pytest.mark.parametrize("what", ["submodule", "parameter", "buffer"])
def test_a_name_that_the_network_can_do_without_is_free(what):
    model, x = Holding("shape_env", what), torch.randn(2, 3)
    traced = tg.trace(model, (x,))
    assert torch.equal(copy.deepcopy(traced.module)(x), model(x))


@pytest.mark.parametrize("name", ["code", "graph"])
def test_deeper_down_such_a_name_is_free(name):
    """An edited part runs its graph inside what is around it."""
    model, x = nn.Sequential(Holding(name, "submodule"), nn.Linear(3, 2)), torch.randn(2, 3)
    outer = nn.Sequential(nn.Linear(3, 3), model)
    traced = tg.trace(outer, (x,))
    change = tg.InsertLayer(where=tg.named(f"1.0.{name}"), block=tg.Linear())
    revision = tg.apply(traced, tg.plan(traced, [change]))
    after = tg.recompile(revision.after)
    assert torch.equal(after(x), outer(x))
    assert type(after[1]) is nn.Sequential
    with torch.no_grad():
        after.get_submodule(revision.plan.changes[0].path).linear.bias.fill_(1.0)
    grown = model[1](model[0].inner(getattr(model[0], name)(outer[0](x)) + 1))
    torch.testing.assert_close(after(x), grown)
