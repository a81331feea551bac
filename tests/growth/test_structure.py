"""Structure learned by policies in JSON: which skips, and how wide each layer."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import topograph as tg
from tests.nets import same
from topograph.topology.gates import gated_branches
from topograph.training.pressure import group_of
from topograph.widths.spaces import widths

POLICIES = Path(__file__).parents[2] / "examples" / "policies"
STEPS = 6
BUDGETS = {"connectivity": {"branches": 4}, "heterogeneity": {"flops": 80_000, "each": "unit"}}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.relu2(x + self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    """A stage of five values of one shape behind a ReLU, and one more that is smaller."""

    def __init__(self, width=4):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, width, 3, padding=1), nn.ReLU()
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.down, self.last = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        h = self.last(self.down(self.blocks(self.relu(self.stem(x)))))
        return self.head(h.mean((2, 3)))


def data():
    """Noise with a bright bar, whose place is the class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 1, 8, 8, generator=generator)
    y = torch.randint(0, 3, (48,), generator=generator)
    x += 1.5 * (torch.arange(8)[None, :] // 2 == y[:, None]).float()[:, None, :, None]
    return x, y


X, Y = data()


def policy_of(kind, strength, **limits):
    """The example's policy, with a budget and times for a network this small."""
    document = json.loads((POLICIES / f"{kind}.json").read_text(encoding="utf-8"))
    last = document["more"][0]
    last["trigger"]["at"], last["selection"]["until"] = [5], BUDGETS[kind] | limits
    last["pressure"]["strength"] = strength
    return tg.Policy.parse(json.dumps(document))


def training(kind, strength, run=None, *, resume=False, **limits):
    torch.manual_seed(0)
    net = Net()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    given = {"example_inputs": (X[:4],), "loss": F.cross_entropy, "optimizer": optimizer}
    if resume:
        grower = tg.Grower.resume(run, net, **given)
    else:
        grower = tg.Grower(net, policy_of(kind, strength, **limits), run=run, **given)
    return SimpleNamespace(grower=grower, optimizer=optimizer)


def step(parts):
    """One epoch and one step of the policy; return the revision."""
    parts.grower.model.train()
    for rows in range(0, 48, 16):
        parts.optimizer.zero_grad()
        F.cross_entropy(parts.grower.model(X[rows : rows + 16]), Y[rows : rows + 16]).backward()
        parts.optimizer.step()
    parts.optimizer.zero_grad()
    return parts.grower.step(batches=[(X, Y)])


def until(parts, steps):
    """Train until so many steps are done; return what grew."""
    found = []
    while parts.grower.steps < steps:
        found.append(step(parts))
    return [revision for revision in found if revision is not None]


def output(traced):
    """What a network answers as it is tested."""
    module = traced.module.eval()
    with torch.no_grad():
        return module(X)


def gates(traced):
    found = gated_branches(traced.topology)
    return {b.gate: traced.module.get_parameter(b.gate).item() for b in found}


def test_connectivity_adds_every_skip_of_a_stage_and_keeps_the_largest():
    parts = training("connectivity", 0.01)
    (grown,) = until(parts, 1)
    stage = ["relu", "blocks_0_relu1", "blocks_0_relu2", "blocks_1_relu1", "blocks_1_relu2"]
    pairs = {change.mutation.pair for change in grown.plan.changes}
    assert pairs == {(a, b) for index, b in enumerate(stage) for a in stage[:index]}
    assert torch.equal(output(grown.before), output(grown.after))
    assert set(gates(grown.after).values()) == {0.0}
    until(parts, 4)
    assert len(set(gates(parts.grower.traced).values()) - {0.0}) > 4  # they are trained
    (cut,) = until(parts, 5)
    before, after = gates(cut.before), gates(cut.after)
    assert (len(before), len(after)) == (10, 4)
    assert after.items() <= before.items()
    gone = [abs(value) for path, value in before.items() if path not in after]
    assert max(gone) <= min(map(abs, after.values()))
    shut = copy.deepcopy(cut.before.module)
    for path in before.keys() - after.keys():
        nn.init.zeros_(shut.get_parameter(path))
    torch.testing.assert_close(output(cut.after), output(SimpleNamespace(module=shut)))
    until(parts, STEPS)
    assert parts.grower.decision.outcome == "waiting"


def masked(revision):
    """The network before a narrowing, with every weight that reads a removed unit at 0."""
    made, known = copy.deepcopy(revision.before.module), widths(revision.before)
    kept = {}
    for change in revision.plan.changes:
        kept |= change.mutation.keep
    for space in known.listed():
        for member in space.members:
            if member.role == "reads" and space.name in kept:
                weight = made.get_parameter(member.path)
                gone = sorted(set(range(space.size)) - set(kept[space.name]))
                with torch.no_grad():
                    weight.index_fill_(member.axis, torch.tensor(gone, dtype=torch.long), 0)
    return SimpleNamespace(module=made)


def ratios(before, after):
    sizes = {space.name: space.size for space in tg.spaces(after)}
    return {s.name: sizes[s.name] / s.size for s in tg.spaces(before) if s.name in sizes}


def test_heterogeneity_widens_all_and_leaves_the_largest_units_of_all_layers():
    parts = training("heterogeneity", 0.01)
    first = parts.grower.traced.topology.flops
    (grown,) = until(parts, 1)
    assert {k: v for k, v in ratios(grown.before, grown.after).items() if k != "head"} == {
        "stem": 1.5, "blocks.0.conv1": 1.5, "blocks.1.conv1": 1.5, "down": 1.5,
    }  # fmt: skip
    torch.testing.assert_close(output(grown.before), output(grown.after))
    assert grown.after.topology.flops > first > BUDGETS["heterogeneity"]["flops"]
    (shrunk,) = until(parts, 5)
    assert shrunk.after.topology.flops <= BUDGETS["heterogeneity"]["flops"]
    left = ratios(shrunk.before, shrunk.after)
    assert len(set(left.values()) - {1.0}) > 1  # layers have ratios of their own
    assert min(left.values()) >= 0.25
    assert_as_masked(shrunk)
    until(parts, STEPS)
    assert parts.grower.decision.outcome == "waiting"


def test_units_that_the_pressure_made_0_go_without_a_trace():
    parts = training("heterogeneity", 1.1, flops=180_000)
    (grown, shrunk) = until(parts, 5)
    known = widths(shrunk.before)
    down = group_of(known, known.dims["down"])
    norms = torch.cat([part.parameter.reshape(12, -1) for part in down], 1).norm(dim=1)
    dead = (norms == 0).nonzero().flatten().tolist()
    keep = {name: units for c in shrunk.plan.changes for name, units in c.mutation.keep.items()}
    assert keep.keys() == {"down"}
    assert 0 < 12 - len(keep["down"]) <= len(dead) < 12
    assert set(range(12)) - set(keep["down"]) <= set(dead)
    assert shrunk.after.topology.flops <= 180_000 < grown.after.topology.flops
    torch.testing.assert_close(output(shrunk.after), output(shrunk.before), rtol=1e-6, atol=1e-7)
    assert_as_masked(shrunk)


def assert_as_masked(shrunk):
    after, other = output(shrunk.after), output(masked(shrunk))
    torch.testing.assert_close(after, other, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nobody stopped."""
    found = {}
    for kind in BUDGETS:
        path = tmp_path_factory.mktemp(kind) / "run"
        parts = training(kind, 0.05, path)
        with parts.grower:
            until(parts, STEPS)
        found[kind] = path, end(parts), tg.read_history(path)
    return found


def end(parts):
    return dict(parts.grower.traced.module.state_dict()), parts.optimizer.state_dict()


@pytest.mark.parametrize(
    ("kind", "stop"),
    [("connectivity", 1), ("connectivity", 5), ("heterogeneity", 0), ("heterogeneity", 3)],
)
def test_stopped_in_the_middle_it_goes_on_bit_equal(kind, stop, whole, tmp_path):
    path = tmp_path / "run"
    parts = training(kind, 0.05, path)
    until(parts, stop)
    parts.grower.run.close()
    parts = training(kind, 0.05, path, resume=True)
    assert parts.grower.steps == stop
    with parts.grower:
        until(parts, STEPS)
    assert same(end(parts), whole[kind][1])
    assert tg.read_history(path).decisions == whole[kind][2].decisions


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_journal_replays_it_and_takes_it_back(kind, whole, tmp_path):
    path, (state, _), history = whole[kind]
    grown = [entry for entry in history.entries if entry.growth]
    assert [entry.growth.rule for entry in grown] == [
        rule.name for rule in policy_of(kind, 1).rules
    ]
    assert same(replayed(path), state)
    shutil.copytree(path, tmp_path / "run")
    with tg.Run.open(tmp_path / "run") as run:
        for entry in reversed(grown):  # the pruning is undone, then the growth
            run.undo()
            before = history.entries[entry.number - 1]
            assert run.head.topology_sha256 == before.topology_sha256 != entry.topology_sha256
            assert same(replayed(tmp_path / "run"), replayed(path, before.number))


def replayed(path, number=None):
    return dict(tg.replay(path, Net(), (X[:4],), number=number).module.state_dict())
