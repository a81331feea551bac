"""The verbs that work on a model: inspect, score, plan, apply."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from topograph.cli.leaving import left_out
from topograph.cli.loading import (
    load_batches,
    load_block,
    load_inputs,
    load_loss,
    load_model,
    load_selector,
)
from topograph.cli.output import console, say, show, table, write, write_text
from topograph.cli.spaces import print_spaces
from topograph.errors import SelectorError, SpecError
from topograph.report import diff_text, render_topology, topology_table, tree_json, tree_table
from topograph.report.words import place, visible
from topograph.report.words import score as score_text
from topograph.rewrite import apply as apply_plan
from topograph.rewrite import plan as make_plan
from topograph.sensitivity import Score, scorable
from topograph.sensitivity import score as score_candidates
from topograph.sensitivity.scored import LOSS, REFERENCE_STEP, place_name
from topograph.spec import AnyMutation, InsertLayer, Plan, load_mutations
from topograph.store import Run, replay
from topograph.tracing import TracedModel, trace

PAINT = {"+": "green", "-": "red", "~": "yellow", " ": "yellow", "N": "bold red", "r": "yellow"}


def inspect(
    model: str,
    shapes: list[str],
    data: str | None,
    html: Path | None,
    output: Path | None,
    as_json: bool,
    tree_only: bool,
    nodes: bool,
    depth: int | None,
    every: bool,
    spaces: bool,
) -> None:
    """Print a model's tree, nodes or spaces, or write its topology as JSON or HTML."""
    if as_json and tree_only:
        raise SpecError("--json and --tree-json: only one document fits stdout; give one of them")
    traced = base_model(model, shapes, data, None)
    if output is not None:
        write_text(output, traced.topology.dump())
    if html is not None:
        write_text(html, render_topology(traced.topology))
    if spaces:
        print_spaces(traced, as_json)
        return
    if as_json:
        write(traced.topology.dump())
        return
    if tree_only:
        write(tree_json(traced.topology))
        return
    if nodes:
        show(topology_table(traced.topology))
    else:
        show(tree_table(traced.topology, depth=depth, every=every))
    say(f"fingerprint {traced.topology.fingerprint}")
    for path, reason in traced.opaque.items():
        say(f"opaque: {path}: {reason}")
    for note in traced.notes:
        say(f"note: {note}")
    if not shapes and data is None:
        say("give --input or --data for shapes and FLOPs")
    for written in (output, html):
        if written is not None:
            say(f"wrote {written}")


def score(
    model: str,
    data: str,
    loss: str,
    where: str | None,
    block: str | None,
    units: int | None,
    mutations: Path | None,
    scorer: str,
    directions: int,
    top: int,
    output: Path | None,
    run: Path | None,
    as_json: bool,
) -> None:
    """Print the best places for a block, or the best of a file's mutations."""
    if mutations is None:
        where, block = where or "all", block or "bottleneck"
        what, given = f"where a {block}", f"--where {where}"
        changes: Sequence[AnyMutation] = [
            InsertLayer(where=load_selector(where), block=load_block(block, units))
        ]
    else:
        for name, value in (("--where", where), ("--block", block), ("--units", units)):
            if value is not None:
                raise SpecError(f"--mutations and {name}: the file says all; give one of them")
        what, given = "what", f"--mutations {mutations}"
        changes = load_mutations(str(mutations))
    measure, batches = load_loss(loss), load_batches(data)
    traced = base_model(model, [], data, run)
    progress = console.is_terminal and not as_json
    scores = score_candidates(
        traced,
        batches,
        measure,
        changes,
        scorer=scorer,
        directions=directions,
        progress=progress,
    )
    if not scores:
        raise SelectorError(f"{given}: the loss depends on none of these places")
    shown = scores[:top]
    if output is not None:
        asked = [found.mutation.model_dump(mode="json") for found in shown]
        write_text(output, json.dumps(asked, indent=2) + "\n")
    if as_json:
        write(json.dumps([_row(found) for found in shown], indent=2))
        return
    goal = "lowers the loss most" if scores[0].unit == LOSS else f"comes first by {scorer}"
    title = f"{what} {goal}: {len(shown)} of {len(scores)} places"
    scales = {found.scale for found in shown}
    unit = "value" if len(scales) > 1 or scores[0].unit == "none" else f"value, {scores[0].scale}"
    ranking = table(title, "place", unit, "parameters", "FLOPs a sample")
    ranking.min_width = len(title)  # which is not folded then
    for found in shown:
        sizes = f"{found.cost.parameters:+,}", f"{found.cost.flops:+,}"
        value = score_text(found.value, found.error)
        value += f" {found.scale}" if len(scales) > 1 else ""
        name = place(found.mutation) if mutations is None else place_name(found.mutation)
        ranking.add_row(Text(visible(name)), value, *sizes)
    show(ranking)
    if len(scales) > 1:
        say(f"ordered by the predicted decrease at a step of {REFERENCE_STEP:g}")
    for line in left_out(scorable(traced, changes, scorer)):
        say(line)
    if output is not None:
        say(f"wrote {output}; next: topograph plan {model} {output} --data {data}")


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
    made = make_plan(base_model(model, shapes, data, run), asked)
    if output is not None:
        write_text(output, made.dump())
    if as_json:
        write(made.dump())
        return bool(made)
    for line in str(made).splitlines():
        show(Text(visible(line), style=PAINT.get(line[:1], "")))
    if output is not None:
        say("")
        say(f"wrote {output}")
    return bool(made)


def apply(model: str, plan: Path, run: Path, shapes: list[str], data: str | None) -> None:
    """Carry out a saved plan and keep the revision."""
    saved = Plan.load(plan)
    exists = (run / "journal.sqlite").exists()
    base = base_model(model, shapes, data, run if exists else None)
    revision = apply_plan(base, saved)
    if not saved:
        say("no changes: the plan is empty")
        return
    keeper = Run.open(run) if exists else Run.create(run, base, model=model)
    with keeper:
        entry = keeper.commit(revision)
    show(diff_text(revision.diff))
    say("")
    say(f"entry {entry.number} of {run}: revisions/{entry.folder}")


def base_model(model: str, shapes: list[str], data: str | None, run: Path | None) -> TracedModel:
    """Return a factory's model, as a run has changed it where there is one."""
    base = load_model(model)
    inputs, named = load_inputs(shapes, data)
    return trace(base, inputs, named) if run is None else replay(run, base, inputs, named)


def _row(found: Score) -> dict[str, object]:
    return {
        "mutation": found.mutation.model_dump(mode="json"),
        "value": found.value,
        "order": found.order,
        "unit": found.unit,
        "error": found.error,
        "parameters": found.cost.parameters,
        "flops": found.cost.flops,
    }
