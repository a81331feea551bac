"""Law 1: `trace` leaves the model as it was; and what it returns computes what the model does."""
# ruff: noqa: E501  (a table has one case in a line)

import copy
import random
import threading

import pytest
import torch
from torch import nn

import topograph as tg
from tests.zoo import BY_NAME, IMAGE, ROW, ZOO, Example, OnData, with_opaque


def situation(model: nn.Module) -> dict[str, object]:
    """Return everything about a model and the generators that a trace must not touch."""
    modules = dict(model.named_modules())
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "buffers": {path: buffer.clone() for path, buffer in model.named_buffers()},
        "identities": {path: id(p) for path, p in model.named_parameters(remove_duplicate=False)},
        "gradients": {p: None if v.grad is None else v.grad.clone() for p, v in model.named_parameters()},
        "trained": {path: p.requires_grad for path, p in model.named_parameters()},
        "modes": {path: module.training for path, module in modules.items()},
        "attributes": {path: sorted(vars(module)) for path, module in modules.items()},
        "hooks": {
            path: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for path, module in modules.items()
        },
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "call": nn.Module.__call__,
        "apply": torch.autograd.Function.__dict__["apply"],
    }  # fmt: skip


def same(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def prepared(example: Example) -> nn.Module:
    """Return a model with gradients, one submodule in eval, one frozen parameter and a hook."""
    model = example.model().train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    last = list(model.modules())[-1]
    last.eval()
    last.register_forward_hook(lambda module, args, output: None)
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_trace_leaves_the_model_as_it_was(example):
    model = prepared(example)
    inputs = copy.deepcopy((example.inputs, example.kwargs))
    before = situation(model)
    tg.trace(model, example.inputs, example.kwargs)
    after = situation(model)
    changed = [key for key in before if not same(before[key], after[key])]
    assert not changed
    assert same(dict(enumerate(inputs[0])), dict(enumerate(example.inputs)))
    assert same(inputs[1], example.kwargs)


class FailsLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.fc = nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.dropout(self.norm(x)) @ torch.rand(6, 5))


def test_a_failed_trace_leaves_the_model_as_it_was():
    model = prepared(Example("fails", FailsLate, (ROW,)))
    before = situation(model)
    with pytest.raises(tg.TraceError, match="mat1 and mat2 shapes cannot be multiplied"):
        tg.trace(model, (ROW,))
    assert [key for key, value in situation(model).items() if not same(value, before[key])] == []


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_the_record_computes_what_the_model_does(example):
    model = example.model()
    traced = tg.trace(model, example.inputs, example.kwargs)
    assert tg.verify(model, traced, example.inputs, example.kwargs) == ()
    assert traced.topology.nodes[-1].kind == "output"


def test_a_model_that_writes_to_its_inputs_gets_copies():
    class Writes(nn.Module):
        def forward(self, x):
            return x.add_(1) * 2

    given = torch.zeros(2, 3)
    traced = tg.trace(Writes(), (given,))
    assert torch.equal(given, torch.zeros(2, 3))
    assert torch.equal(traced.module(torch.zeros(2, 3)), torch.full((2, 3), 2.0))


def test_verify_finds_another_weight():
    model = BY_NAME["residual"].model()
    other = tg.trace(copy.deepcopy(model), (ROW,))
    with torch.no_grad():
        other.module.stem.weight[0, 0] += 1e-3
    found = "\n".join(tg.verify(model, other, (ROW,)))
    assert "parameters are not the same objects" in found
    assert "in eval at batch 3: output 0 is off by" in found
    assert "in train at batch 4: gradient of stem.weight 0 is off by" in found


def test_verify_finds_an_edited_graph():
    model = BY_NAME["residual"].model()
    traced = tg.trace(model, (ROW,))
    node = next(n for n in traced.module.graph.nodes if n.target is torch.tanh)
    node.target = torch.sin
    traced.module.recompile()
    assert tg.verify(model, traced, (ROW,))[0].startswith("in eval at batch 3: output 0 is off by")


def test_verify_finds_a_missing_buffer_update_and_a_lost_key():
    model = BY_NAME["conv1d"].model()
    example = BY_NAME["conv1d"].inputs
    traced = tg.trace(model, example)
    traced.module._modules["1"] = nn.BatchNorm1d(4, track_running_stats=False)
    found = "\n".join(tg.verify(model, traced, example))
    assert "state keys differ: ['1.num_batches_tracked', '1.running_mean'" in found
    assert "in train at batch 3: buffer 1.num_batches_tracked 0 is None, not tensor(1)" in found


def test_verify_takes_what_trace_returned():
    with pytest.raises(TypeError, match="verify takes what trace returned, got ReLU"):
        tg.verify(nn.ReLU(), nn.ReLU(), (ROW,))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (lambda: "resnet18", {}, r"trace takes an nn\.Module, got str; call its factory"),
        (lambda: nn.Linear(5, 2), {"example_inputs": (ROW,)}, "Linear fails on the example inputs, also without topograph: RuntimeError: mat1"),
        (lambda: nn.Linear(6, 2), {"example_inputs": (ROW, ROW)}, r"the example inputs do not fit Linear\.forward: too many positional"),
        (lambda: nn.Linear(6, 2), {"example_inputs": (ROW,), "opaque": ["body"]}, "the model has no submodule 'body' to keep closed or open"),
        (lambda: with_opaque(OnData()), {}, "Sequential cannot be traced without example inputs: TraceError: .*pass example_inputs"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(model, arguments, message):
    with pytest.raises(tg.TraceError, match=message):
        tg.trace(model(), **arguments)


class Counts(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_model_with_a_memory_is_refused():
    with pytest.raises(
        tg.TraceError, match="Counts gives other outputs on every run with the same"
    ):
        tg.trace(Counts(), (ROW,))


def test_a_value_that_the_models_own_forward_reads_is_checked_on_every_call():
    model, rows = OnData(), torch.ones(2, 8)
    traced = tg.trace(model, (rows,))
    assert "the model reads a tensor's value (Tensor.__bool__)" in traced.notes[0]
    assert torch.equal(traced.module(rows), model(rows))
    with pytest.raises(AssertionError, match="traced where"):
        traced.module(-1000 * rows)


class ByMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return torch.relu(self.fc(x)) if self.training else torch.tanh(self.fc(x))


def test_a_branch_on_the_mode_stays_whole():
    model = nn.Sequential(nn.Linear(6, 6), ByMode())
    traced = tg.trace(model, (ROW,))
    assert traced.opaque == {
        "1": "computes differently in train and in eval (or with another number of rows)"
    }
    assert tg.verify(model, traced, (ROW,)) == ()
    with pytest.raises(
        tg.TraceError, match=r"ByMode\.forward itself computes differently in train"
    ):
        tg.trace(ByMode(), (ROW,))


@pytest.mark.parametrize("name", ["dropout", "resnet", "encoder"])
def test_the_mode_switches_after_tracing(name):
    example = BY_NAME[name]
    model = example.model().eval()
    network = tg.trace(model, example.inputs).module
    assert network.training is False
    for mode in (True, False, True):
        model.train(mode), network.train(mode)
        torch.manual_seed(1)
        expected = model(*example.inputs)
        torch.manual_seed(1)
        assert torch.equal(network(*example.inputs), expected)


@pytest.mark.parametrize("size", [1, 5])
def test_other_batch_sizes(size):
    for name, images in (("vit", IMAGE), ("resnet", IMAGE)):
        model = BY_NAME[name].model().eval()
        more = images[:1].expand(size, -1, -1, -1)
        assert torch.equal(tg.trace(model, (images,)).module.eval()(more), model(more))


def test_calls_of_another_thread_are_not_recorded():
    other, outputs, started, stop = nn.Linear(6, 6), [], threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            seen = len(outputs)
            while worker.is_alive() and len(outputs) < seen + 3:
                stop.wait(0.001)
            return self.fc(x)

    model = Slow()

    def work():
        while not stop.is_set():
            outputs.append((other(ROW), model.fc(ROW)))  # one that is being recorded, too
            started.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        started.wait(10)
        traced = tg.trace(model, (ROW,))
    finally:
        stop.set()
        worker.join()
    assert [node.op for node in traced.topology.nodes] == ["input", "linear", "output"]
    assert all(torch.equal(a, other(ROW)) and torch.equal(b, model.fc(ROW)) for a, b in outputs)
