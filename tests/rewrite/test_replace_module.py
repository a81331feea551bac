"""`replace_layer` by modules that Python code has registered, and what it refuses."""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.rewrite.test_replace_layer import replaced
from tests.zoo import BY_NAME, ROW
from topograph.rewrite.factories import FACTORIES


class Doubled(nn.Module):
    def __init__(self, factor=2.0, shape=None):
        super().__init__()
        self.factor, self.shape = factor, shape
        self.weight = nn.Parameter(torch.randn(()))

    def forward(self, x):
        if self.shape is not None:
            return x[..., : self.shape]
        return x * self.factor + 0 * self.weight


@pytest.fixture
def factory():
    tg.register_block("doubled", Doubled)
    tg.register_block("writer", lambda: nn.ReLU(inplace=True))
    tg.register_block("broken", lambda: 1 / 0)
    tg.register_block("number", lambda: 3)
    yield "doubled"
    for name in ("doubled", "writer", "broken", "number"):
        del FACTORIES[name]


def test_a_registered_module_takes_the_place_of_a_function_and_of_a_module(factory):
    traced = tg.trace(BY_NAME["residual"].model().double(), (ROW.double(),))
    block = tg.Module(factory=factory, arguments={"factor": 3.0})
    network = replaced(traced, tg.at("tanh"), block).after.module
    assert network.module_1.weight.dtype == torch.float64
    h = network.stem(ROW.double()) * 3.0
    for layer in network.layers:
        h = h + torch.relu(layer(h))
    assert torch.equal(network(ROW.double()), network.head(h))
    again = tg.apply(traced, tg.plan(traced, [tg.ReplaceLayer(where=tg.at("tanh"), block=block)]))
    assert torch.equal(again.after.module.module_1.weight, network.module_1.weight)  # same seed


def wide(name, **arguments):
    return tg.Module(factory=name, arguments=arguments)


class Awkward(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm((2, 3))
        self.drop, self.c = nn.Dropout(0.5), nn.Linear(6, 6)
        self.c.weight = self.b.weight
        self.grouped = nn.Conv1d(6, 6, 1, groups=2)

    def forward(self, x):
        h = torch.relu(self.a(x) @ self.a.weight)
        out = torch.sigmoid(F.gelu(h) * 2)
        out = self.norm(out.view(-1, 2, 3)).flatten(1)
        kept = F.gelu(self.c(self.b(out)))
        kept += 1
        k = kept * 3
        return k + self.grouped(k[:, :, None])[:, :, 0]


REFUSED = [
    ("odd", "a", tg.LowRank(rank=2), "a: a_weight reads its weight by itself; replace what reads"),
    ("odd", "b", tg.LowRank(rank=2), r"b: its weight is tied to c\.weight, which would stay whole"),
    ("odd", "relu", tg.LowRank(rank=2), r"relu: it is function relu\(\), neither a Linear nor"),
    ("odd", "grouped", tg.LowRank(rank=2), "grouped: it is Conv1d.*without groups; choose a Linear"),
    ("odd", "norm", tg.Norm(name="rms_norm"), r"norm: it normalizes over \[2, 3\], several axes"),
    ("odd", "relu", tg.Norm(name="rms_norm"), "relu: it is the function relu, no norm that is a m"),
    ("odd", "c", tg.Activation(name="relu"), "c: it is linear, no activation; choose an activation"),
    ("odd", "gelu_1", tg.Activation(name="tanh"), "gelu_1: add_ overwrites gelu_1 in place, which"),
    ("odd", "x", tg.Activation(name="relu"), "x: it is input, no layer; choose a layer"),
    ("odd", "mul", tg.Attention(implementation="math"), "mul: it is mul, no scaled_dot_product_at"),
    ("odd", "sigmoid", tg.Attention(implementation="sdpa"), "sigmoid is no softmax over the last"),
    ("odd", "sigmoid", wide("nothing"), "no block is registered as 'nothing'"),
    ("odd", "sigmoid", wide("doubled", shape=3), r"doubled makes \[3, 3\] .* where \[3, 6\] .*"),
    ("odd", "sigmoid", wide("doubled", size=3), "'doubled' fails with TypeError: .*'size'"),
    ("odd", "sigmoid", wide("broken"), "the factory 'broken' fails with ZeroDivisionError"),
    ("odd", "sigmoid", wide("number"), "the factory 'number' made a int, expected an nn.Module"),
    ("odd", "sigmoid", wide("writer"), "sigmoid: writer writes in place to its input; mend"),
    ("resnet", "blocks_0_bn1", tg.Norm(name="layer_norm"), "layer_norm works on the last axis; here"),
    ("resnet", "blocks_0_bn1", tg.Norm(name="group_norm", groups=3), "4 channels do not divide into"),
    ("resnet", "fc", tg.LowRank(rank=4), r"fc: rank 4 of a matrix \[3, 6\]; give at most 3"),
    ("resnet", "fc", tg.Norm(name="identity"), "fc: it calls a Linear, none of torch.nn's norms"),
    ("resnet", "add_", tg.Activation(name="relu"), "add_: it reads blocks_0_bn2, blocks_0_downsample, and a lay"),
    ("vit", "norm1", tg.Norm(name="batch_norm"), "batch_norm works on axis 1; here the channels are"),
    ("attention", "attention", tg.Attention(implementation="math"), "MultiheadAttention chooses its"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "node", "block", "message"), REFUSED)
def test_what_cannot_be_replaced_says_why(factory, name, node, block, message):
    example = BY_NAME.get(name)
    model = Awkward() if example is None else example.model()
    traced = tg.trace(model, (ROW,) if example is None else example.inputs)
    mutation = tg.ReplaceLayer(where=tg.at(node), block=block)
    with pytest.raises(tg.RefusedError, match=message):
        tg.plan(traced, [mutation])


def test_what_others_read_after_a_write_is_refused():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)

        def forward(self, x):
            h = self.fc(x)
            self.act(h)
            return self.act(h * 2) + h

    traced = tg.trace(Reader(), (ROW,))
    mutation = tg.ReplaceLayer(where=tg.at("act_1"), block=tg.Activation(name="gelu"))
    message = "act_1: its module is called at act, too: it writes in place to fc, which mul reads"
    with pytest.raises(tg.RefusedError, match=message):
        tg.plan(traced, [mutation])


def test_a_factory_is_registered_once_under_a_plain_name(factory):
    tg.register_block("doubled", Doubled)
    for name, made, message in [
        ("doubled", nn.ReLU, "'doubled' is registered already"),
        ("__import__", nn.ReLU, "'__import__' is no name of a block"),
        ("os.system", nn.ReLU, "'os.system' is no name of a block"),
        ("fine", 3, "the factory of 'fine' is a int; give a callable"),
    ]:
        with pytest.raises(tg.SpecError, match=message):
            tg.register_block(name, made)
