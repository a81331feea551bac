r"""The topological derivative: what an infinitesimal new layer on an edge does to the loss.

An edge carries :math:`x`, with the adjoint :math:`p = -\partial J/\partial x`. A block
:math:`f(x; \varepsilon\phi)` that vanishes with its first derivative at 0 changes the loss by

.. math:: J(\varepsilon) = J(0) - \tfrac{\varepsilon^2}{2}\,\phi^T Q\,\phi + O(\varepsilon^3),
          \qquad Q = \partial_\theta^2 \sum_s p_s \cdot f(x_s; \theta)\big|_0 .

Over unit :math:`\phi` the most is :math:`D = \lambda_{\max}(Q) / 2`. What that is for each block
stands in `closed_forms`; between two values of different shape in `rectangular` and `widening`.

References:
    Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
"""

from collections.abc import Mapping
from functools import partial

from torch import fx

from topograph.rewrite.add_adapter import insertion
from topograph.rewrite.table import AnyMutation
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.closed_forms import (
    has_one_pair,
    outcome,
    refusal,
    refusal_at,
    statistic,
    unfolded,
)
from topograph.sensitivity.cost import cost_of
from topograph.sensitivity.hearings import averages, between, on_edge
from topograph.sensitivity.leading import decompose
from topograph.sensitivity.products import Product
from topograph.sensitivity.rectangular import (
    Form,
    Outcome,
    adapted,
    behind_gate,
    projected,
)
from topograph.sensitivity.scored import Score
from topograph.sensitivity.shortcuts import Value
from topograph.sensitivity.statistics import Inner
from topograph.sensitivity.widening import unwidened, widened
from topograph.spec import (
    AddAdapter,
    AddBranch,
    At,
    Between,
    ConvBottleneck,
    InsertLayer,
    Linear,
    Refusal,
    WidenLayer,
)
from topograph.tracing import TracedModel


def without_form(mutation: AnyMutation) -> Refusal | None:
    """Return why there is no closed form for a mutation anywhere; None if there may be one."""
    match mutation:
        case AddAdapter() | WidenLayer():
            return None
        case AddBranch():
            return _branch_refusal(mutation)
    return refusal(mutation)


def without_form_at(traced: TracedModel, mutation: AnyMutation) -> Refusal | None:
    """Return why there is no closed form for a mutation at its place; None if there is one."""
    if isinstance(mutation, WidenLayer):
        return unwidened(traced, mutation)
    return refusal_at(traced, mutation)


def measure(asked: Asked) -> list[Score]:
    """Return the derivative of every candidate that the loss depends on.

    Raises:
        NonFiniteError: A loss, an adjoint or a derivative is not finite.
    """
    nodes = {node.name: node for node in asked.traced.module.graph.nodes}
    forms = [(mutation, _form(asked, nodes, mutation)) for mutation in asked.wanted]
    heard = [((mutation, form), form.heard) for mutation, form in forms]
    means = list(averages(asked, heard))
    together = [mean for (m, _), mean in means if has_one_pair(m, asked.directions)]
    decompose([mean for mean in together if isinstance(mean, Product)])
    scores = []
    for (mutation, form), mean in means:
        found, start, pinned = form.derive(mean)
        cost = cost_of(asked.traced, mutation)
        scores.append(Score(pinned or mutation, *found, cost, start=start))
    return scores


def _form(asked: Asked, nodes: Mapping[str, fx.Node], mutation: AnyMutation) -> Form:
    """Return where a candidate's statistic is taken, and what becomes of it."""
    traced = asked.traced
    match mutation:
        case AddAdapter(style="bottleneck"):
            return _form(asked, nodes, insertion(traced.topology, mutation))
        case AddAdapter():
            return adapted(traced, nodes, mutation)
        case AddBranch(path=None, projection="linear"):
            return projected(traced, mutation)
        case AddBranch(path=None):
            return Form(between(*mutation.pair, Inner()), partial(outcome, mutation))
        case AddBranch():
            return _path(mutation, asked.directions)
        case WidenLayer():
            return widened(traced, mutation)
    assert isinstance(mutation, InsertLayer)  # the refusals have seen to it
    assert isinstance(mutation.where, At | Between)  # candidates are at single places
    block, heard = mutation.block, on_edge(traced, nodes, mutation.where, statistic(mutation))
    if isinstance(block, ConvBottleneck):
        lift = heard.lift
        heard = heard._replace(
            lift=lambda value: unfolded(block, lift(value)),  # type: ignore[arg-type]
            name=(*heard.name, block.spatial),
        )
    return Form(heard, partial(outcome, mutation, directions=asked.directions))


def _path(mutation: AddBranch, directions: int) -> Form:
    """Return the closed form of a block on a branch, of a single matrix behind a gate of 0 too."""
    source, target = mutation.pair
    assert mutation.path is not None
    alone = InsertLayer(where=At(node=target), block=mutation.path)

    def derive(mean: Value) -> Outcome:
        gate = mutation.gate or 1.0
        scaled = mean.scaled(gate) if isinstance(mean, Product) else gate * mean
        found, start, _ = outcome(alone, scaled, directions)
        parts = {f"path.{path}": part for path, part in found.direction.items()}
        if mutation.gate == 0:
            return behind_gate({path: found.value * part for path, part in parts.items()})
        begin = {f"path.{path}": part for path, part in start.items()}
        return Outcome(found._replace(direction=parts), begin)

    return Form(between(source, target, statistic(alone)), derive)


def _branch_refusal(mutation: AddBranch) -> Refusal | None:
    """Return why a branch has no closed form; None if it has one."""
    _, target = mutation.pair
    if mutation.path is None:
        if mutation.gate == 0:
            return None
        reason = f"its gate starts at {mutation.gate:g}, which is no small change of the function"
        return Refusal(node=target, reason=reason, fix="give gate=0")
    alone = InsertLayer(where=At(node=target), block=mutation.path)
    if refusal(alone) is not None:
        return refusal(alone)
    if mutation.projection != "none":
        reason = "its projection is drawn behind the path, and the derivative depends on the draw"
        return Refusal(node=target, reason=reason, fix="leave path or projection out")
    if mutation.gate == 0 and not (
        isinstance(mutation.path, Linear) and not mutation.path.activation
    ):
        reason = "its path is drawn behind a gate of 0, and the derivative depends on the draw"
        return Refusal(node=target, reason=reason, fix="give gate=1: the path then starts at 0")
    return None
