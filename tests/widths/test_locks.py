"""What is locked, and the reason that a user reads; what must not be taken for free."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import topograph as tg
from tests.widths.laws import free, traced
from tests.widths.test_renaming import Calls, row
from topograph.widths.dims import leaves
from topograph.widths.spaces import widths

ROWS = (row(2, 5, 6).float(),)


def pair(forward, out=8, **more):
    return Calls(forward, a=nn.Linear(6, 8), b=nn.Linear(out, 2), **more)


class Doubling(nn.Module):
    """A forward that cannot be opened, since it branches on its data."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


class AnyNorm(nn.Module):
    """A norm over an axis that its one tensor does not tell."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x * self.gain


class LengthNorm(nn.Module):
    """A norm without tensors."""

    def forward(self, x):
        return F.normalize(x, dim=-1)


REASONS = {
    "parametrized": (
        lambda: pair(lambda m, x: m.b(m.c(m.a(x))), c=weight_norm(nn.Linear(8, 8))),
        "c (linear) is parametrized: its weight is computed from others",
    ),
    "unknown": (
        lambda: pair(lambda m, x: m.b(torch.cdist(m.a(x), m.a(x))), 5),
        "cdist (cdist) is not known to keep its parts apart",
    ),
    "one index": (
        lambda: pair(lambda m, x: m.b(x.new_ones(8) * m.a(x)[..., 2:3].sum() + m.a(x)[..., [1]])),
        "single indices of it are read",
    ),
    "order": (
        lambda: pair(lambda m, x: m.b(m.a(x).cumsum(-1))),
        "cumsum depends on the order of its units",
    ),
    "slid along": (
        lambda: pair(lambda m, x: m.b(m.c(m.a(x))), 7, c=nn.Conv1d(5, 5, 2)),
        "c slides along it",
    ),
    "parts that do not line up": (
        lambda: Calls(
            lambda m, x: m.b(m.a(x).view(2, 5, 2, 3).mT.flatten(2) + m.a(x)),
            a=nn.Linear(6, 6), b=nn.Linear(6, 2),
        ),
        "joins values whose parts do not line up",
    ),
    "projected state": (
        lambda: pair(lambda m, x: m.b(m.r(m.a(x))[0]), 3, r=nn.LSTM(8, 5, proj_size=3)),
        "r (lstm) projects its hidden state",
    ),
    "keys of its own": (
        lambda: pair(
            lambda m, x: m.b(m.t(m.a(x), m.a(x), m.a(x))[0]),
            t=nn.MultiheadAttention(8, 2, add_bias_kv=True),
        ),
        "t has a bias of its own for keys and values",
    ),
    "batch times a constant": (
        lambda: pair(
            lambda m, x: m.b(
                m.a(x).view(x.shape[0], 5, 2, 4).transpose(1, 2)
                .reshape(x.shape[0] * 2, 5, 4).view(x.shape[0], 2, 5, 4)
                .transpose(1, 2).reshape(x.shape[0], 5, 8)
            )
        ),
        "is computed from it as a constant and from another size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_the_first_layer_is_locked_with_the_reason(name):
    make, reason = REASONS[name]
    known = widths(traced(make(), *ROWS))
    reasons = [
        leaf.lock or "" for leaf in leaves(known.flow.tensors[id(known.tensors["a.weight"])][0])
    ]
    assert any(reason in found for found in reasons), reasons


def test_a_model_without_example_inputs_has_no_known_sizes():
    with pytest.raises(tg.SelectorError, match=r"trace it with example_inputs=\(…\)"):
        tg.spaces(tg.trace(nn.Linear(3, 2)))


def test_a_module_that_stays_whole_is_locked_with_what_is_inside():
    model = nn.Sequential(nn.Linear(6, 8), Doubling(), nn.Linear(8, 2))
    known = {space.name: space for space in tg.spaces(tg.trace(model, ROWS))}
    assert "(doubling) stays whole in the graph" in known["0"].lock
    assert [member.path for member in known["2"].members] == ["2.weight", "2.bias"]
    assert known["2"].lock is None


def test_a_norm_of_unknown_axis_is_locked_only_where_two_fit():
    def build(places):
        return Calls(
            lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2), n=AnyNorm()
        )

    certain, unsure = (widths(traced(build(n), row(2, n, 6).float())) for n in (5, 8))
    assert set(free(certain)) == {"a", "b"}
    assert set(free(unsure)) == {"b"}


def test_meetings_tell_what_mixes_units():
    model = Calls(
        lambda m, x: m.b(m.n(m.a(x)).mean(-1, keepdim=True) * m.a(x).softmax(-1)),
        a=nn.Linear(6, 8), b=nn.Linear(8, 2), n=LengthNorm(),
    )  # fmt: skip
    known = widths(traced(model, *ROWS))
    kinds = {kind for _, kind in known.mixed[id(known.dims["a"])]}
    assert kinds == {"norm", "mean", "other"}


def test_a_standardised_convolution_mixes_what_it_reads():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    known = widths(
        traced(nn.Sequential(nn.Conv2d(3, 4, 1), Standardised(4, 2, 1)), row(1, 3, 4, 4).float())
    )
    assert known.mixed[id(known.dims["0"])] == [("standardised_1", "other")]
    assert id(known.dims["1"]) not in known.mixed


def test_outputs_are_known():
    model = Calls(lambda m, x: (m.a(x), m.b(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2))
    assert {s.name: s.output for s in tg.spaces(traced(model, *ROWS)) if s.lock is None} == {
        "a": True,
        "b": True,
    }
