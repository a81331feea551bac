"""Shapes, dtypes, axes, aliases and writes, against what the eager model does."""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.zoo import BY_NAME, IMAGE, ROW, ZOO
from topograph.tracing.inputs import with_batch

B, C, T, S, U = "batch", "channel", "tokens", "space", "unknown"


def seen_by_hooks(example, size: int) -> dict[str, list[torch.Tensor]]:
    """Return what each submodule gives in an eager run, by its first path."""
    model, seen, handles = example.model().eval(), {}, []
    for path, module in model.named_modules():

        def keep(module, args, output, path=path):
            seen.setdefault(path, []).append(output)

        handles.append(module.register_forward_hook(keep))
    inputs, kwargs = with_batch((example.inputs, example.kwargs), len(example.inputs[0]), size)
    with torch.no_grad():
        model(*inputs, **kwargs)
    return seen


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_shapes_and_dtypes_are_those_of_two_eager_runs(example):
    topology = tg.trace(example.model(), example.inputs, example.kwargs).topology
    compared = 0
    for size in (len(example.inputs[0]), 7):
        seen = seen_by_hooks(example, size)
        for node in topology.nodes:
            if node.kind != "module":
                continue
            output = seen[node.target].pop(0)
            if not isinstance(output, torch.Tensor):
                assert node.shape is None
                continue
            multiples = {f"{k if k > 1 else ''}N": k * size for k in range(1, 200)}
            assert tuple(multiples.get(s, s) for s in node.shape) == tuple(output.shape), node.name
            assert node.dtype == str(output.dtype).removeprefix("torch.")
            compared += 1
    assert compared >= 2


class Sizes(nn.Module):
    def forward(self, x):
        rows, width = x.shape
        merged = x.reshape(rows * width)
        twice = torch.cat([x, x])
        chosen = torch.zeros(rows + 1, width)
        return merged, twice, chosen, x.new_zeros(rows // 3, 2), x > 0, x.sum()


def test_multiples_of_the_batch_and_sizes_that_are_none():
    topology = tg.trace(Sizes(), (ROW,)).topology
    found = {
        node.name: (node.shape, node.dtype) for node in topology.nodes if node.shape is not None
    }
    assert found["reshape"] == (("6N",), "float32")
    assert found["cat"] == (("2N", 6), "float32")
    assert found["zeros"] == (("?", 6), "float32")
    assert found["gt"] == (("N", 6), "bool")
    assert found["sum_1"] == ((), "float32")


def test_a_fixed_batch_is_noted():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(3, 6) * 2

    traced = tg.trace(Fixed(), (ROW,))
    assert traced.topology.by_name["x"].shape == (3, 6)
    assert traced.notes[0].startswith("the batch size is fixed at 3: ")


AXES = [
    ("vit", {"x": (B, C, S, S), "patch": (B, C, S, S), "flatten": (B, C, T), "transpose": (B, T, C), "add": (B, T, C), "norm1": (B, T, C), "qkv": (B, T, C), "view": (B, T, U, U, U), "permute": (U, B, U, T, U), "getitem": (B, U, U, U), "mlp_0": (B, T, C), "getitem_3": (B, C), "head": (B, C)}),
    ("resnet", {"x": (B, C, S, S), "conv": (B, C, S, S), "blocks_0_bn1": (B, C, S, S), "pool": (B, C, S, S), "flatten": (B, C), "fc": (B, C)}),
    ("densenet", {"cat_2": (B, C, S, S), "mean": (B, C), "fc": (B, C)}),
    ("conv1d", {"input_1": (B, C, S), "conv1d_0": (B, C, S), "maxpool1d_3": (B, C, S)}),
    ("conv3d", {"input_1": (B, C, S, S, S), "conv3d_0": (B, C, S, S, S), "flatten_3": (B, C)}),
    ("gated", {"x": (B, C), "up": (B, C), "getitem": (B, C), "getitem_2": (B, U)}),
    ("tied", {"tokens": (B, U), "embedding": (B, T, C), "head": (B, T, C)}),
    ("pooling", {"embedding": (B, T, C), "mean": (B, C)}),
    ("recurrent", {"x": (B, U, U), "getitem": (B, U, U), "getitem_2": (U, B, U), "fc": (B, C)}),
    ("norms", {"groupnorm_1": (B, C, S, S), "instancenorm2d_4": (B, C, S, S), "flatten_5": (B, C)}),
    ("attention", {"norm": (B, T, C), "getitem": (B, T, C), "fc": (B, T, C)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), AXES)
def test_axes_of_known_layers(name, wanted):
    example = BY_NAME[name]
    topology = tg.trace(example.model(), example.inputs, example.kwargs).topology
    assert {node: topology.by_name[node].axes for node in wanted} == wanted
    for node in topology.nodes:
        assert len(node.axes) == len(node.shape or ())


class Shuffles(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(6, 6)

    def forward(self, image, row):
        h, r = self.conv(image), self.fc(row)
        return {
            "permuted": h.permute(0, 2, 3, 1),
            "moved": h.transpose(-1, 1),
            "kept": h.mean(1, keepdim=True),
            "reduced": h.mean((-2, -1)),
            "all": h.mean(),
            "one": h[:, 0],
            "new": h[:, None, ..., 0],
            "merged": h.flatten(2),
            "split": h.reshape(h.shape[0], 2, 2, 8, 8),
            "mixed": h.reshape(h.shape[0], 32, 8),
            "outer": r[:, :, None] * r[:, None, :],
            "batch_in": h.flatten(0, 1),
            "squeezed": h[:, :, :1, 0].squeeze(2),
        }


SHUFFLED = {
    "permuted": (B, S, S, C), "moved": (B, S, S, C), "kept": (B, C, S, S), "reduced": (B, C),
    "all": (), "one": (B, S, S), "new": (B, U, C, S), "merged": (B, C, T),
    "split": (B, U, U, S, S), "mixed": None, "outer": (B, C, C), "batch_in": (U, S, S),
    "squeezed": (B, C),
}  # fmt: skip


@pytest.mark.parametrize("name", SHUFFLED)
def test_axes_of_shapes_that_change(name):
    model = Shuffles()
    traced = tg.trace(model, (IMAGE, ROW[:2]))
    (output,) = [node for node in traced.module.graph.nodes if node.op == "output"]
    node = traced.topology.by_name[output.args[0][name].name]
    if SHUFFLED[name] is not None:
        assert node.axes == SHUFFLED[name]
    assert node.channels is None or node.axes.count(C) == 1


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.relu, self.same = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Identity()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        h = self.fc(x)
        view = h.view(-1, 2, 3)
        part = view[:, 0]
        part.mul_(2)
        active = self.relu(self.same(h))
        out = torch.tanh(active)
        out += active
        return F.relu_(self.drop(out)), h.clone()


def test_aliases_and_writes_are_found():
    values = tg.trace(Writes(), (ROW,)).values.by_node
    memory = {name: value.storages for name, value in values.items()}
    written = {name for name, value in values.items() if value.written}
    assert memory["fc"] == memory["view"] == memory["getitem"] == memory["mul_"] == memory["same"]
    assert memory["relu"] == memory["fc"]
    assert not memory["tanh"] & memory["fc"]
    assert not memory["clone"] & memory["fc"]
    assert len(memory["tanh"] & memory["drop"]) == 1  # in eval only
    assert written == {"mul_", "relu", "add_", "relu_"}
    assert values["relu"].written == memory["fc"]


def test_batch_norm_buffers_are_not_written_by_looking_for_shapes():
    model = BY_NAME["resnet"].model()
    before = {path: buffer.clone() for path, buffer in model.named_buffers()}
    traced = tg.trace(model, (IMAGE,), fake=True)
    assert all(torch.equal(before[path], buffer) for path, buffer in traced.module.named_buffers())
    assert not traced.values.by_node["blocks_0_bn1"].written
