"""`Grower`: grows a network while it is trained, as a policy says."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from topograph.errors import MigrationError, NonFiniteError, RefusedError, SelectorError, ShapeError
from topograph.growth.select import affordable, choose, start
from topograph.growth.triggers import Watch, advance, after_growth, check_metrics
from topograph.rewrite import Revision, plan
from topograph.sensitivity import Score, mean_loss, scorable, score
from topograph.sensitivity.tape import Loss
from topograph.spec import AddBranch, Growth, InsertLayer, Policy, Ranked, Refusal
from topograph.store import Run
from topograph.tracing import TracedModel, trace
from topograph.training import migrate, recompile
from topograph.training.recompile import Backend


class Grower:
    """Grows a network in the middle of its training.

    Call `step` once per epoch, or per whatever the policy counts in. When its trigger says so, the
    candidates are scored on the probe batches, the best are planned, applied and started, and the
    optimizer, its scheduler and averages are carried along. Train `model`, which is a new module
    after every growth.

    Args:
        model: The network to grow; its parameters stay the same objects.
        policy: When, where and how far.
        example_inputs: Positional inputs for tracing.
        example_kwargs: Keyword inputs for tracing.
        loss: From output and target to a scalar, a mean over the batch.
        optimizer: Holds the model's parameters.
        scheduler: Drives the optimizer, if there is one.
        ema: An average of the model, if there is one.
        scaler: A ``GradScaler``, if there is one.
        run: Directory for the journal; None keeps nothing.
        source: Where the model comes from, e.g. ``pkg.mod:make_model``; shown in the journal.
        backend: See `recompile`.

    Attributes:
        traced: The network as it is now.
        decision: Why the last call of `step` grew the network, or did not.
        growths: How many times it has grown.
        growth: Why and how it grew the last time; None before the first.

    Raises:
        TraceError: The model cannot be traced.
        RefusedError: The policy's candidates can be scored nowhere; carries the reasons.
        MigrationError: The optimizer does not hold the model's parameters.

    Example:
        >>> import topograph as tg, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
        >>> policy = tg.Policy(trigger=tg.Every(steps=1), candidates=(change,))
        >>> x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters())
        >>> grower = tg.Grower(model, policy, example_inputs=(x,), optimizer=optimizer,
        ...     loss=nn.functional.cross_entropy)
        >>> len(grower.step(batches=[(x, y)]).plan.changes)
        1

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: Policy,
        *,
        example_inputs: Sequence[Any] = (),
        example_kwargs: Mapping[str, Any] | None = None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        ema: Any = None,
        scaler: Any = None,
        run: str | Path | None = None,
        source: str | None = None,
        backend: Backend = "eager",
    ) -> None:
        self.traced: TracedModel = trace(model, example_inputs, example_kwargs)
        self.policy = policy
        self.decision = "step was not called yet"
        self.growths = 0
        self.growth: Growth | None = None
        self._loss, self._optimizer, self._backend = loss, optimizer, backend
        self._companions = {"scheduler": scheduler, "ema": ema, "scaler": scaler}
        self._watch = Watch()
        _check_policy(self.traced, policy)
        _check_optimizer(self.traced, optimizer)
        self.model = recompile(self.traced, backend=backend)
        name = source or f"{type(model).__module__}:{type(model).__qualname__}"
        self.run = Run.create(run, self.traced, model=name, policy=policy) if run else None

    def step(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        batches: Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]] = (),
        progress: bool = False,
    ) -> Revision | None:
        """Tell the policy how training goes; grow if it is time.

        Args:
            metrics: What was measured since the last step, by name; the policy watches one.
            batches: Probe batches of inputs and target to score on, or a function that makes them;
                only read when it is time to grow.
            progress: Whether to show a bar while scoring.

        Returns:
            The revision, or None where nothing grew; `decision` says why.

        Raises:
            SpecError: The watched metric is missing.
            NonFiniteError: A metric, the loss or a score is not finite; nothing was changed.
            ShapeError: It is time to grow and there are no batches.
            MigrationError: The optimizer cannot be carried along; nothing was changed.
            StoreError: The journal cannot be written; nothing was changed.

        Example:
            >>> import topograph as tg
            >>> "step" in dir(tg.Grower)
            True

        References:
            https://docs.pytorch.org/docs/stable/optim.html
        """
        given = dict(metrics or {})
        check_metrics(given)
        watch, reason = advance(self.policy.trigger, self._watch, given)
        if self.run is not None and given:
            self.run.measure(watch.steps, given)
        self._watch = watch
        limit = self.policy.budget.revisions
        if reason is None:
            self.decision = "not due"
            return None
        if limit is not None and self.growths >= limit:
            self.decision = f"due ({reason}), but the budget of {limit} revisions is used up"
            return None
        probe = list(batches() if callable(batches) else batches)
        if not probe:
            raise ShapeError(f"it is time to grow ({reason}), but step was given no batches")
        return self._grow(reason, probe, given, progress)

    def close(self, metrics: Mapping[str, float] | None = None) -> None:
        """Write the last weights to the journal and release the run directory."""
        if self.run is not None:
            self.run.checkpoint(self.traced, metrics=dict(metrics or {}))
            self.run.close()
            self.run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif self.run is not None:
            self.run.close()

    def _grow(
        self, reason: str, probe: list[Any], metrics: dict[str, float], progress: bool
    ) -> Revision | None:
        began = time.perf_counter()
        scores = self._scores(probe, progress)
        chosen = choose(scores, self.traced.topology, self.policy.selection, self.policy.budget)
        if not chosen:
            none = "is above the minimum in the budget" if scores else "is left in the budget"
            self.decision = f"due ({reason}), but no candidate {none}"
            return None
        before = mean_loss(self.traced, probe, self._loss)
        proposal = plan(self.traced, [score.mutation for score in chosen])
        revision, length, after = start(
            self.traced, proposal, chosen, self.policy.step, probe, self._loss, before
        )
        if not math.isfinite(after):
            raise NonFiniteError(f"the loss after the growth is {after}; nothing was changed")
        growth = Growth(
            reason=reason,
            step=length,
            loss_before=before,
            loss_after=after,
            predicted=sum(score.predicted(length) for score in chosen),
            ranking=tuple(_ranked(score, length, score in chosen) for score in scores),
            seconds=time.perf_counter() - began,
        )
        self._commit(revision, growth, metrics)
        self.traced, self.growths = revision.after, self.growths + 1
        self.model = recompile(self.traced, backend=self._backend)
        self._watch = after_growth(self.policy.trigger, self._watch)
        self.decision, self.growth = f"grew: {reason}", growth
        return revision

    def _scores(self, probe: list[Any], progress: bool) -> tuple[Score, ...]:
        """Return the scores of all places that are not taken yet and fit the budget."""
        offered = _offered(self.traced, self.policy)
        wanted = [item for item in offered if not isinstance(item, Refusal)]
        if not wanted:
            return ()
        found = score(
            self.traced, probe, self._loss, wanted, scorer=self.policy.scorer, progress=progress
        )
        return tuple(affordable(found, self.traced.topology, self.policy.budget))

    def _commit(self, revision: Revision, growth: Growth, metrics: dict[str, float]) -> None:
        """Write the journal, then move the optimizer; take the entry back if it cannot move."""
        if self.run is not None:
            now = {**metrics, "step": float(self._watch.steps)}
            self.run.commit(revision, growth=growth, metrics=now)
        try:
            migrate(revision, optimizer=self._optimizer, **self._companions)
        except Exception:
            if self.run is not None:
                self.run.undo()
            raise


def _ranked(score: Score, step: float, chosen: bool) -> Ranked:
    return Ranked(
        mutation=score.mutation,
        value=score.value,
        order=score.order,
        predicted=score.predicted(step),
        parameters=score.cost.parameters,
        flops=score.cost.flops,
        chosen=chosen,
    )


def _offered(traced: TracedModel, policy: Policy) -> list[InsertLayer | AddBranch | Refusal]:
    """Return all places of a policy's candidates; some may match only after the first growth.

    Raises:
        SelectorError: No selector matches anything.
    """
    found: list[InsertLayer | AddBranch | Refusal] = []
    misses: list[SelectorError] = []
    for mutation in policy.candidates:
        try:
            found += scorable(traced, [mutation], policy.scorer)
        except SelectorError as error:
            misses.append(error)
    if len(misses) == len(policy.candidates):
        raise misses[0]
    return found


def _check_policy(traced: TracedModel, policy: Policy) -> None:
    found = _offered(traced, policy)
    refusals = tuple(item for item in found if isinstance(item, Refusal))
    if len(refusals) == len(found):
        raise RefusedError("the policy's candidates can be scored nowhere in this model:", refusals)


def _check_optimizer(traced: TracedModel, optimizer: torch.optim.Optimizer) -> None:
    ours = {id(parameter) for parameter in traced.module.parameters()}
    if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
        raise MigrationError(
            f"the {type(optimizer).__name__} holds none of the model's parameters; "
            "make it from model.parameters()"
        )
