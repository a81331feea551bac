"""Law 1 over random models: traced, compared, left alone, saved, and loaded into another."""

import random
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.utils import _pytree as pytree

import topograph as tg
from tests.often import often
from tests.random_models import WAITING, Description, Inputs, build, every_feature, simplest
from tests.strategies import random_models
from topograph.store.tensors import load_state, pack, unpack

OTHER_BATCH = 5
OTHER_WEIGHTS = 1_000
SLOW = [HealthCheck.too_slow]


def bits(value: Any) -> Any:
    """Return a value as plain data that is equal only where every bit is."""
    if isinstance(value, torch.Tensor):
        whole = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), whole.numpy().tobytes()
    if is_dataclass(value):
        parts = [(field.name, bits(getattr(value, field.name))) for field in fields(value)]
        return type(value).__name__, parts
    leaves, layout = pytree.tree_flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return value
    return str(layout), [bits(leaf) for leaf in leaves]


def situation(model: nn.Module) -> dict[str, Any]:
    """Return all of a model and of the generators that neither `trace` nor `verify` may touch."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    buffers = list(model.named_buffers(remove_duplicate=False))
    return {
        "state": [(key, bits(value)) for key, value in model.state_dict().items()],
        "buffers": [(path, id(value), bits(value)) for path, value in buffers],
        "parameters": [(path, id(p), p.requires_grad) for path, p in parameters],
        "gradients": [(path, id(p.grad), bits(p.grad)) for path, p in parameters],
        "modes": [(path, id(part), part.training) for path, part in model.named_modules()],
        "attributes": [(path, sorted(vars(part))) for path, part in model.named_modules()],
        "torch": bits(torch.get_rng_state()),
        "python": random.getstate(),
    }


def prepared(description: Description) -> tuple[nn.Module, Inputs]:
    """Return a model in train, with some gradients and one submodule in eval, and its inputs."""
    model, inputs = build(description)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.full_like(parameter, 0.5)
    list(model.modules())[-1].eval()
    return model, inputs


def outputs(module: nn.Module, description: Description) -> list[Any]:
    """Return what a module gives in eval at two batch sizes."""
    module.eval()
    found = []
    for size in (description.batch, OTHER_BATCH):
        inputs = build(replace(description, batch=size))[1]  # made anew, since some write to them
        with torch.no_grad():
            found.append(bits(module(*inputs.args, **inputs.kwargs)))
    return found


def assert_traces(description: Description) -> tg.TracedModel:
    """Trace a model, compare it, and check that nothing else happened."""
    model, inputs = prepared(description)
    given_inputs, before = bits(inputs), situation(model)
    traced = tg.trace(model, *inputs)
    assert tg.verify(model, traced, *inputs) == ()
    after = situation(model)
    assert [key for key in before if before[key] != after[key]] == []
    assert bits(inputs) == given_inputs
    assert list(traced.module.state_dict()) == list(model.state_dict())
    assert not any(model.load_state_dict(traced.module.state_dict()))
    assert not any(traced.module.load_state_dict(model.state_dict()))
    return traced


def assert_reloads(description: Description, traced: tg.TracedModel) -> None:
    """Save a network and its topology; load them into a model that had other weights."""
    expected = outputs(build(description)[0], description)
    with TemporaryDirectory() as folder:
        tensors, document = Path(folder, "state.safetensors"), Path(folder, "topology.json")
        state = pack(traced.module)
        tensors.write_bytes(state.content)
        traced.topology.save(document)
        fresh, inputs = build(replace(description, seed=description.seed + OTHER_WEIGHTS))
        again = tg.trace(fresh, *inputs)
        stored = unpack(tensors.read_bytes(), state.keys, state.aliases, tensors)
        load_state(again.module, stored, "the file")
        loaded = tg.Topology.load(document)
    assert outputs(traced.module, description) == expected
    assert outputs(again.module, description) == expected
    assert outputs(fresh, description) == expected  # its parameters are the network's
    assert loaded == again.topology
    assert loaded.fingerprint == again.topology.fingerprint == traced.topology.fingerprint


def law(description: Description) -> None:
    assert_reloads(description, assert_traces(description))


@given(random_models())
@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
def test_random_models(description):
    law(description)


@pytest.mark.long
@given(random_models())
@settings(max_examples=1_000, deadline=None, suppress_health_check=SLOW, derandomize=False)
def test_many_random_models(description):
    law(description)


FEATURES = [feature for feature in every_feature() if feature not in WAITING]
OPTIONS = [feature for feature in FEATURES if ": " in feature]


@pytest.mark.parametrize("feature", often(FEATURES, {*FEATURES} - {*OPTIONS} | {*OPTIONS[::3]}))
def test_every_feature_alone(feature):
    assert_traces(simplest(feature))


@pytest.mark.parametrize("feature", WAITING)
@pytest.mark.xfail(strict=True, reason="if it passes, take it out of WAITING")
def test_features_that_wait(feature):
    assert_traces(simplest(feature))
