"""`untie`: copies where parameters were shared, and not a bit of difference in what comes out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.rewrite.laws import assert_laws, assert_same, run, snapshot
from tests.zoo import BY_NAME

ROW = torch.linspace(-1, 1, 12).reshape(2, 6)
TOKENS = torch.tensor([[0, 3, 1], [2, 2, 4]])


class Tied(nn.Module):
    """An embedding and a head with one matrix, and a third name for it that nothing calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.middle, self.head = nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.middle(self.embed(tokens))))


class Inside(nn.Module):
    """A model whose own forward only calls one that has everything."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.shared(torch.relu(self.shared(x))))


class Functional(nn.Module):
    """A head that is a function which reads the embedding's matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 6)

    def forward(self, tokens):
        return F.linear(self.embed(tokens), self.embed.weight)


def every(module):
    return dict(module.named_parameters(remove_duplicate=False))


def changed(traced, *mutations):
    return tg.apply(traced, tg.plan(traced, mutations))


@pytest.mark.parametrize("node", ["embed", "head"])
def test_the_matched_name_gets_the_copy(node):
    model = Tied()
    base = tg.trace(model, (TOKENS,))
    plan = tg.plan(base, [tg.Untie(where=tg.named(node))])
    assert plan.effects.parameters_after - plan.effects.parameters_before == 30
    revision = assert_laws(base, plan)
    after, other = every(revision.after.module), {"embed": "head", "head": "embed"}[node]
    assert after[f"{node}.weight"] is not model.embed.weight
    assert after[f"{other}.weight"] is model.embed.weight
    assert torch.equal(after["embed.weight"], after["head.weight"])
    assert after["embed.weight"].data_ptr() != after["head.weight"].data_ptr()
    assert list(revision.after.module.state_dict()) == list(model.state_dict())
    assert type(tg.recompile(revision.after)) is Tied
    assert model.head.weight is model.embed.weight
    with torch.no_grad():
        after[f"{node}.weight"].zero_()
    assert not torch.equal(after["embed.weight"], after["head.weight"])


def test_each_part_gets_its_own_gradient_and_they_sum_to_the_tied_one():
    model = Tied()
    base = tg.trace(model, (TOKENS,))
    after = changed(base, tg.Untie(where=tg.named("*"))).after.module
    after(TOKENS).square().sum().backward()
    mine = [after.get_parameter(path).grad for path in ("embed.weight", "head.weight")]
    eager = copy.deepcopy(model)  # without the gradient that the shared parameter has now
    eager.zero_grad()
    eager(TOKENS).square().sum().backward()
    torch.testing.assert_close(sum(mine), eager.embed.weight.grad)
    assert not torch.equal(*mine)


def test_the_plan_of_all_unties_once_and_says_what():
    base = tg.trace(Tied(), (TOKENS,))
    plan = tg.plan(base, [tg.Untie(where=tg.named("*"))])
    assert [change.mutation.where.node for change in plan.changes] == ["embed"]
    assert not plan.refusals
    assert "parameters: [embed.weight, head.bias] -> [head.weight, head.bias]" in str(plan)
    assert "+30" in str(plan)


def test_three_names_part_one_by_one():
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3)))
    model[1].weight = model[2].weight = model[0].weight
    base = tg.trace(model, (ROW,))
    one = assert_laws(base, tg.plan(base, [tg.Untie(where=tg.named("1"))])).after.module
    names = every(one)
    assert names["0.weight"] is names["2.weight"] is model[0].weight
    assert names["1.weight"] is not model[0].weight
    whole = assert_laws(base, tg.plan(base, [tg.Untie(where=tg.named("*"))]))
    assert len({id(p) for p in every(whole.after.module).values()}) == 3
    assert len(whole.plan.changes) == 2
    frozen = changed(whole.after, tg.Freeze(where=tg.named("1"))).after.module
    assert [p.requires_grad for p in frozen.parameters()] == [True, False, True]


def test_one_call_of_a_shared_layer_gets_a_clone():
    model = Twice().eval()
    model.shared[1].train()
    base = tg.trace(model, (ROW,))
    sites = [node.name for node in base.topology.nodes if node.target == "shared.0"]
    assert len(sites) == 2
    plan = tg.plan(base, [tg.Untie(where=tg.at(sites[1]))])
    assert "    target: shared.0 -> untied_1" in str(plan)
    revision = assert_laws(base, plan)
    after = revision.after.module
    assert {n.name: n.target for n in revision.after.topology.nodes if n.op == "linear"} == {
        sites[0]: "shared.0",
        sites[1]: "untied_1",
        "head": "head",
    }
    assert after.get_submodule("shared.0") is model.shared[0]
    assert set(model.state_dict()) <= set(after.state_dict())
    assert torch.equal(after.untied_1.weight, model.shared[0].weight)
    assert after.untied_1.training is model.shared[0].training
    everything = tg.plan(base, [tg.Untie(where=tg.named("shared.*"))])
    assert len(everything.changes) == 2
    assert not everything.refusals
    assert_laws(base, everything)


def test_a_clone_of_a_norm_counts_its_own_statistics():
    base = tg.trace(Twice(), (ROW,))
    sites = [node.name for node in base.topology.nodes if node.target == "shared.1"]
    after = changed(base, tg.Untie(where=tg.at(sites[0]))).after.module.train()
    start = base.module.shared[1].num_batches_tracked.item()
    after(ROW)
    assert after.untied_1.num_batches_tracked.item() == start + 1
    assert after.shared[1].num_batches_tracked.item() == start + 1  # one call is left


def test_a_block_that_is_called_twice_inside_keeps_the_class():
    model = Inside(Twice())
    base = tg.trace(model, (ROW,))
    sites = [node.name for node in base.topology.nodes if node.target == "inner.shared.0"]
    revision = assert_laws(base, tg.plan(base, [tg.Untie(where=tg.at(sites[0]))]))
    kept = tg.recompile(revision.after)
    assert type(kept) is Inside
    assert "inner.untied_1.weight" in kept.state_dict()
    for training in (False, True):
        first, second = (run(m, base.inputs, training) for m in (kept, model))
        assert torch.equal(first[0], second[0])


def test_a_function_reads_a_copy():
    model = Functional()
    base = tg.trace(model, (TOKENS,))
    with pytest.raises(
        tg.RefusedError, match="linear reads the same parameter by itself; untie linear"
    ):
        tg.plan(base, [tg.Untie(where=tg.named("embed"))])
    for where in (tg.after(op="linear"), tg.named("*")):
        plan = tg.plan(base, [tg.Untie(where=where)])
        assert not plan.refusals
        revision = assert_laws(base, plan)
        new = [p for p in every(revision.after.module) if p.startswith("untied_1.")]
        assert len(new) == 1
        assert revision.after.topology.by_name["linear"].inputs[1] == f"untied_1_{new[0][9:]}"
        assert revision.after.module.get_parameter("embed.weight") is model.embed.weight
        assert new[0][9:] in base.topology.by_name.keys() - revision.after.topology.by_name.keys()


def test_a_function_may_have_meant_either_name():
    class Both(Tied):
        def forward(self, tokens):
            hidden = self.embed(tokens)
            return self.head(hidden) + F.linear(hidden, self.head.weight)  # recorded as embed's

    base = tg.trace(Both(), (TOKENS,))
    with pytest.raises(tg.RefusedError, match="linear reads the same parameter by itself; untie l"):
        tg.plan(base, [tg.Untie(where=tg.named("head"))])
    (site,) = (n.name for n in base.topology.nodes if (n.kind, n.op) == ("function", "linear"))
    both = [tg.Untie(where=where) for where in (tg.at(site), tg.named("embed"))]
    after = assert_laws(base, tg.plan(base, both)).after
    assert len({id(p) for path, p in every(after.module).items() if p.shape == (5, 6)}) == 3


def test_the_zoo():
    for name in ("tied", "twice"):
        example = BY_NAME[name]
        base = tg.trace(example.model(), example.inputs)
        revision = assert_laws(base, tg.plan(base, [tg.Untie(where=tg.named("*"))]))
        with pytest.raises(tg.RefusedError, match="tied to another node's"):
            tg.plan(revision.after, [tg.Untie(where=tg.all())])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_frozen(dtype):
    model = Tied().to(dtype)
    model.embed.weight.requires_grad_(False)
    base = tg.trace(model, (TOKENS,))
    after = assert_laws(base, tg.plan(base, [tg.Untie(where=tg.named("head"))])).after.module
    assert after.head.weight.dtype == dtype
    assert not after.head.weight.requires_grad


def test_refusals():
    base = tg.trace(Tied(), (TOKENS,))
    for mutation, message in (
        (tg.Untie(where=tg.named("middle")), "middle: none of its parameters is tied to another"),
        (tg.Untie(where=tg.named("tanh")), "tanh: it has no parameters; choose a layer"),
        (tg.Untie(where=tg.between("embed", "middle")), "an edge is not a layer; name the node"),
    ):
        with pytest.raises(tg.RefusedError) as caught:
            tg.plan(base, [mutation])
        assert message in str(caught.value)
    inner = tg.trace(Functional(), (TOKENS,))
    (read,) = (n.name for n in inner.topology.nodes if n.kind == "parameter")
    with pytest.raises(tg.RefusedError, match="weight: a parameter computes nothing; name what re"):
        tg.plan(inner, [tg.Untie(where=tg.at(read))])


def test_what_is_closed_is_refused():
    class Closed(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return x @ self.weight

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.closed = Closed(self.fc.weight)

        def forward(self, x):
            return self.closed(self.fc(x))

    base = tg.trace(Model(), (ROW,), opaque=["closed"])
    with pytest.raises(tg.RefusedError, match="fc: closed uses it inside, which is closed: asked"):
        tg.plan(base, [tg.Untie(where=tg.named("fc"))])


def test_a_module_that_cannot_be_copied():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("only one of me")

    model = Twice()
    model.shared[0] = Stubborn(6, 6)
    base = tg.trace(model, (ROW,))
    site = next(node.name for node in base.topology.nodes if node.target == "shared.0")
    with pytest.raises(tg.RefusedError, match="cannot be copied: RuntimeError: only one of me"):
        tg.plan(base, [tg.Untie(where=tg.at(site))])


def test_round_trip_and_undo():
    base = tg.trace(Tied(), (TOKENS,))
    before = snapshot(base)
    plan = tg.plan(base, [tg.Untie(where=tg.named("head"))])
    assert tg.Plan.parse(plan.dump()) == plan
    revision = tg.apply(base, tg.Plan.parse(plan.dump()))
    assert tg.plan(revision.after, [tg.Untie(where=tg.named("head"))]).changes == ()
    undone = tg.undo(revision)
    assert_same(before, snapshot(undone))
    assert undone.module.head.weight is undone.module.embed.weight


def test_untie_then_freeze_in_one_plan_freezes_the_copy_only():
    base = tg.trace(Tied(), (TOKENS,))
    plan = tg.plan(base, [tg.Untie(where=tg.named("head")), tg.Freeze(where=tg.named("head"))])
    after = assert_laws(base, plan).after.module
    assert after.embed.weight.requires_grad
    assert not after.head.weight.requires_grad
