"""What the recorder lifts: numbers from sizes, own types, wrappers, threads, models too big."""

import math
import threading
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import topograph as tg

ROW = torch.linspace(-1, 1, 18).reshape(3, 6)
IMAGE = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


class Halves(nn.Module):
    """Sizes through ``int``, ``math`` and division."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        h, w = x.shape[2:]
        x = F.interpolate(self.conv(x), size=(int(h * 0.5), math.ceil(w / 3)))
        tokens = x.flatten(2)
        side = int(math.sqrt(tokens.shape[0] * 16)) if False else tokens.shape[2]
        return tokens.sum(-1) / side * math.prod(x.shape[2:])


def test_sizes_through_int_and_math_follow_another_resolution():
    model = Halves()
    traced = tg.trace(model, (IMAGE,))
    larger = torch.rand(5, 3, 14, 10)
    assert torch.equal(traced.module(larger), model(larger))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(6, 6)

    def forward(self, x):
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = torch.tanh(self.cell(x[:, t]) + state)
        return state


def test_a_loop_over_a_size_stays_whole_and_takes_other_lengths():
    model = nn.Sequential(nn.Linear(6, 6), Steps())
    traced = tg.trace(model, (torch.rand(2, 4, 6),))
    assert traced.opaque == {"1": "counts up to a size, so that another size has other steps"}
    longer = torch.rand(3, 7, 6)
    assert torch.equal(traced.module(longer), model(longer))
    asked = tg.trace(model, (torch.rand(2, 4, 6),), transparent=["1"])
    assert asked.opaque == {}
    with pytest.raises(AssertionError, match="traced where size"):
        asked.module(longer)


class Flat(nn.Module):
    def forward(self, x):
        return x.reshape(-1)[: len(x)] * x.shape[0]


def test_numbers_that_follow_the_rows_without_being_sizes():
    traced = tg.trace(Flat(), (ROW,))
    many = torch.rand(7, 6)
    assert torch.equal(traced.module(many), Flat()(many))


@dataclass
class Both:
    mean: torch.Tensor
    parts: tuple


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, both, *, scale=None):
        x = self.fc(both.mean) if scale is None else self.fc(both.mean) * scale
        return Both(x, (both.parts[0], {"twice": 2 * x}))


def test_dataclasses_go_in_and_come_out():
    model, given = Named(), Both(ROW, (ROW,))
    traced = tg.trace(model, (given,))
    made = traced.module(given)
    assert type(made) is Both
    assert torch.equal(made.parts[1]["twice"], model(given).parts[1]["twice"])
    assert tg.verify(model, traced, (given,)) == ()


class Rebinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x + self.mean


class Stops(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        with torch.no_grad():
            x = torch.tanh(self.inner(x))
        return self.outer(x)


def test_what_is_computed_without_gradients_stays_so():
    model = Stops()
    assert tg.verify(model, tg.trace(model, (ROW,)), (ROW,)) == ()


def test_a_buffer_that_is_replaced_keeps_its_module_whole():
    model = nn.Sequential(nn.Linear(6, 6), Rebinds())
    traced = tg.trace(model, (ROW,))
    assert traced.opaque == {"1": "puts a new tensor in the place of a buffer"}
    assert tg.verify(model, traced, (ROW,)) == ()


def test_a_model_that_throws_pythons_dice_is_named():
    class Dice(nn.Module):
        def forward(self, x):
            import random

            return x * random.random()

    with pytest.raises(tg.TraceError, match="Dice gives other outputs on every run"):
        tg.trace(Dice(), (ROW,))


def test_an_error_of_the_model_is_shown_with_its_module():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(tg.TraceError, match=r"without topograph, in 1\.1: RuntimeError: mat1"):
        tg.trace(model, (ROW,))


def test_a_model_too_big_to_run_is_recorded_on_fake_tensors():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    traced = tg.trace(model, (ROW,), fake=True)
    assert traced.topology == tg.trace(model, (ROW,)).topology
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.device("meta"):
        huge = nn.Sequential(nn.Linear(100_000, 100_000), nn.ReLU())
    shapes = tg.trace(huge, (torch.zeros(2, 100_000, device="meta"),), fake=True).topology
    assert shapes.nodes[1].shape == ("N", 100_000)


def test_threads_trace_and_train_side_by_side():
    models = [nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)) for _ in range(4)]
    problems, stop = [], threading.Event()

    def train():
        busy = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        while not stop.is_set():
            busy(ROW).sum().backward()

    def trace(model):
        problems.extend(tg.verify(model, tg.trace(model, (ROW,)), (ROW,)))

    trainer = threading.Thread(target=train)
    trainer.start()
    tracers = [threading.Thread(target=trace, args=(model,)) for model in models]
    for thread in tracers:
        thread.start()
    for thread in tracers:
        thread.join()
    stop.set()
    trainer.join()
    assert problems == []


@pytest.fixture
def one_rank(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_is_taken_off_and_sharded_parameters_are_refused(one_rank):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    traced = tg.trace(DistributedDataParallel(model), (ROW,))
    assert "DistributedDataParallel was taken off" in traced.notes[0]
    assert tg.recompile(traced) is model
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(
        tg.TraceError, match=r"0\.weight: parameters are sharded .*StateDictOptions"
    ):
        tg.trace(model, (ROW,))
