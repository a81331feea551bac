"""What happens at one step of a policy: a rule is asked, a growth taken, accepted or taken back."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from topograph.errors import StoreError
from topograph.growth.changes import take, take_back, trial_of
from topograph.growth.checks import check_batches, read_once
from topograph.growth.course import Course, Gear, state_of
from topograph.growth.fleet import OWN, WRITING, Fleet
from topograph.growth.pressing import press
from topograph.growth.propose import Nothing, Proposal, Question, propose, used_up
from topograph.growth.trial import Trial
from topograph.growth.triggers import (
    Watch,
    advance,
    after_growth,
    check_metrics,
    served,
    watched,
)
from topograph.rewrite import Revision
from topograph.sensitivity.batches import Loss
from topograph.spec import Decision, Growth, Policy
from topograph.spec.history import Outcome
from topograph.store import Run
from topograph.store.saving import Told
from topograph.tracing import TracedModel
from topograph.training.compile_time import Compiled, compiled
from topograph.training.recompile import Backend

Batches = Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]]


@dataclass
class Growing:
    """A network under growth: all that one step of its policy reads and changes.

    Attributes:
        policy: When, where and how far.
        traced: The network as it is now.
        model: The same as a module to train.
        course: How far the policy has come.
        gear: What moves along with the network.
        loss: From output and target to a scalar.
        backend: See `recompile`.
        save: Steps from one saved state to the next; None where a trainer keeps the state.
        run: The journal, if there is one.
        decision: Why the last step changed the network, or did not.
        growth: The last growth.
        clock: When `course.elapsed` was brought up to date.
        fleet: The ranks that grow the network together.
        elsewhere: Whether rank 0 is another process, and keeps the journal.
        built: What ``torch.compile`` had compiled when it was last looked at.
        closed: Whether there was a journal, and it was closed.
    """

    policy: Policy
    traced: TracedModel
    model: nn.Module
    course: Course
    gear: Gear
    loss: Loss
    backend: Backend
    save: int | None
    run: Run | None = None
    decision: Decision | None = None
    growth: Growth | None = None
    clock: float = 0.0
    fleet: Fleet = field(default_factory=Fleet)
    elsewhere: bool = False
    built: Compiled = field(default_factory=compiled)
    closed: bool = False

    @property
    def kept(self) -> bool:
        """Whether there is a journal, here or on rank 0."""
        return self.run is not None or self.elsewhere

    def begin(self, run: str | Path, source: str) -> None:
        """Make a run directory; training can go on from its beginning."""
        saved = self._saved(self.traced, self.course)
        self.elsewhere = not self.fleet.ranks.first
        if self.elsewhere:
            return
        made = Run.create(run, self.traced, model=source, policy=self.policy)
        try:
            if saved:
                made.save(saved["state"], step=0)
        except BaseException:
            made.close()
            raise
        self.run = made

    def end(self, metrics: Mapping[str, float]) -> None:
        """Write the last weights to the journal and release the run directory."""
        with self.fleet.ranks.together("closing the run", timeout=WRITING):
            self.model = self.fleet.gather(self.gear, self.model)
            saved = self._saved(self.traced, self.course) if self.kept else {}
            if self.run is not None:
                self.run.checkpoint(self.traced, metrics=metrics, **saved)
                self.run.close()
            self.gear.end_pressure()
            self.closed, self.run, self.elsewhere = self.closed or self.kept, None, False
        self.fleet.ranks.close()

    def _saved(self, traced: TracedModel, course: Course) -> dict[str, Any]:
        """Return what the journal keeps with a change: the state and its step, or nothing."""
        if self.save is None:
            return {}
        state = state_of(traced, course, self.gear, self.policy)
        own = self.fleet.everyone({name: state[name] for name in OWN})
        return {"state": state if own is None else {**state, "ranks": own}, "step": course.steps}

    def step(
        self, metrics: Mapping[str, float], batches: Batches, progress: bool
    ) -> Revision | None:
        """Advance every trigger; let the first rule that is due and finds something grow.

        What one process measures and how long it took is rank 0's on all ranks, so that they
        decide alike.
        """
        with self.fleet.ranks.together("growing"):
            if self.closed:
                raise StoreError("the grower was closed; go on with its run by Grower.resume")
            if self.fleet.ranks.first:
                check_metrics(metrics)
            now = time.perf_counter()
            elapsed = self.course.elapsed + now - self.clock
            seen = {**metrics, **self._compiled()}
            told, elapsed, growing = self.fleet.told(seen, elapsed, self.course.growing)
            self.model = self.fleet.gather(self.gear, self.model)
            self.clock, before = now, self.traced
            course = replace(
                self.course, steps=self.course.steps + 1, elapsed=elapsed, growing=growing
            )
            revision = self._advance(course, told, batches, progress)
            if self.traced is before:
                self.model = self.fleet.again(self.traced, self.gear, self.backend, self.model)
            return revision

    def _compiled(self) -> dict[str, float]:
        """Return what was compiled since the last step, as metrics; nothing if nothing was."""
        spent, self.built = compiled() - self.built, compiled()
        if self.backend == "eager" or not spent.graphs:
            return {}
        return {"compile_seconds": spent.seconds, "compile_graphs": float(spent.graphs)}

    def _advance(
        self, course: Course, metrics: dict[str, float], batches: Batches, progress: bool
    ) -> Revision | None:
        pairs = zip(self.policy.rules, self.course.watches, strict=True)
        told = [advance(rule.trigger, watch, metrics) for rule, watch in pairs]
        course = replace(course, watches=tuple(watch for watch, _, _ in told))
        if course.trial is not None:
            self._judge(course, course.trial, metrics)
            return None
        once, asked = read_once(batches), []
        for index, (_, due, reason) in enumerate(told):
            if not due:
                continue
            began = time.perf_counter()
            found = self._ask(course, index, reason, metrics, once, progress)
            rule, watches = self.policy.rules[index], list(course.watches)
            watches[index] = served(rule.trigger, watches[index])
            (spent,) = self.fleet.told(course.growing + time.perf_counter() - began)
            course = replace(course, watches=tuple(watches), growing=spent)
            self.fleet.agree(found)
            if isinstance(found, Proposal):
                return self._grow(course, index, found, metrics)
            asked.append((self.policy.name_of(index), found.outcome, f"{reason}, but {found[1]}"))
        self._keep(course, self._stayed(course, told, asked), metrics)
        return None

    def _stayed(
        self,
        course: Course,
        told: Sequence[tuple[Watch, bool, str]],
        asked: Sequence[tuple[str, Outcome, str]],
    ) -> Decision:
        """Return why nothing grew: what each due rule said, or what the others wait for."""
        if asked:
            (name, outcome, reason), *others = asked
            reason = "; ".join((reason, *(f"{n}: {o}: {r}" for n, o, r in others)))
            return Decision(step=course.steps, rule=name, outcome=outcome, reason=reason)
        reasons = [reason for _, _, reason in told]
        if len(reasons) > 1:
            reasons = [f"{self.policy.name_of(i)}: {r}" for i, r in enumerate(reasons)]
        return Decision(step=course.steps, outcome="waiting", reason="; ".join(reasons))

    def _ask(
        self,
        course: Course,
        index: int,
        reason: str,
        metrics: Mapping[str, float],
        batches: Batches,
        progress: bool,
    ) -> Proposal | Nothing:
        """Ask a rule that is due what it would do."""
        rule, budget = self.policy.rules[index], self.policy.budget
        spent = used_up(rule, budget, course.grown, index, course.growing, course.elapsed)
        if spent is not None:
            return Nothing("budget", spent)
        if rule.acceptance is not None:
            watched(metrics, rule.acceptance.metric)
        probe = check_batches(batches() if callable(batches) else batches, reason)
        self.fleet.alike(self.traced)
        name = self.policy.name_of(index)
        ranks = self.fleet.ranks
        asked = Question(self.traced, rule, name, budget, probe, self.loss, self.gear, ranks)
        return propose(asked, reason, progress=progress)

    def _grow(
        self, course: Course, index: int, proposal: Proposal, metrics: dict[str, float]
    ) -> Revision:
        """Take a proposal: everything moves, or nothing."""
        rule, name = self.policy.rules[index], self.policy.name_of(index)
        revision, growth = proposal
        course = self._renewed(
            course,
            grown=tuple(n + (i == index) for i, n in enumerate(course.grown)),
            trial=trial_of(rule, index, proposal, self.gear, metrics),
            plans=(*course.plans, revision.plan),
        )
        decision = Decision(step=course.steps, rule=name, outcome="grew", reason=growth.reason)

        def write() -> None:
            saved = self._saved(revision.after, course) if self.kept else {}
            if self.run is not None:
                told = Told(course.steps, metrics, decision)
                now = {**metrics, "step": float(course.steps)}
                self.run.commit(revision, growth=growth, metrics=now, told=told, **saved)

        take(proposal, rule, self.gear, lambda: self.fleet.writing(write))
        self._go_on(revision.after, course, decision)
        self.growth = growth
        return revision

    def _judge(self, course: Course, trial: Trial, metrics: dict[str, float]) -> None:
        """Decide about a growth on trial: accept it, wait, or take it back."""
        acceptance = self.policy.rules[trial.rule].acceptance
        assert acceptance is not None
        trial = trial.after(watched(metrics, acceptance.metric), acceptance)
        name, told = self.policy.name_of(trial.rule), trial.told(acceptance)
        if trial.recovered(acceptance):
            accepted = Decision(step=course.steps, rule=name, outcome="accepted", reason=told)
            return self._keep(replace(course, trial=None), accepted, metrics)
        if trial.steps < acceptance.within:
            waiting = Decision(step=course.steps, rule=name, outcome="trial", reason=told)
            return self._keep(replace(course, trial=trial), waiting, metrics)
        course = self._renewed(course, trial=None, plans=course.plans[:-1])
        undone = Decision(step=course.steps, rule=name, outcome="undone", reason=told)
        before = trial.revision.before

        def write() -> None:
            saved = self._saved(before, course) if self.kept else {}
            if self.run is not None:
                self.run.undo(told=Told(course.steps, metrics, undone), **saved)

        take_back(trial, self.traced, self.gear, lambda: self.fleet.writing(write))
        self._go_on(before, course, undone)
        return None

    def _renewed(self, course: Course, **changes: Any) -> Course:
        """Return a course after a change of the network: every trigger starts anew."""
        pairs = zip(self.policy.rules, course.watches, strict=True)
        watches = tuple(after_growth(rule.trigger, watch) for rule, watch in pairs)
        return replace(course, watches=watches, **changes)

    def _go_on(self, traced: TracedModel, course: Course, decision: Decision) -> None:
        self.traced, self.course, self.decision = traced, course, decision
        self.model = self.fleet.spread(traced, self.gear, self.backend)
        press(traced, self.policy, course.grown, self.gear)

    def _keep(self, course: Course, decision: Decision, metrics: dict[str, float]) -> None:
        """Go on with the same network; save the state if it is time to."""
        due = self.kept and self.save is not None and course.steps % self.save == 0

        def write() -> None:
            saved = self._saved(self.traced, course) if due else {}
            if self.run is None:
                return
            if saved:
                self.run.save(saved["state"], step=course.steps, metrics=metrics, decision=decision)
            else:
                self.run.measure(course.steps, metrics, decision=decision)

        self.fleet.writing(write)
        self.course, self.decision = course, decision
