"""Every kind of mutation on public models: what goes through, what is refused, what is wrong.

On each model of the zoo (`benchmarks/zoo/`) every linear layer and convolution, at most twelve of
them, is asked to be widened by 2, widened by a quarter and narrowed by half; where that width is
one of the model's output it is asked again with ``outputs="change"``. Every other kind of mutation
is asked at a few places. Each plan is tried on a copy, as plans are; one place of each kind and
model is also applied, undone, read back from JSON, replayed from a run directory, compared with
the model that keeps its class, and trained for two steps.

Rows are written as they come (``--rows``); a second run goes on behind the last.
"""

import copy
import gc
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

import topograph as tg
from benchmarks.reporting import arguments, report, table
from benchmarks.zoo.models import Specimen, missing, quiet
from benchmarks.zoo_sweep import specimens
from tests.random_mutations import KINDS, SIZED, Facts, sample, width
from tests.rewrite.mutation_laws import Call, gradients, laws, replayed, run
from topograph.rewrite.answers import noise
from topograph.spec import AnyMutation
from topograph.topology import Node

MOST_LAYERS, PLACES = 12, 2
SECONDS = (5.0, 7.5, 10.0)  # of a model's processor time, after which no more is begun
LARGEST = 30_000_000  # parameters of models on which plans are also carried out
WIDTHS = ("widen x 2", "widen + 25 %", "narrow / 2")
OTHERS = tuple(kind for kind in KINDS if not kind.endswith(("widen_layer", "narrow_layer")))
CHANGES = re.compile(r"max \|Δy\| = (\S+)$")
Row = dict[str, Any]


def asked(traced: tg.TracedModel, node: Node, how: str, outputs: str) -> AnyMutation:
    """Return one request for another width of a layer."""
    where, old = tg.at(node.name), width(Facts(traced), node)
    if how == "narrow / 2":
        return tg.NarrowLayer(where=where, to=max(1, old // 2), outputs=outputs)
    to = 2 * old if how == "widen x 2" else old + max(1, old // 4)
    return tg.WidenLayer(where=where, to=to, outputs=outputs)


def class_of(reason: str) -> str:
    """Return a reason without the names and numbers of one model."""
    said = reason.partition(" is fixed: ")[2] or reason
    said = re.sub(r"[\w.#-]*[_.#][\w.#-]*|\b\w*\d\w*\b|\[[^]]*\]", "…", said)
    return re.sub(r"(… ?,? ?)+", "… ", said).strip()[:110]


class Tally:
    """What came of the requests of one model."""

    def __init__(self, traced: tg.TracedModel) -> None:
        self.traced = traced
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.largest: dict[str, float] = {}
        self.plans: dict[str, tg.Plan] = {}

    def ask(self, what: str, mutation: AnyMutation, again: AnyMutation | None = None) -> None:
        """Plan one request; where it runs into the output, plan the other one instead."""
        try:
            plan = tg.plan(self.traced, [mutation])
        except tg.RefusedError as error:
            reason = error.refusals[0].reason
            if again is not None and "model's output" in reason:
                self.counts[what, "in the output"] += 1
                self.ask(what, again)
                return
            self.counts[what, "refused"] += 1
            self.reasons[what.split()[0], class_of(reason)] += 1
            return
        except Exception as error:  # a wrong result like any other
            self._is_wrong(what, mutation, f"{type(error).__name__}: {error}")
            return
        if not plan.changes:
            self.counts[what, "nothing to do"] += 1
            return
        failed = [check for check in plan.checks if not check.passed]
        if failed:
            self._is_wrong(what, mutation, f"{failed[0].name}: {failed[0].found}")
            return
        self.counts[what, "through"] += 1
        self.plans.setdefault(what, plan)
        found = CHANGES.search(next(c.found for c in plan.checks if c.name == "output in eval"))
        if found:
            self.largest[what] = max(self.largest.get(what, 0.0), float(found[1]))

    def _is_wrong(self, what: str, mutation: AnyMutation, line: str) -> None:
        self.counts[what, "wrong"] += 1
        self.wrong.append(f"{what} {mutation!r}: {line.splitlines()[0][:300]}")


def deep(tally: Tally, what: str, fresh: nn.Module, calls: list[Call]) -> list[str]:
    """Return what breaks when one plan is carried out, undone, replayed and trained."""
    plan = tally.plans[what]
    try:
        found = laws(tally.traced, plan, calls)
        return [
            *found.problems,
            *replayed(found.revision, fresh, calls[0]),
            *gradients(found.revision, calls[0]),
        ]
    except Exception as error:  # a wrong result like any other
        return [f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"]


def examine(specimen: Specimen, most: int = MOST_LAYERS, places: int = PLACES) -> Row:
    """Ask one model for everything, at no more layers and places than these."""
    torch.manual_seed(0)
    model = specimen.build().eval()
    calls = [specimen.inputs(size) for size in (2, 3)]
    fresh = copy.deepcopy(model)
    row: Row = {"name": specimen.name, "family": specimen.family, "kind": specimen.kind}
    try:
        traced = tg.trace(model, *calls[0])
    except tg.TopographError as error:
        return row | {"untraced": str(error).split(";")[0]}
    tally, began = Tally(traced), time.process_time()
    layers = [n for n in traced.topology.nodes if n.kind == "module" and n.op in SIZED and n.shape]
    chosen = layers if len(layers) <= most else random.Random(0).sample(layers, most)
    for node in chosen:
        if time.process_time() - began > SECONDS[0]:
            break
        for what in WIDTHS:
            tally.ask(what, *(asked(traced, node, what, o) for o in ("keep", "change")))
    for kind in OTHERS:
        for mutation in sample(traced, kind, places, seed=0):
            if time.process_time() - began < SECONDS[1]:
                tally.ask(kind, mutation)
    broken = {}
    for what in tally.plans:
        if traced.topology.parameter_count > LARGEST or time.process_time() - began > SECONDS[2]:
            break
        broken[what] = deep(tally, what, copy.deepcopy(fresh), calls)
    return row | {
        "layers": len(layers),
        "counts": [[*key, count] for key, count in tally.counts.items()],
        "reasons": [[*key, count] for key, count in tally.reasons.items()],
        "wrong": tally.wrong,
        "largest": tally.largest,
        "noise": noise(run(traced.module, calls[0], training=False)),
        "broken": broken,
        "seconds": time.process_time() - began,
    }


def count(rows: list[Row], what: str, verdict: str) -> int:
    """Return how often requests of a kind came to a verdict."""
    return sum(
        number
        for row in rows
        for kind, said, number in row.get("counts", ())
        if said == verdict and what in (kind, "all")
    )


def details(rows: list[Row]) -> str:
    """Return the table of single models."""
    lines = []
    for row in rows:
        if "untraced" in row:
            lines.append((row["name"], row["family"], "not traced", *[""] * 10))
            continue
        numbers = [
            sum(count([row], what, verdict) for what in kinds)
            for kinds in (WIDTHS, OTHERS)
            for verdict in ("through", "refused", "wrong")
        ]
        broken = sum(bool(problems) for problems in row["broken"].values())
        largest = max(row["largest"].values(), default=0.0)
        lines.append(
            (
                row["name"],
                row["family"],
                row["layers"],
                sum(numbers[:3]),
                *numbers[:3],
                sum(numbers[3:]),
                *numbers[3:],
                f"{len(row['broken']) - broken} of {len(row['broken'])}",
                f"{largest:.1e}",
            )
        )
    header = ["model", "family", "layers", "widths asked", "through", "refused", "wrong"]
    header += ["others asked", "through", "refused", "wrong", "laws hold", "largest |Δy|"]
    return table(header, lines)


def by_kind(rows: list[Row]) -> str:
    """Return the table of kinds over all models."""
    lines = []
    for what in (*WIDTHS, *OTHERS):
        through, refused, wrong = (count(rows, what, v) for v in ("through", "refused", "wrong"))
        asked_ = through + refused + wrong
        tried = [row["broken"][what] for row in rows if what in row.get("broken", ())]
        gaps = [
            (row["largest"][what], row["largest"][what] / max(row["noise"], 1e-30))
            for row in rows
            if what in row.get("largest", ())
        ]
        lines.append(
            (
                what,
                asked_,
                through,
                f"{through / max(asked_, 1):.1%}",
                refused,
                wrong,
                count(rows, what, "in the output"),
                f"{sum(not problems for problems in tried)} of {len(tried)}",
                f"{max((gap for gap, _ in gaps), default=0.0):.1e}" if gaps else "",
                f"{max(share for _, share in gaps):.2g}" if gaps else "",
            )
        )
    header = ["kind", "asked", "through", "share", "refused", "wrong", "in the output first"]
    header += ["laws hold", "largest |Δy|", "of 8 ulp of the output"]
    return table(header, lines)


def refusals(rows: list[Row]) -> str:
    """Return the table of reasons for refusals."""
    reasons: Counter[tuple[str, str]] = Counter()
    models: dict[tuple[str, str], str] = {}
    for row in rows:
        for what, reason, number in row.get("reasons", ()):
            reasons[what, reason] += number
            models.setdefault((what, reason), row["name"])
    lines = [
        (reason.replace("|", "/"), what, number, models[what, reason])
        for (what, reason), number in reasons.most_common()
    ]
    return table(["reason", "kind", "refusals", "for example"], lines)


def faults(rows: list[Row]) -> str:
    """Return a line for each wrong result and each broken law."""
    lines = [f"- {row['name']}: {line}" for row in rows for line in row.get("wrong", ())]
    lines += [
        f"- {row['name']}, {what}: {'; '.join(problems)}"
        for row in rows
        for what, problems in row.get("broken", {}).items()
        if problems
    ]
    return "\n".join(lines) or "None."


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=Path, default=Path("runs/parity.jsonl"))
    parser.add_argument("--only", nargs="*", help="names of models; default all")
    options = parser.parse_args()
    if (line := missing()) is not None:
        print(f"the zoo is skipped: {line}")
        sys.exit(0)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    known = options.rows.read_text(encoding="utf-8").splitlines() if options.rows.exists() else []
    rows: list[Row] = [json.loads(line) for line in known]
    done = {row["name"] for row in rows}
    with quiet(), options.rows.open("a", encoding="utf-8") as journal:
        for specimen in specimens(options.quick):
            if specimen.name in done or (options.only and specimen.name not in options.only):
                continue
            rows.append(examine(specimen))
            journal.write(f"{json.dumps(rows[-1])}\n")
            journal.flush()
            through, wrong = (count(rows[-1:], "all", verdict) for verdict in ("through", "wrong"))
            print(f"{specimen.name:45} {through} through, {wrong} wrong", flush=True)
            gc.collect()
    configuration = (
        f"Random weights, batch 2. Widths: every linear layer and convolution, at most "
        f"{MOST_LAYERS} a model, none begun after {SECONDS[0]:.0f} s; {PLACES} places of every "
        "other kind. A request is through when its plan passes all checks, the outputs of what "
        "keeps the function among them: within 8 units in the last place of the largest output, or "
        "within 8 times the model's own rounding error, from double precision. One place of each "
        f"kind and model is carried out, up to {LARGEST // 1_000_000} million parameters, at batch "
        "2 and 3, in eval and in train: outputs, undo, JSON, replay, state keys, the model that "
        "keeps its class, gradients of what is new."
    )
    body = "\n\n".join(
        (by_kind(rows), "## Refusals", refusals(rows), "## Wrong", faults(rows), details(rows))
    )
    report(__file__, "Every mutation on public models", configuration, body, not options.no_write)


if __name__ == "__main__":
    main()
