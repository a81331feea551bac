"""Units of all layers, the smallest first, against taking them one by one by hand."""

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import topograph as tg
from tests.growth.growth_parts import PROBE, X
from tests.often import often
from tests.rewrite.laws import run


def net(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
    )


def shrunk(model, floor=1, where=None, k=None, **limits):
    selection = {"until": tg.Until(**limits, each="unit")} | ({"k": k} if k else {})
    asked = tg.NarrowLayer(where=where or tg.all(), to=floor)
    policy = tg.Policy(
        trigger=tg.Every(steps=1),
        candidates=(asked,),
        scorer="magnitude",
        selection=tg.Selection(**selection),
        step=tg.Zero(),
    )
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    grower = tg.Grower(
        model, policy, optimizer=optimizer, example_inputs=(X,), loss=F.cross_entropy
    )
    return grower, grower.step(batches=PROBE)


def relative(model):
    """For each hidden layer its rows' squares over their mean."""
    rows = [model[i].weight.detach().double().square().sum(1) for i in (0, 2)]
    return [r / r.mean() for r in rows]


def by_hand(model, floor, fits):
    """Take the smallest unit of all layers again and again until it fits."""
    sizes = relative(model)
    left = [set(range(len(s))) for s in sizes]
    order = sorted((s[u].item(), i, u) for i, s in enumerate(sizes) for u in range(len(s)))
    for _, i, u in order:
        if fits(*map(len, left)):
            break
        if len(left[i]) > floor:
            left[i].discard(u)
    return [tuple(sorted(units)) for units in left]


def flops(first, second):
    return 2 * (2 * first + first * second + second * 2)


@pytest.mark.parametrize("seed", often(range(3), [0]))
@pytest.mark.parametrize(("floor", "limit"), [(1, 150), (1, 100), (1, 40), (3, 100), (5, 120)])
def test_it_is_the_greedy_choice_over_all_units(seed, floor, limit):
    model = net(seed)
    wanted = by_hand(model, floor, lambda a, b: flops(a, b) <= limit)
    before = tg.trace(model, (X,))
    grower, revision = shrunk(model, floor, flops=limit)
    kept = {"0": wanted[0], "2": wanted[1]}
    given = {n: u for c in revision.plan.changes for n, u in c.mutation.keep.items()}
    assert given == {n: units for n, units in kept.items() if len(units) < 8}
    assert grower.traced.topology.flops == flops(*map(len, wanted)) <= limit
    oracle = sliced(model if model is not grower.model else before.module, *wanted)
    assert torch.allclose(run(grower.traced.module, grower.traced.inputs, False)[0], oracle(X))


def sliced(model, first, second):
    """The same network with the rows and columns of the kept units, written by hand."""
    made, layers = net(), [dict(model.named_parameters())[f"{i}.weight"] for i in (0, 2, 4)]
    bias = [dict(model.named_parameters())[f"{i}.bias"] for i in (0, 2, 4)]
    rows = (list(first), list(second), [0, 1])
    columns = ([0, 1], list(first), list(second))
    for i, layer, b, r, c in zip((0, 2, 4), layers, bias, rows, columns, strict=True):
        made[i].weight = nn.Parameter(layer.detach()[r][:, c].clone())
        made[i].bias = nn.Parameter(b.detach()[r].clone())
    return made


def test_layers_of_any_scale_compare():
    model = net()
    grower, _ = shrunk(net(), flops=100)
    with torch.no_grad():
        model[0].weight *= 1000
        model[0].bias *= 1000
    scaled, _ = shrunk(model, flops=100)
    assert [n.shape for n in scaled.traced.topology.nodes] == [
        n.shape for n in grower.traced.topology.nodes
    ]


def test_units_that_are_zero_go_first():
    model = net()
    with torch.no_grad():
        model[2].weight[[1, 4, 6]] = 0
    _, revision = shrunk(model, parameters=sum(p.numel() for p in model.parameters()) - 33)
    assert [c.mutation.keep for c in revision.plan.changes] == [{"2": (0, 2, 3, 5, 7)}]


def test_the_ranking_tells_each_layer_and_the_plan_says_which_units_stay():
    grower, revision = shrunk(net(), flops=100)
    told = [item for item in grower.growth.ranking if item.chosen]
    changed = {c.mutation.where.node: c.mutation for c in revision.plan.changes}
    assert {item.mutation.where.node: item.mutation for item in told} == changed
    for item in told:
        effects = tg.plan(revision.before, [item.mutation]).effects
        assert item.parameters == effects.parameters_after - effects.parameters_before < 0
        assert 0 < item.value < 1
    assert tg.Plan.parse(revision.plan.dump()) == revision.plan
    assert tg.undo(revision).topology == revision.before.topology


def test_a_limit_below_the_floor_changes_nothing():
    grower, revision = shrunk(net(), floor=4, flops=30)
    assert revision is None
    assert "the limit is not reached: with all 8, 64 FLOPs a sample are" in grower.decision.reason
    grower, revision = shrunk(net(), floor=4, flops=10_000)
    assert revision is None
    assert "the network is within its limits: 192 of 10,000 FLOPs" in grower.decision.reason


def test_only_the_layers_that_are_meant():
    _, revision = shrunk(net(), where=tg.named("2"), flops=150)
    assert {change.mutation.where.node for change in revision.plan.changes} == {"linear_2"}


def test_a_residual_network_loses_units_of_its_shared_spaces():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(2, 6), nn.Linear(6, 8), nn.Linear(8, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            h = self.stem(x)
            return self.head(h + self.b(torch.relu(self.a(h))))

    torch.manual_seed(0)
    grower, revision = shrunk(Residual(), flops=140, floor=2)
    sizes = {space.name: space.size for space in tg.spaces(grower.traced)}
    assert sizes["stem"] == len(revision.plan.changes[0].mutation.keep.get("stem", range(6)))
    assert grower.traced.topology.flops <= 140
    assert all(torch.isfinite(t).all() for t in run(grower.traced.module, {"x": X}, False))
