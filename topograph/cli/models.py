"""The verbs that work on a model: inspect, score, plan, apply."""

import json
from pathlib import Path

from rich.table import Table

from topograph.cli.loading import (
    load_batches,
    load_block,
    load_inputs,
    load_loss,
    load_model,
    load_selector,
)
from topograph.cli.output import console, write_text
from topograph.report import render_topology, topology_table
from topograph.rewrite import apply as apply_plan
from topograph.rewrite import plan as make_plan
from topograph.sensitivity import score as score_candidates
from topograph.spec import InsertLayer, Plan, load_mutations
from topograph.store import Run, replay
from topograph.tracing import TracedModel, trace


def inspect(
    model: str, shapes: list[str], data: str | None, html: Path | None, output: Path | None, as_json: bool
) -> None:
    """Print a model's topology, or write it as JSON or HTML."""
    traced = trace(load_model(model), load_inputs(shapes, data))
    if output is not None:
        write_text(output, traced.topology.dump())
    if html is not None:
        write_text(html, render_topology(traced.topology))
    if as_json:
        print(traced.topology.dump())
        return
    console.print(topology_table(traced.topology))
    console.print(f"fingerprint {traced.topology.fingerprint}", highlight=False)
    for path, reason in traced.opaque.items():
        console.print(f"opaque: {path}: {reason}", markup=False, highlight=False)
    for note in traced.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for place in (output, html):
        if place is not None:
            console.print(f"wrote {place}", highlight=False)


def score(
    model: str, data: str, loss: str, where: str, block: str, units: int, top: int, as_json: bool
) -> None:
    """Print the best places for a block."""
    batches = load_batches(data)
    traced = trace(load_model(model), load_inputs([], data))
    change = InsertLayer(where=load_selector(where), block=load_block(block, units))
    scores = score_candidates(
        traced, batches, load_loss(loss), [change], progress=console.is_terminal
    )
    if as_json:
        rows = [
            {
                "mutation": s.mutation.model_dump(mode="json"),
                "value": s.value,
                "order": s.order,
                "parameters": s.cost.parameters,
                "flops": s.cost.flops,
            }
            for s in scores[:top]
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"{min(top, len(scores))} of {len(scores)} places, best first")
    table.add_column("place", overflow="fold")
    for column in ("decrease per step²" if scores[0].order == 2 else "decrease per step",
                   "parameters", "FLOPs a sample"):  # fmt: skip
        table.add_column(column, justify="right")
    for s in scores[:top]:
        place = s.mutation.where  # type: ignore[union-attr]
        name = place.node if place.kind == "at" else f"{place.source} -> {place.target}"
        table.add_row(name, f"{s.value:.4g}", f"{s.cost.parameters:+,}", f"{s.cost.flops:+,}")
    console.print(table)


def plan(
    model: str,
    mutations: Path,
    output: Path | None,
    shapes: list[str],
    data: str | None,
    run: Path | None,
    as_json: bool,
) -> bool:
    """Print what mutations would change; return whether they change anything."""
    asked = load_mutations(str(mutations))
    made = make_plan(_base(model, shapes, data, run), asked)
    if output is not None:
        write_text(output, made.dump())
    print(made.dump() if as_json else made)
    if output is not None and not as_json:
        console.print(f"\nwrote {output}", highlight=False)
    return bool(made)


def apply(model: str, plan: Path, run: Path, shapes: list[str], data: str | None) -> None:
    """Carry out a saved plan and keep the revision."""
    saved = Plan.load(plan)
    exists = (run / "journal.sqlite").exists()
    base = _base(model, shapes, data, run if exists else None)
    revision = apply_plan(base, saved)
    keeper = Run.open(run) if exists else Run.create(run, base, model=model)
    with keeper:
        entry = keeper.commit(revision)
    print(revision.diff)
    console.print(f"\nentry {entry.number} of {run}: revisions/{entry.folder}", highlight=False)


def _base(model: str, shapes: list[str], data: str | None, run: Path | None) -> TracedModel:
    """Return a factory's model, as a run has changed it where there is one."""
    base, inputs = load_model(model), load_inputs(shapes, data)
    return trace(base, inputs) if run is None else replay(run, base, inputs)
