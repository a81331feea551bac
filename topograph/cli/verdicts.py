"""What `explain` finds out: for each mutation its places with verdicts, or the nearest misses."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from topograph.cli.models import base_model
from topograph.cli.output import say, show, write
from topograph.errors import SelectorError
from topograph.report.words import material, place, visible
from topograph.rewrite import candidates
from topograph.rewrite.table import rule_for
from topograph.spec import AnyMutation, At, Refusal, digest, load_mutations, places
from topograph.spec.nearest import Near, nearest
from topograph.spec.select import AnySelector
from topograph.topology import Record, Topology
from topograph.tracing import TracedModel

ENDS = ("source", "target", "node")  # fields that name a node instead of selecting one


@dataclass(frozen=True)
class Verdict:
    """One mutation of a file: what became of each of its places.

    Attributes:
        mutation: As it was asked.
        found: Each single place, in words, with the reason why it cannot be done there, or None.
        problem: Why there are no places, if so.
        near: What the selectors that match nothing come nearest to.
        applied: Whether the model has it already, so that a plan leaves it out.
    """

    mutation: AnyMutation
    found: tuple[tuple[str, Refusal | None], ...] = ()
    problem: str | None = None
    near: tuple[Near, ...] = ()
    applied: bool = False

    @property
    def works(self) -> bool:
        """Whether it can be done somewhere, or is done."""
        return self.applied or any(no is None or no.satisfied for _, no in self.found)


def explain(
    model: str,
    mutations: Path,
    shapes: list[str],
    data: str | None,
    run: Path | None,
    as_json: bool,
) -> bool:
    """Print the verdicts on mutations of a file; return whether each works somewhere."""
    asked = load_mutations(str(mutations))
    found = verdicts(base_model(model, shapes, data, run), asked)
    works = sum(verdict.works for verdict in found)
    if as_json:
        write(json.dumps([_row(verdict) for verdict in found], indent=2))
        return works == len(found)
    for number, verdict in enumerate(found, 1):
        say(f"{number}  {verdict.mutation.kind}: {material(verdict.mutation)}, at: "
            f"{place(verdict.mutation)}")  # fmt: skip
        for style, line in _lines(verdict):
            show(Text(f"   {visible(line)}", style=style))
    say(f"{works} of {len(found)} mutations can be done somewhere")
    return works == len(found)


def verdicts(traced: TracedModel, mutations: Sequence[AnyMutation]) -> tuple[Verdict, ...]:
    """Return what becomes of each mutation by itself, on the model as it is.

    Raises:
        SelectorError: The model was traced without example inputs.
    """
    candidates(traced, [])
    return tuple(_verdict(traced, mutation) for mutation in mutations)


def _verdict(traced: TracedModel, mutation: AnyMutation) -> Verdict:
    applied = traced.topology.contains(digest(mutation))
    try:
        singles = rule_for(mutation).resolve(mutation, traced.topology)
        outcomes = candidates(traced, [mutation])
    except SelectorError as error:
        near = _near(mutation, traced.topology)
        return Verdict(mutation, problem=str(error), near=near, applied=applied)
    refusals = (outcome if isinstance(outcome, Refusal) else None for outcome in outcomes)
    found = tuple(zip(map(place, singles), refusals, strict=True))
    return Verdict(mutation, found, applied=applied)


def _near(mutation: Record, topology: Topology) -> tuple[Near, ...]:
    """Return the nearest misses of each selector of a mutation that matches nothing."""
    near: list[Near] = []
    for selector in _selectors(mutation):
        try:
            places(selector, topology)
        except SelectorError:
            near += nearest(selector, topology)
    return tuple(dict.fromkeys(near))


def _selectors(mutation: Record) -> Iterator[AnySelector]:
    for name, value in mutation:
        if isinstance(value, AnySelector):
            yield value
        elif name in ENDS and isinstance(value, str):
            yield At(node=value)


def _lines(verdict: Verdict) -> Iterator[tuple[str, str]]:
    if verdict.applied:
        yield "yellow", "applied  already; a plan leaves it out"
    for where, refusal in verdict.found:
        if refusal is None:
            yield "green", f"ok       {where}"
        elif refusal.satisfied:
            yield "yellow", f"done     {where}: {refusal.reason}"
        else:
            yield "red", f"refused  {where}: {refusal.reason}; {refusal.fix}"
    if verdict.problem is not None:
        yield "red", f"nothing  {verdict.problem}"
    for near in verdict.near:
        yield "yellow", f"near     {near.node} ({near.operation}): {'; '.join(near.fails)}"


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "mutation": verdict.mutation.model_dump(mode="json"),
        "works": verdict.works,
        "applied": verdict.applied,
        "places": [
            {"place": where, "refusal": refusal and refusal.model_dump(mode="json")}
            for where, refusal in verdict.found
        ],
        "problem": verdict.problem,
        "nearest": [
            {"node": near.node, "operation": near.operation, "fails": list(near.fails)}
            for near in verdict.near
        ],
    }
