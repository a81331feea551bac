"""`Plan`: what a change will do, before it is done."""

from textwrap import indent
from typing import Annotated, Any, Literal

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
    def headline(self) -> str:
        """One line: the kind of mutation, the place, and what the new module is called."""
        asked: Any = self.mutation
        where = getattr(asked, "where", None) or getattr(asked, "edge", asked)
        ends = [getattr(where, key, None) for key in ("node", "source", "target")]
        line = f"{asked.kind} {' -> '.join(end for end in ends if isinstance(end, str))}"
        if asked.kind == "rewire":
            line += f" to {asked.source}"
        if hasattr(asked, "how"):
            line += f" ({asked.how})"
        return f"{line} as {self.path}" if self.path else line

    @property
    def path(self) -> str | None:
        """Path of the new module."""
        return f"{self.scope}.{self.name}" if self.scope and self.name else self.name


class Resized(Record):
    """A channel space that has another size, and the tensors that follow."""

    space: str
    before: int
    after: int
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = _count(len(self.tensors), "tensor")
        return f"space {self.space}: {self.before} -> {self.after} units in {count}"


class Edit(Record):
    """What one change does to the graph: the nodes it touches, the spaces it resizes."""

    nodes: tuple[str, ...] = ()
    spaces: tuple[Resized, ...] = ()


class Effects(Record):
    """Size and cost before and after: parameters, FLOPs a sample, and the optimizer's share.

    `kept`, `resized`, `added` and `dropped` count trainable parameters: a kept one keeps its
    moments, a resized one keeps those of the entries that stay, new entries start at 0.
    """

    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    kept: int = 0
    resized: int = 0
    added: int = 0
    dropped: int = 0


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
        edits: For each change, what it does to the graph.
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
    edits: tuple[Edit, ...] = ()
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
            lines += self._edits()
            lines += [
                "",
                _effect("parameters", e.parameters_before, e.parameters_after),
                _effect("FLOPs a sample", e.flops_before, e.flops_after),
                f"optimizer: {_count(e.kept, 'parameter')} with moments as before, {e.resized} "
                f"with moments that follow the units, {e.added} new, {e.dropped} gone",
                "",
            ]
        else:
            known = len(self.already_applied)
            reason = f" ({_count(known, 'request')} already applied)" if known else ""
            lines = [f"no changes{reason}"]
        lines += [f"{'ok ' if c.passed else 'NOT'} {c.name}: {c.found}" for c in self.checks]
        lines += [f"refused  {refusal}" for refusal in self.refusals]
        return "\n".join(lines).rstrip()

    def _edits(self) -> list[str]:
        """Return the lines of the diff, each under the change that causes it."""
        lines: list[str] = []
        left = {change.name: change for change in self.diff.changes}
        for change, edit in zip(self.changes, self.edits, strict=False):
            lines.append(change.headline)
            lines += [f"    {space}" for space in edit.spaces]
            for node in edit.nodes:
                if node in left:
                    lines.append(indent(str(left.pop(node)), "    "))
        return lines + [str(change) for change in left.values()]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _effect(name: str, before: int, after: int) -> str:
    share = f", {(after - before) / before:+.1%}" if before else ""
    return f"{name}: {before:,} -> {after:,} ({after - before:+,}{share})"
