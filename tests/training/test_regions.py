"""Regional compilation: equal to eager, and nothing that was compiled before is compiled again."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from zoo import BY_NAME

import topograph as tg
from tests.often import often
from topograph.training.compile_time import compiled
from topograph.training.regions import blocks

# torch looks at .grad of what goes into a region, and hides the warning; here all are errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
ROW = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
COMPILED = partial(tg.recompile, backend="aot_eager")
NAMES = "mlp residual resnet conv1d vit attention densenet gated grouped tied twice keywords odds "
NAMES += "encoder channels_last bfloat16 norms pooling weight_norm"
OFTEN = "resnet attention tied keywords"


class Layer(nn.Module):
    """A block as in a transformer, without the attention."""

    def __init__(self, width=8):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 16)
        self.act, self.down = nn.GELU(), nn.Linear(16, width)

    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(x))))


class Stack(nn.Module):
    """A class of its own around layers of one kind."""

    def __init__(self, depth, width=8):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def stack(depth=4, width=8):
    torch.manual_seed(0)
    return tg.trace(Stack(depth, width), (ROW[:2],))


def grown(traced, node, units=3):
    change = tg.InsertLayer(where=tg.at(node), block=tg.Bottleneck(units=units))
    return tg.apply(traced, tg.plan(traced, [change])).after


def branched(traced, source, target):
    change = tg.AddBranch(source=source, target=target, gate=0.5)
    return tg.apply(traced, tg.plan(traced, [change])).after


def step(model, *inputs, **named):
    """Return outputs and gradients of one training step."""
    model.zero_grad()
    torch.manual_seed(0)
    found = model(*inputs, **named)
    leaves = [t for t in torch.utils._pytree.tree_leaves(found) if torch.is_tensor(t)]
    sum(leaf.float().square().sum() for leaf in leaves).backward()
    gradients = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
    return [*leaves, *gradients]


def graphs(model, *inputs):
    """Return how many graphs one training step compiles."""
    before = compiled()
    step(model, *inputs)
    return (compiled() - before).graphs


def agrees(model, traced, *inputs, **named):
    for found, wanted in zip(
        step(model, *inputs, **named), step(traced.module, *inputs, **named), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.fixture(autouse=True)
def empty():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def any_two_growths(traced, example):
    """Return the model grown at its first and its last place."""
    for last in (False, True):
        for block in (tg.Bottleneck(units=3), tg.ConvBottleneck(units=3)):
            offered = tg.candidates(traced, [tg.InsertLayer(where=tg.all(), block=block)])
            places = [item for item in offered if isinstance(item, tg.InsertLayer)]
            if places:
                plan = tg.plan(traced, [places[-1 if last else 0]])
                traced = tg.apply(traced, plan, directions=()).after
                break
    return traced


def started(traced):
    """Let the new blocks do something."""
    with torch.no_grad():
        for path, parameter in traced.module.named_parameters():
            if path.endswith("expand.weight"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    return traced


@pytest.mark.parametrize("name", often(NAMES.split(), OFTEN.split()))
def test_a_network_of_the_zoo_grown_twice_equals_eager(name):
    example = BY_NAME[name]
    traced = tg.trace(example.model(), example.inputs, getattr(example, "kwargs", None) or {})
    after = started(any_two_growths(traced, example))
    model = COMPILED(after)
    inputs = dict(after.inputs)
    agrees(model, after, **inputs)
    model.eval()
    after.module.eval()
    agrees(model, after, **inputs)
    assert list(model.state_dict()) == list(after.kept.state_dict())
    assert [id(p) for p in model.parameters()] == [id(p) for p in after.kept.parameters()]
    assert [n for n, _ in model.named_modules()] == [n for n, _ in after.kept.named_modules()]


def test_equal_blocks_are_compiled_once():
    traced = stack(depth=6)
    assert graphs(COMPILED(traced), ROW) == 1
    assert graphs(COMPILED(traced), ROW) == 0  # another copy: the same artefacts


def test_a_second_growth_of_a_known_shape_compiles_nothing():
    traced = stack()
    step(COMPILED(traced), ROW)
    traced = started(grown(traced, "layers_1_act"))
    model = COMPILED(traced)
    assert graphs(model, ROW) == 3  # before the block, the block, behind it
    agrees(model, traced, ROW)
    for node in ("layers_2_act", "layers_0_act", "layers_2_bottleneck_2_sum"):
        if node not in traced.topology.by_name:
            node = "bottleneck_2_sum"
        traced = started(grown(traced, node))
        model = COMPILED(traced)
        assert graphs(model, ROW) == 0, node
        agrees(model, traced, ROW)


def test_a_growth_beside_the_blocks_leaves_them_compiled():
    traced = stack()
    step(COMPILED(traced), ROW)
    step(COMPILED(grown(traced, "layers_1_down")), ROW)  # a block of this shape is known now
    traced = started(grown(traced, "tanh"))
    model = COMPILED(traced)
    assert "" in traced.hosts
    assert graphs(model, ROW) == 0
    agrees(model, traced, ROW)


def test_a_branch_past_blocks_opens_only_those_it_reads():
    traced = stack(depth=5)
    step(COMPILED(traced), ROW)
    traced = branched(traced, "layers_1_act", "layers_3_act")
    model = COMPILED(traced)
    assert graphs(model, ROW) == 3  # up to what is read, the rest, and the branch
    agrees(model, traced, ROW)
    assert "" in traced.hosts  # the branch passes from layer to layer: the root runs a graph
    traced = branched(traced, "layers_0_act", "layers_2_act")
    assert graphs(COMPILED(traced), ROW) == 0  # and that opens layers of a known kind
    agrees(COMPILED(traced), traced, ROW)


def test_a_layer_that_was_edited_unseen_runs_its_graph():
    traced = grown(stack(), "tanh")
    for node in traced.module.graph.nodes:  # its class would still run the norm
        if node.name == "layers_2_up":
            node.args = node.args[0].args
    traced.module.recompile()
    model = COMPILED(traced)
    agrees(model, traced, ROW)


def test_fourteen_growths_in_a_row_never_fall_back():
    traced = stack(depth=7)
    counts = []
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for index in range(14):
            traced = grown(traced, f"layers_{index % 7}_act")
            counts.append(graphs(COMPILED(traced), ROW))
    assert counts == [4, *[0] * 13]


def test_many_shapes_of_one_class_never_fall_back():
    """Ten widths run one forward; each has a cache of its own, so that none is full."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in range(9, 19):
            traced = stack(2, width)
            assert graphs(COMPILED(traced), ROW) == 1
        model = COMPILED(traced)
        agrees(model, traced, ROW[:2])  # another batch
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(ROW), traced.module.eval()(ROW))


def test_a_widened_block_compiles_alone():
    traced = stack()
    step(COMPILED(traced), ROW)
    (change,) = tg.candidates(traced, [tg.WidenLayer(where=tg.named("layers.1.up"), to=20)])
    after = tg.apply(traced, tg.plan(traced, [change])).after
    model = COMPILED(after)
    assert graphs(model, ROW) == 1
    agrees(model, after, ROW)


def test_the_traced_model_stays_as_it_is():
    traced = grown(stack(), "layers_1_act")
    before = {path: dict(vars(module)) for path, module in traced.kept.named_modules()}
    step(COMPILED(traced), ROW)
    assert {path: dict(vars(module)) for path, module in traced.kept.named_modules()} == before


def test_it_trains_and_changes_mode():
    traced = grown(stack(), "layers_1_act")
    model = COMPILED(traced)
    optimizer = torch.optim.SGD(traced.kept.parameters(), lr=0.001)
    first = model(ROW).square().sum()
    for _ in range(3):
        step(model, ROW)
        optimizer.step()
    assert model(ROW).square().sum() < first
    assert not any(module.training for module in model.eval().modules())
    assert all(module.training for module in model.train().modules())


def test_a_copy_runs_on_its_own_weights():
    model = COMPILED(grown(stack(), "layers_1_act"))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert model(ROW).abs().sum() > 0
    assert torch.equal(copied(ROW), torch.zeros(3, 2))


def test_a_compiled_model_is_traced_as_the_one_inside():
    model = COMPILED(grown(stack(), "layers_1_act"))
    again = tg.trace(model, (ROW[:2],))
    assert again.notes[0].startswith("torch.compile's wrapper was taken off")
    assert [id(p) for p in again.module.parameters()] == [id(p) for p in model.parameters()]


def test_it_is_not_pickled(tmp_path):
    with pytest.raises(tg.TraceError, match="a compiled model is not pickled"):
        torch.save(COMPILED(stack()), tmp_path / "model.pt")


def test_hooks_of_a_block_run():
    traced = stack()
    seen = []
    traced.kept.layers[2].register_forward_hook(lambda *_: seen.append("layer"))
    COMPILED(traced)(ROW)
    assert seen == ["layer"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Stack(3), ["layers.0", "layers.1", "layers.2"]),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), [""]),
        (nn.Sequential(Stack(9), nn.ReLU()), [f"0.layers.{i}" for i in range(9)]),
        (nn.Sequential(Stack(2), Stack(2)), ["0", "1"]),  # small: whole
        (nn.ModuleList([Layer(), nn.ReLU()]), ["0"]),  # it has no forward of its own
    ],
)
def test_what_a_block_is(model, expected):
    assert list(blocks(model)) == expected
