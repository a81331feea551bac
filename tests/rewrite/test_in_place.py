"""In-place operations: a change that would be seen elsewhere is refused, the others are exact."""
# ruff: noqa: E501  (a table has one case in a line)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.rewrite.laws import assert_laws, change, run, without_gradient
from topograph.rewrite.draft import Draft
from topograph.rewrite.finish import finish
from topograph.rewrite.table import rule_for
from topograph.spec import Change, digest

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
BLOCK = tg.Bottleneck(units=2)


class Body(nn.Module):
    """Two layers around what a test gives, in functions of ``(h, self)``."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.relu = nn.Linear(6, 6), nn.Linear(6, 3), nn.ReLU(inplace=True)
        self.norm, self.drop = nn.LayerNorm(6), nn.Dropout(0.5)
        self.middle = middle

    def forward(self, x):
        return self.b(self.middle(self.a(x), self))


def read_after_write(h, m):
    r = m.relu(h)
    return r + h * 2


def read_before_write(h, m):
    kept = h * 2
    return h.relu_() + kept


def view_written(h, m):
    view = h[:, :]
    view.mul_(2)
    return h + 1


def added_to(h, m):
    out = torch.tanh(h) * 2
    out += h
    return out


def added_to_itself(h, m):
    h += h
    return h * 2


def module_in_place(h, m):
    return m.relu(m.norm(h))


def after_a_saved_value(h, m):
    return m.relu(m.norm(torch.tanh(h)))


def written_late(h, m):
    total = h.mean() + h.view(-1, 6)[:, :1] * 3
    out = torch.tanh(h * 2)
    return F.relu_(h) * 2 + out + total


def at(name):
    return tg.InsertLayer(where=tg.at(name), block=BLOCK)


def on(source, target):
    return tg.InsertLayer(where=tg.between(source, target), block=BLOCK)


def by_hand(traced, *mutations):
    """Carry out mutations without asking whether they may be; return the module."""
    draft = Draft(traced)
    for mutation in mutations:
        (single,) = rule_for(mutation).resolve(mutation, traced.topology)
        stem = rule_for(mutation).stem(single)
        name = draft.free_name(stem) if stem else None
        rule_for(mutation).rewrite(draft, single, name, 0)
    changes = [Change(mutation=m, requested=digest(m)) for m in mutations]
    return finish(draft, changes).module


HAZARDS = [
    (read_after_write, on("a", "mul"), "a: relu writes in place to memory that relu also reads"),
    (read_after_write, on("a", "relu"), "a: relu writes in place to memory that mul also reads"),
    (view_written, at("getitem"), "getitem: mul_ writes in place to memory that a also reads"),
    (view_written, on("a", "add"), "a: mul_ writes in place to memory that getitem also reads"),
    (read_before_write, tg.AddBranch(source="a", target="add"), "a: relu_ overwrites its value in place before add is reached"),
]  # fmt: skip


@pytest.mark.parametrize(("middle", "mutation", "message"), HAZARDS)
def test_a_hazard_is_refused_and_would_have_changed_the_output(middle, mutation, message):
    traced = tg.trace(Body(middle), (X,))
    with pytest.raises(tg.RefusedError, match=message):
        tg.plan(traced, [mutation])
    if isinstance(mutation, tg.AddBranch):  # with a gate of 1 the branch adds what it finds there
        edited = by_hand(traced, mutation.model_copy(update={"gate": 1.0}))
        model = Body(lambda h, m: read_before_write(h, m) + Body(middle).a(X))
        (wanted,), (found,) = run(model, {"x": X}, False), run(edited, traced.inputs, False)
        assert (wanted - found).abs().max() > 1e-3
    else:
        assert change(traced.module, by_hand(traced, mutation), traced.inputs) > 1e-3


SAFE = [
    (read_after_write, at("a")),
    (read_before_write, at("a")),
    (read_before_write, at("mul")),
    (view_written, at("a")),
    (view_written, at("add")),
    (added_to, at("a")),
    (added_to, at("mul")),
    (added_to, on("mul", "add_")),
    (added_to, on("a", "add_")),
    (module_in_place, at("norm")),
    (module_in_place, at("relu")),
    (module_in_place, on("norm", "relu")),
    (module_in_place, on("a", "norm")),
]


@pytest.mark.parametrize(("middle", "mutation"), SAFE)
def test_what_is_safe_is_exact(middle, mutation):
    traced = tg.trace(Body(middle), (X,))
    revision = assert_laws(traced, tg.plan(traced, [mutation]))
    assert without_gradient(revision) == []


def test_a_branch_from_a_value_that_is_written_later_is_refused():
    traced = tg.trace(Body(written_late), (X,))
    mutation = tg.AddBranch(source="a", target="tanh")
    with pytest.raises(tg.RefusedError, match=r"a: relu_? overwrites .* before the backward pass"):
        tg.plan(traced, [mutation])
    edited = by_hand(traced, mutation)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        edited(X).sum().backward()


def test_who_shares_memory_is_known_after_a_change():
    traced = tg.trace(Body(view_written), (X,))
    grown = tg.apply(traced, tg.plan(traced, [at("a")]), step=0).after
    with pytest.raises(tg.RefusedError, match="bottleneck_1_sum: mul_ writes in place to memory"):
        tg.plan(grown, [on("bottleneck_1_sum", "add")])
    branch = tg.AddBranch(source="bottleneck_1_sum", target="add")
    with pytest.raises(tg.RefusedError, match="bottleneck_1_sum: mul_ overwrites its value"):
        tg.plan(grown, [branch])
    wrong = by_hand(grown, on("bottleneck_1_sum", "add"))
    assert change(traced.module, wrong, traced.inputs) > 1e-3


def test_a_value_that_its_maker_needs_is_not_written_to_in_place_of_a_removed_layer():
    traced = tg.trace(Body(after_a_saved_value), (X,))
    mutation = tg.RemoveLayer(where=tg.at("norm"))
    with pytest.raises(tg.RefusedError, match="write in place to tanh, whose maker may need it"):
        tg.plan(traced, [mutation])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        by_hand(traced, mutation)(X).sum().backward()


def test_inputs_are_not_written_to_in_place_of_a_removed_layer():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    traced = tg.trace(model, (X,))
    mutation = tg.RemoveLayer(where=tg.at("linear_0"))
    with pytest.raises(tg.RefusedError, match="without it relu_1 would write in place to input_1"):
        tg.plan(traced, [mutation])
    given = X.clone()
    by_hand(traced, mutation)(given)
    assert not torch.equal(given, X)


def test_a_removed_layer_may_leave_a_fresh_value_to_an_in_place_operation():
    traced = tg.trace(Body(module_in_place), (X,))
    revision = tg.apply(traced, tg.plan(traced, [tg.RemoveLayer(where=tg.at("norm"))]))
    oracle = Body(lambda h, m: torch.relu(h))
    for training in (False, True):
        (found,) = run(revision.after.module, traced.inputs, training)
        assert torch.equal(found, run(oracle, {"x": X}, training)[0])
    revision.after.module(X).sum().backward()


def test_a_removed_layer_and_a_branch_in_one_plan():
    traced = tg.trace(Body(module_in_place), (X,))
    remove = tg.RemoveLayer(where=tg.at("norm"))
    branch = tg.AddBranch(source="a", target="relu")
    for order in ([remove, branch], [branch, remove]):
        plan = tg.plan(traced, order)
        assert len(plan.changes) == 1
        assert "in place" in plan.refusals[0].reason


def test_dropout_aliases_its_input_in_eval_only():
    def middle(h, m):
        dropped = m.drop(h)
        F.relu_(dropped)
        return dropped + h

    traced = tg.trace(Body(middle), (X,))
    with pytest.raises(tg.RefusedError, match=r"without it relu_? would write in place to a"):
        tg.plan(traced, [tg.RemoveLayer(where=tg.at("drop"))])


def test_an_operation_that_writes_to_what_it_reads_twice():
    traced = tg.trace(Body(added_to_itself), (X,))
    mutation = tg.InsertLayer(where=tg.between("a", "add_", slot=1), block=BLOCK)
    with pytest.raises(tg.RefusedError, match="a: add_ writes in place to memory that add_ also"):
        tg.plan(traced, [mutation])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        by_hand(traced, mutation)(X).sum().backward()
