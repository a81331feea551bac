"""One layer of one model gets another width, or the reason why not."""

from typing import Any

import pytest
from torch import nn

import topograph as tg
from tests.rewrite.laws import assert_same, snapshot


def resized(model: nn.Module, inputs: Any, where: str, to: int, **options: Any) -> tg.Revision:
    """Return the revision that narrows or widens one layer."""
    traced = tg.trace(model, inputs if isinstance(inputs, tuple) else (inputs,))
    node = next(n for n in traced.topology.nodes if where in (n.name, n.target))
    size = node.shape[1 if node.op.startswith("conv") else -1]
    kind = tg.WidenLayer if to > size else tg.NarrowLayer
    return tg.apply(traced, tg.plan(traced, [kind(where=tg.named(where), to=to, **options)]))


def refusal(model: nn.Module, inputs: Any, mutation: tg.Mutation) -> str:
    """Return the only reason why a mutation cannot be carried out; nothing may have changed."""
    traced = tg.trace(model, inputs if isinstance(inputs, tuple) else (inputs,))
    before = snapshot(traced)
    with pytest.raises(tg.RefusedError) as error:
        tg.plan(traced, [mutation])
    assert_same(before, snapshot(traced))
    (found,) = error.value.refusals
    return str(found)
