"""Law 2 over the zoo: blocks and branches change no output, and every new parameter learns.

The change is exactly 0.0, with one exception that is said where it is: a new block ends in a matrix
of zeros and a gate is 0, so that what is added to a finite value is 0, and ``x + 0 == x`` in every
floating-point type.
"""

import random

import pytest
import torch

import topograph as tg
from tests.often import SMALL, often
from tests.rewrite.laws import assert_laws, assert_same, change, snapshot, without_gradient
from tests.zoo import BY_NAME, ZOO

BLOCKS = [
    tg.Bottleneck(units=3),
    tg.Bottleneck(units=2, activation="tanh", norm=True),
    tg.Linear(),
    tg.Linear(bias=False),
    tg.ConvBottleneck(units=3, activation="silu"),
    tg.ConvBottleneck(units=2, kernel=1),
    tg.ConvBottleneck(units=2, spatial="out"),
    tg.ConvBottleneck(units=4, activation="relu", spatial="both"),
    tg.Bottleneck(units=6, activation="relu"),
    tg.Linear(activation="gelu"),
]


def traced(example):
    return tg.trace(example.model(), example.inputs, example.kwargs)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("example", ZOO, ids=str)
def test_blocks_everywhere_change_nothing(example, whole):
    """In the suite every third block, and the others at the next examples."""
    blocks = BLOCKS if whole else BLOCKS[ZOO.index(example) % 3 :: 3]
    model = example.model()
    base = tg.trace(model, example.inputs, example.kwargs)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    inserted = 0
    for block in blocks:
        request = tg.InsertLayer(where=tg.all(), block=block)
        places = [m for m in tg.candidates(base, [request]) if isinstance(m, tg.InsertLayer)]
        if not places:
            continue
        revision = assert_laws(base, tg.plan(base, [request]))
        assert without_gradient(revision) == []
        inserted += len(places)
    assert inserted > 0
    assert list(model.state_dict()) == list(state)
    assert all((model.state_dict()[key] == value).all() for key, value in state.items())


@pytest.mark.parametrize(
    "name",
    often(("residual", "resnet", "vit", "gated", "recurrent", "odds"), ("resnet", "recurrent")),
)
def test_one_block_at_a_time_changes_nothing(name):
    base = traced(BY_NAME[name])
    single = [
        mutation
        for block in (BLOCKS[1], BLOCKS[6])
        for mutation in tg.candidates(base, [tg.InsertLayer(where=tg.all(), block=block)])
        if isinstance(mutation, tg.InsertLayer)
    ]
    assert single
    for mutation in single:
        revision = assert_laws(base, tg.plan(base, [mutation]))
        assert without_gradient(revision) == [], mutation


@pytest.mark.parametrize("example", SMALL)
def test_a_block_on_every_edge_changes_nothing(example):
    base = traced(example)
    requests = [
        tg.InsertLayer(where=tg.between(edge.source, edge.target, edge.slot), block=block)
        for edge in base.topology.edges
        for block in (BLOCKS[0], BLOCKS[4])
    ]
    fitting = [m for m in tg.candidates(base, requests) if isinstance(m, tg.InsertLayer)]
    # attention whose query is its key multiplies them in one matrix product, otherwise in two
    bound = 8 * torch.finfo(torch.float32).eps if example.name == "attention" else 0.0
    revision = assert_laws(base, tg.plan(base, fitting), bound)
    assert without_gradient(revision) == []


@pytest.mark.parametrize("example", SMALL)
def test_branches_change_nothing(example):
    base = traced(example)
    names = [node.name for node in base.topology.nodes if node.kind != "output"]
    pairs = [
        tg.AddBranch(source=source, target=target, projection=projection)
        for source in names
        for target in names
        for projection in ("none", "linear")
    ]
    fitting = [m for m in tg.candidates(base, pairs) if isinstance(m, tg.AddBranch)]
    sample = random.Random(3).sample(fitting, min(4, len(fitting)))
    for mutation in sample:
        revision = assert_laws(base, tg.plan(base, [mutation]))
        assert without_gradient(revision) == [], mutation
    if len(sample) > 1:
        revision = assert_laws(base, tg.plan(base, sample))
        assert without_gradient(revision) == []


@pytest.mark.parametrize(
    "block",
    [
        tg.Bottleneck(units=4, activation="relu", norm=True),
        tg.ConvBottleneck(units=2, activation="relu"),
    ],
)
def test_units_of_relu_are_drawn_in_pairs_of_which_one_is_alive(block):
    base = traced(BY_NAME["resnet"])
    where = tg.at("fc" if block.kind == "bottleneck" else "conv")
    revision = tg.apply(base, tg.plan(base, [tg.InsertLayer(where=where, block=block)]))
    layer = revision.after.module.get_submodule(revision.plan.changes[0].path).reduce
    for parameter in (layer.weight, layer.bias):
        assert torch.equal(parameter[::2], -parameter[1::2])
        assert (parameter != 0).all()
    assert without_gradient(revision) == []


def test_a_gate_that_is_not_zero_changes_the_output_and_the_plan_says_so():
    base = traced(BY_NAME["residual"])
    plan = tg.plan(base, [tg.AddBranch(source="tanh", target="add", gate=0.5)])
    found = {check.name: check.found for check in plan.checks}["output in eval"]
    assert found.endswith("as asked: the function changes")
    revision = tg.apply(base, plan)
    assert change(base.module, revision.after.module, base.inputs) > 0.01


def test_a_start_along_a_direction_changes_the_output_and_undo_gives_it_back():
    base = traced(BY_NAME["mlp"])
    before = snapshot(base)
    request = tg.InsertLayer(where=tg.at("gelu_1"), block=tg.Bottleneck(units=2))
    batches = [(base.inputs["input"], base.inputs["input"][:, :3])]
    scores = tg.score(base, batches, lambda a, b: (a - b).square().mean(), [request])
    revision = tg.apply(base, tg.plan(base, [request]), directions=scores)
    assert change(base.module, revision.after.module, base.inputs) > 0
    assert_same(before, snapshot(tg.undo(revision)))


def test_forty_inserts_in_one_plan_equal_forty_plans():
    one = traced(BY_NAME["residual"])
    base = one
    places = ["stem", "tanh", "layers_0", "add", "add_1"] * 8
    requests = [
        tg.InsertLayer(where=tg.at(place), block=tg.Bottleneck(units=1 + index // 5))
        for index, place in enumerate(places)
    ]
    together = assert_laws(base, tg.plan(base, requests)).after
    for request in requests:
        one = tg.apply(one, tg.plan(one, [request])).after
    assert together.topology.parameter_count == one.topology.parameter_count
    assert together.topology.flops == one.topology.flops
    assert change(base.module, one.module, base.inputs) == 0.0
    assert change(together.module, one.module, base.inputs) == 0.0
    assert tg.plan(together, requests).changes == ()
