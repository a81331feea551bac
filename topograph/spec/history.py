"""`History`: what happened to a network in a run, as the journal tells it."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.mutations import Mutation
from topograph.spec.plan import Plan, Sha256
from topograph.topology import Record

Outcome = Literal["waiting", "nothing", "budget", "trial", "grew", "accepted", "undone"]


class Ranked(Record):
    """One candidate of a growth: its score, what was predicted of it, its cost, and its fate.

    `predicted` is the change of the loss at the step that was taken (negative is better); `raced`
    is the loss after the race, for a candidate that took part in one; `error` is the standard error
    of the value, where the scorer has one.
    """

    mutation: Mutation
    value: float
    order: Literal[0, 1, 2]
    predicted: float
    parameters: int
    flops: int
    chosen: bool
    raced: float | None = None
    error: float | None = None


class Growth(Record):
    """Why and how one growth happened.

    Losses are those of the probe batches, in eval mode; `seconds` is the time growth took, and
    `rule` the rule of the policy that it is by.
    """

    reason: str
    step: float
    loss_before: float
    loss_after: float
    predicted: float
    ranking: tuple[Ranked, ...]
    seconds: float
    rule: str | None = None

    @property
    def measured(self) -> float:
        """Change of the loss at the moment of growth; negative is better."""
        return self.loss_after - self.loss_before


class Entry(Record):
    """One entry of the journal. Its folder holds all tensors as they were just after it.

    Args:
        number: Counts from 0.
        kind: ``base``, ``apply``, ``undo`` or ``checkpoint``.
        created: UTC, ISO 8601.
        stack: Numbers of the ``apply`` entries that make up the network at this entry, in order.
        folder: Name of the revision's folder below ``revisions/``.
        topology_sha256: Fingerprint of the network's topology.
        manifest_sha256: SHA-256 of the folder's manifest.
        plan: The applied plan.
        growth: Why it was applied, where a `Grower` did it.
        metrics: What was measured then, by name.
    """

    number: Annotated[int, Field(ge=0)]
    kind: Literal["base", "apply", "undo", "checkpoint"]
    created: str
    stack: tuple[int, ...]
    folder: Annotated[str, Field(pattern=r"^[0-9]{6}-[0-9a-f]{12}$")]
    topology_sha256: Sha256
    manifest_sha256: Sha256
    plan: Plan | None = None
    growth: Growth | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class Decision(Record):
    """Why one step of a policy changed the network, or did not.

    Args:
        step: The call of `Grower.step`, from 1.
        rule: The rule of the policy that decided; None where none was due.
        outcome: ``waiting``: no rule was due; ``nothing``: one was, but no candidate would do;
            ``budget``: the budget is used up; ``trial``: a growth has yet to be accepted;
            ``grew``; ``accepted``; ``undone``.
        reason: In words, with the numbers.
    """

    step: Annotated[int, Field(ge=0)]
    rule: str | None = None
    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        by = f"{self.rule}, " if self.rule else ""
        return f"step {self.step}: {by}{self.outcome}: {self.reason}"


class Measurement(Record):
    """One metric at one step of training."""

    step: Annotated[int, Field(ge=0)]
    name: str
    value: float


class History(Record):
    """All entries of a run and its measured curve, oldest first.

    Args:
        model: Where the base model came from, e.g. ``pkg.mod:make_model``; only shown, never run.
        entries: The journal's entries.
        curve: Metrics over training steps.
        decisions: Why each step of the policy changed the network, or did not.

    Raises:
        SpecError: On `load` and `parse`, with the path of the wrong field.

    Example:
        >>> History(model="pkg.mod:make_model").entries
        ()

    References:
        https://sqlite.org/wal.html (the journal this is read from).
    """

    format: Literal["topograph.history/1"] = "topograph.history/1"
    model: str
    entries: tuple[Entry, ...] = ()
    curve: tuple[Measurement, ...] = ()
    decisions: tuple[Decision, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.entries)} entries"]
        for entry in self.entries:
            plan = entry.plan
            what = ", ".join(c.name or c.mutation.kind for c in plan.changes) if plan else ""
            size = f" {plan.diff.parameters:+,} parameters" if plan else ""
            loss = f" loss {entry.growth.measured:+.4g}" if entry.growth else ""
            lines.append(
                f"{entry.number:>4}  {entry.created}  {entry.kind:<10} "
                f"{entry.topology_sha256[:12]}  {what}{size}{loss}".rstrip()
            )
        return "\n".join(lines)
