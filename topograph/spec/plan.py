"""`Plan`: what a change will do, before it is done."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.mutations import Mutation, Refusal
from topograph.topology import Record, TopologyDiff

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Change(Record):
    """One mutation at one place, with the name its new nodes and parameters will have.

    `scope` is the path of the submodule whose forward is edited and which gets the new modules.
    """

    mutation: Mutation
    requested: Digest
    scope: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$", max_length=1024)] = ""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=256)] | None = None

    @property
    def path(self) -> str | None:
        """Path of the new module."""
        return f"{self.scope}.{self.name}" if self.scope and self.name else self.name


class Effects(Record):
    """Size and cost before and after: parameters, and floating-point operations per sample."""

    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int


class Check(Record):
    """One thing that was checked on a copy while planning, and what was found."""

    name: str
    passed: bool
    found: str


class Plan(Record):
    """What a list of mutations would change; made by `plan`, carried out by `apply`.

    A plan is pinned to the topology it was made for by that topology's SHA-256. It is truthy when
    it changes something. Printing it shows lines with + ~ -, sizes, checks and refusals.

    Args:
        base_sha256: Fingerprint of the topology it was made for.
        after_sha256: Fingerprint that the topology will have.
        changes: The mutations, each at one place.
        diff: The difference of the two topologies.
        effects: Parameters and FLOPs before and after.
        checks: What was tried on a copy.
        refusals: Places that were asked for and cannot be changed.
        already_applied: Digests of requests that the topology already contains.

    Raises:
        SpecError: On `load` and `parse`, with the path of the wrong field.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> plan = tg.plan(traced, [tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))])
        >>> tg.Plan.parse(plan.dump()) == plan
        True

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan
    """

    format: Literal["topograph.plan/1"] = "topograph.plan/1"
    base_sha256: Sha256
    after_sha256: Sha256
    changes: tuple[Change, ...] = ()
    diff: TopologyDiff
    effects: Effects
    checks: tuple[Check, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    already_applied: tuple[Digest, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        if self.changes:
            e = self.effects
            lines = [f"{_count(len(self.changes), 'change')} to {self.base_sha256[:12]}:", ""]
            lines += [str(change) for change in self.diff.changes]
            lines += [
                "",
                _effect("parameters", e.parameters_before, e.parameters_after),
                _effect("FLOPs a sample", e.flops_before, e.flops_after),
                "",
            ]
        else:
            known = len(self.already_applied)
            reason = f" ({_count(known, 'request')} already applied)" if known else ""
            lines = [f"no changes{reason}"]
        lines += [f"{'ok ' if c.passed else 'NOT'} {c.name}: {c.found}" for c in self.checks]
        lines += [f"refused  {refusal}" for refusal in self.refusals]
        return "\n".join(lines).rstrip()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _effect(name: str, before: int, after: int) -> str:
    share = f", {(after - before) / before:+.1%}" if before else ""
    return f"{name}: {before:,} -> {after:,} ({after - before:+,}{share})"
