"""Edge cases of other widths: what a layer carries, and what trains it; see `test_edge_cases`."""

import time

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import topograph as tg
from tests.edge_cases.resizing import refusal, resized
from tests.rewrite.laws import assert_same, snapshot
from tests.zoo import BY_NAME, drawn

ROW, IMAGE = drawn(3, 6), drawn(2, 3, 8, 8)
OPTIMIZERS = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-3),
    "adam amsgrad": lambda ps: torch.optim.Adam(ps, lr=1e-3, amsgrad=True),
    "sgd": lambda ps: torch.optim.SGD(ps, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=1e-3, momentum=0.5),
    "adafactor": lambda ps: torch.optim.Adafactor(ps, lr=1e-3),
}


def mlp(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, 3))


def step(model, optimizer):
    optimizer.zero_grad()
    model(ROW).square().sum().backward()
    optimizer.step()


class Named(nn.Module):
    """Has a method, an attribute and a forward of its own."""

    def __init__(self):
        super().__init__()
        self.note, self.body, self.head = "mine", mlp(), nn.Linear(3, 2)

    def answer(self, x):
        return self(x).argmax(-1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def test_hooks_of_a_resized_layer():
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda module, args, made: seen.append(made.shape[-1]))
    model[2].weight.register_hook(lambda gradient: seen.append("gradient"))
    kept = tg.recompile(resized(model, ROW, "0", 12).after)
    seen.clear()
    kept(ROW)
    assert seen == [12]
    assert len(kept[0]._forward_hooks) == 1
    seen.clear()
    model(ROW)
    assert seen == [8]


def test_the_class_keeps_its_methods():
    model = Named()
    revision = resized(model, ROW, "body.0", 12)
    kept = tg.recompile(revision.after)
    assert type(kept) is Named
    assert revision.after.hosts == frozenset()
    assert kept.note == "mine"
    assert torch.equal(kept.answer(ROW), model.answer(ROW))
    assert isinstance(kept.body[0], nn.Linear)
    assert kept.head is model.head
    assert (kept.body[0].out_features, model.body[0].out_features) == (12, 8)


def test_frozen_parameters_stay_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    kept = tg.recompile(resized(model, ROW, "0", 12).after)
    assert [p.requires_grad for p in kept.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("to", [3, 8])
def test_type_and_memory_format(to):
    body = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model = nn.Sequential(*body).to(torch.float64).to(memory_format=torch.channels_last)
    image = IMAGE.double().contiguous(memory_format=torch.channels_last)
    kept = tg.recompile(resized(model, image, "0", to).after)
    assert {p.dtype for p in kept.parameters()} == {torch.float64}
    for conv in (kept[0], kept[3]):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert kept(image).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("to", [3, 12])
def test_names_stay(to):
    example = BY_NAME["vit"]
    model = example.model()
    revision = resized(model, example.inputs, "mlp.0", to)
    kept = tg.recompile(revision.after)
    assert list(kept.state_dict()) == list(model.state_dict())
    assert [p for p, _ in kept.named_modules()] == [p for p, _ in model.named_modules()]
    before = [node.name for node in revision.before.topology.nodes]
    assert [node.name for node in revision.after.topology.nodes] == before


def test_units_that_are_not_there():
    where = tg.named("0")
    for kind in (tg.NarrowLayer, tg.WidenLayer):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            kind(where=where, to=0)
    with pytest.raises(ValidationError, match="keep lists each unit once, in ascending order"):
        tg.NarrowLayer(where=where, to=2, by="keep", keep=(3, 3))
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        tg.NarrowLayer(where=where, to=2, by="keep", keep=(-1, 3))
    narrow = tg.NarrowLayer(where=where, to=2, by="keep", keep=(1, 8))
    assert refusal(mlp(), ROW, narrow) == (
        "linear_0: keep names 2 units up to 8; 0 has 8 and is to have 2; name 2 units below 8"
    )
    narrow = tg.NarrowLayer(where=where, to=3, by="keep", keep=(1, 2))
    assert "keep names 2 units up to 2; 0 has 8 and is to have 3" in refusal(mlp(), ROW, narrow)
    narrow = tg.NarrowLayer(where=where, to=3, by="scores", scores=(0.5, 1.0))
    assert "there are 2 scores for 0 with 8 units" in refusal(mlp(), ROW, narrow)
    assert "narrowing 0 to 9 leaves" in refusal(mlp(), ROW, tg.NarrowLayer(where=where, to=9))
    assert "it is a size of the model's output" in refusal(
        mlp(), ROW, tg.NarrowLayer(where=tg.named("2"), to=2)
    )
    one = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 3))
    assert "its width of 1 is fixed" in refusal(one, ROW, tg.WidenLayer(where=where, to=4))


def moments(optimizer, parameter):
    """Return what an optimizer keeps for one parameter, copied."""
    return {k: v.clone() for k, v in optimizer.state[parameter].items() if torch.is_tensor(v)}


@pytest.mark.parametrize("to", [5, 12])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_moments_follow_their_units(kind, to):
    model = mlp()
    optimizer = OPTIMIZERS[kind](model.parameters())
    for _ in range(3):
        step(model, optimizer)
    old = {path: moments(optimizer, p) for path, p in model.named_parameters()}
    revision = resized(model, ROW, "0", to)
    assert str(tg.migrate(revision, optimizer=optimizer)) == "4 kept, 0 added, 0 dropped"
    kept = tg.recompile(revision.after)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in kept.parameters()
    }
    unit = revision.moved["0.weight"][0].old
    assert unit.tolist() == revision.moved["2.weight"][1].old.tolist()
    axes = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
    for path, parameter in kept.named_parameters():
        found = moments(optimizer, parameter)
        assert found.keys() == old[path].keys()
        for key, value in found.items():
            was, axis = old[path][key], axes.get(path)
            if axis is None or was.ndim <= axis or was.shape[axis] == 1:
                assert torch.equal(value, was)
                continue
            stays = unit >= 0
            assert torch.equal(value.movedim(axis, 0)[stays], was.movedim(axis, 0)[unit[stays]]), (
                key
            )
            assert (value.movedim(axis, 0)[~stays] == 0).all()
    weight = kept[0].weight.detach().clone()
    step(kept, optimizer)
    step(kept, optimizer)
    assert ((kept[0].weight - weight).abs().amax(1) > 0).all()


def test_schedulers_and_averages_follow():
    model = mlp()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    twin = mlp()
    other = OPTIMIZERS["adamw"](twin.parameters())
    wanted = torch.optim.lr_scheduler.OneCycleLR(other, 0.1, total_steps=20)
    for _ in range(3):
        step(model, optimizer)
        step(twin, other)
        scheduler.step()
        wanted.step()
        ema.update_parameters(model)
    average = {key: value.clone() for key, value in ema.module.state_dict().items()}
    revision = resized(model, ROW, "0", 5)
    tg.migrate(revision, optimizer=optimizer, scheduler=scheduler, ema=ema)
    keep, found = revision.moved["0.weight"][0].old, ema.module.state_dict()
    assert torch.equal(found["0.weight"], average["0.weight"][keep])
    assert torch.equal(found["2.weight"], average["2.weight"][:, keep])
    kept = tg.recompile(revision.after)
    for _ in range(5):
        step(kept, optimizer)
        scheduler.step()
        ema.update_parameters(kept)
        step(twin, other)
        wanted.step()
        assert scheduler.get_last_lr() == wanted.get_last_lr()


def test_spaces_are_found_in_linear_time():
    def seconds(length):
        layers = [nn.ReLU() if index % 2 else nn.Linear(4, 4) for index in range(length)]
        traced = tg.trace(nn.Sequential(*layers), (drawn(2, 4),))
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            assert len(tg.spaces(traced)) > length // 2 - 1
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(800) < 10 * seconds(200)  # four times as long; sixteen times if quadratic


class Fixed(nn.Module):
    """Mixes its units in a way that no rule knows."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.fft.fft(self.first(x)).real)


def test_a_failed_resize_changes_nothing():
    said = refusal(Fixed(), ROW, tg.WidenLayer(where=tg.named("first"), to=12))
    assert said.startswith("first: its width of 8 is fixed: ")
    assert "fft" in said
    traced = tg.trace(mlp(), (ROW,))
    plan = tg.plan(traced, [tg.NarrowLayer(where=tg.named("0"), to=3)])
    before = snapshot(traced)
    change = plan.changes[0]
    other = change.mutation.model_copy(update={"keep": {"0": (0, 1, 9)}})
    edited = plan.model_copy(update={"changes": (change.model_copy(update={"mutation": other}),)})
    with pytest.raises(tg.DriftError, match="the plan no longer fits: linear_0: keep names 3"):
        tg.apply(traced, edited)
    assert_same(before, snapshot(traced))


class Unfolded(nn.Module):
    """A view that needs the copy before it."""

    def forward(self, x):
        return x.transpose(1, 2).contiguous().view(x.shape[0], 30)


def test_a_change_after_which_the_graph_does_not_run_is_refused():
    traced = tg.trace(nn.Sequential(nn.Linear(6, 6), Unfolded()), (drawn(2, 5, 6),))
    before = snapshot(traced)
    with pytest.raises(tg.RefusedError, match="the graph does not run: view size is not compat"):
        tg.plan(traced, [tg.RemoveLayer(where=tg.after(op="contiguous"))])
    assert_same(before, snapshot(traced))
