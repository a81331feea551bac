"""`apply` and `undo`: a plan becomes a revision, and a revision is taken back."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Protocol

import torch
from torch import Tensor, nn

from topograph.errors import DriftError, NonFiniteError, RefusedError, ShapeError
from topograph.rewrite.blocks import check_start, set_start
from topograph.rewrite.draft import Draft
from topograph.rewrite.halves import set_halves
from topograph.rewrite.plan import TAKES_AWAY
from topograph.rewrite.progress import Progress
from topograph.rewrite.resize import Moves
from topograph.rewrite.table import rule_for
from topograph.rewrite.widen_layer import set_new_units
from topograph.spec import AnyMutation, Change, Plan, WidenLayer, digest
from topograph.topology import TopologyDiff
from topograph.tracing import TracedModel

DEFAULT_STEP = 0.1


class Directed(Protocol):
    """Whatever knows a start for a mutation: a `Score` does."""

    @property
    def mutation(self) -> AnyMutation:
        """The mutation, at one place."""

    @property
    def direction(self) -> Mapping[str, Tensor]:
        """For each new parameter's path, the leading corner of the unit direction.

        Of a widened layer, for each resized parameter's path that of its new units; of units that
        are split, how their first halves move.
        """

    @property
    def start(self) -> Mapping[str, Tensor]:
        """For each new parameter's path, what its leading corner starts with at any step."""


@dataclass(frozen=True)
class Revision:
    """An applied plan: the model before and after.

    Parameters that both models have are the same objects, so an optimizer keeps its state and
    training the one trains the other; what was removed stays with `before`.

    Args:
        before: The model that the plan was applied to.
        after: The changed model.
        plan: What was applied.
        moved: For each resized tensor, by path, for each axis where its entries were.
        made: As they were made, the parameters that a start has written to since, by path.

    Raises:
        TypeError: A field is missing; `apply` makes these.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> change = tg.InsertLayer(where=tg.all(), block=tg.Linear())
        >>> revision = tg.apply(traced, tg.plan(traced, [change]))
        >>> revision.after.topology.parameter_count - revision.before.topology.parameter_count
        40

    References:
        https://alembic.sqlalchemy.org/en/latest/tutorial.html
    """

    before: TracedModel
    after: TracedModel
    plan: Plan
    moved: Moves = field(default_factory=dict, repr=False)
    made: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def diff(self) -> TopologyDiff:
        """The difference of the two topologies."""
        return self.plan.diff

    def __str__(self) -> str:
        before, after = self.before.topology, self.after.topology
        return f"{before.fingerprint[:12]} -> {after.fingerprint[:12]}\n{self.diff}"


def apply(
    traced: TracedModel,
    plan: Plan,
    *,
    directions: Sequence[Directed] = (),
    step: float | None = None,
) -> Revision:
    """Carry out a plan; return the model before and after. Either all of it happens, or nothing.

    Without directions new layers start so that they keep the function. With the directions of
    scores their leading units start at ``step`` along the unit direction, which lowers the loss by
    about ``score.value * step ** score.order``.

    Args:
        traced: The model that the plan was made for.
        plan: From `plan`, or loaded.
        directions: Scores whose mutation is in the plan; others are ignored.
        step: Length of the start in parameter space; None means 0.1, 0 keeps the function.

    Returns:
        The revision; the model that was given is not changed.

    Raises:
        DriftError: The plan was made for another topology, or is already applied.
        ShapeError: A direction does not fit the new layer, or directions are no scores.
        NonFiniteError: The step or a direction is not finite.
        RefusedError: The plan failed one of its checks.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> change = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))
        >>> revision = tg.apply(traced, tg.plan(traced, [change]))
        >>> bool(tg.plan(revision.after, [change]))
        False

    References:
        https://developer.hashicorp.com/terraform/cli/commands/apply
    """
    _same_base(traced, plan)
    length = DEFAULT_STEP if step is None else step
    scores = _scores(directions)
    _finite(length, scores)
    progress = Progress(traced)
    for change in plan.changes:
        draft = progress.ready(change.mutation)
        _single(change, draft)
        refusal = rule_for(change.mutation).check(draft, change.mutation)
        if refusal is not None:
            raise DriftError(f"the plan no longer fits: {refusal}; make it anew")
        progress.carry_out(change)
    after = progress.end()
    if after.topology.fingerprint != plan.after_sha256:
        raise DriftError(
            f"the plan promises {plan.after_sha256[:12]} but makes "
            f"{after.topology.fingerprint[:12]}; "
            "it was edited, or made by another version: plan anew"
        )
    revision = Revision(traced, after, plan, progress.moved)
    set_step(revision, scores, length)
    return revision


def set_step(revision: Revision, directions: Sequence[Directed], step: float) -> None:
    """Set the new layers of a revision to another step along their directions, in place.

    They are then as `apply` with these directions and this step makes them, whatever was set
    before: at step 0 they keep the function. For a line search right after `apply`, before
    anything was trained.

    Raises:
        ShapeError: A direction does not fit the new layer.
    """
    known = {digest(item.mutation): item for item in directions}
    before, after = revision.before.module, revision.after.module
    _put_back(after, revision.made)
    for change in revision.plan.changes:
        item = known.get(digest(change.mutation)) or known.get(change.requested)
        for part, length in _starts(item, step):
            _remember(revision, change.path, part)
            if isinstance(change.mutation, WidenLayer) and change.mutation.how == "split":
                units = change.mutation.units or ()
                set_halves(before, after, revision.moved, units, part, length)
            elif change.path is None:
                set_new_units(after, revision.moved, part, length)
            else:
                layers = after.get_submodule(change.path)
                check_start(layers, part, change.path)
                set_start(layers, part if length else {}, length)


def undo(revision: Revision) -> TracedModel:
    """Return the model as it was before a revision.

    The weights are those of now: parameters that both models have are shared, so what was trained
    since stays trained. A run directory also restores the weights of then (`Run.undo`).

    Args:
        revision: From `apply`.

    Returns:
        The model before: bit-equal as long as nothing was trained since.

    Raises:
        TypeError: The argument is not a `Revision`.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> change = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))
        >>> tg.undo(tg.apply(traced, tg.plan(traced, [change]))).topology == traced.topology
        True

    References:
        https://alembic.sqlalchemy.org/en/latest/tutorial.html#downgrading
    """
    if not isinstance(revision, Revision):
        raise TypeError(
            f"undo takes a Revision, got {type(revision).__name__}; pass what apply returned"
        )
    return revision.before


def _same_base(traced: TracedModel, plan: Plan) -> None:
    for value, kind in ((traced, TracedModel), (plan, Plan)):
        if not isinstance(value, kind):
            raise DriftError(
                f"apply takes a TracedModel and a Plan, got {type(value).__name__} for the "
                f"{kind.__name__}; call tg.trace and tg.plan"
            )
    for check in plan.checks:
        if not check.passed:
            raise RefusedError(
                f"the plan failed its check of {check.name} ({check.found}); nothing was changed"
            )
    fingerprint = traced.topology.fingerprint
    lasting = [c.mutation for c in plan.changes if not isinstance(c.mutation, TAKES_AWAY)]
    if any(traced.topology.contains(digest(mutation)) for mutation in lasting):
        raise DriftError("the plan is already applied to this model; make a new one")
    if plan.base_sha256 != fingerprint:
        raise DriftError(
            f"the plan was made for the topology {plan.base_sha256[:12]}, this is "
            f"{fingerprint[:12]}; make it anew for this model"
        )


def _single(change: Change, draft: Draft) -> None:
    """Check that a change in a plan is at one place that exists, as `plan` writes it."""
    rule = rule_for(change.mutation)
    if rule.resolve(change.mutation, draft.base.topology) != (change.mutation,):
        raise DriftError("a change of the plan is not at one place; it was edited: plan anew")
    if change.scope != draft.scope_of(*rule.ends(change.mutation)):
        raise DriftError(f"a change of the plan edits {change.scope!r}; plan anew")
    if (change.name is None) != (rule.stem(change.mutation) is None) or iskeyword(
        change.name or ""
    ):
        raise DriftError(f"a change of the plan is called {change.name!r}; plan anew")


def _scores(directions: Sequence[Directed]) -> tuple[Directed, ...]:
    """Check that what was given for scores is a list of them."""
    fix = "give a list of scores, e.g. of tg.score"
    if not isinstance(directions, Iterable):
        raise ShapeError(f"directions is a {type(directions).__name__}; {fix}")
    found = tuple(directions)
    for item in found:
        if not hasattr(item, "direction"):
            raise ShapeError(f"directions holds a {type(item).__name__}; {fix}")
    return found


def _finite(step: float, directions: Sequence[Directed]) -> None:
    if not math.isfinite(step):
        raise NonFiniteError(f"step is {step}; give a finite number, 0 to keep the function")
    for item in directions:
        for path, part in (*item.start.items(), *item.direction.items()):
            if not torch.isfinite(part).all():
                raise NonFiniteError(f"the direction for {path} is not finite; score again")


def _starts(item: Directed | None, step: float) -> Iterator[tuple[Mapping[str, Tensor], float]]:
    """Yield what is set, and how long it is."""
    if item is not None:
        yield item.start, 1.0
        yield item.direction, step


def _remember(revision: Revision, path: str | None, part: Mapping[str, Tensor]) -> None:
    """Keep the parameters that are about to be written to for the first time."""
    wanted = {name if path is None else f"{path}.{name}" for name in part} - revision.made.keys()
    named = revision.after.module.named_parameters(remove_duplicate=False) if wanted else ()
    revision.made.update({name: p.detach().clone() for name, p in named if name in wanted})


def _put_back(network: nn.Module, made: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for path, value in made.items():
            network.get_parameter(path).copy_(value)
