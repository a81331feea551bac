"""Trace and verify public architectures: one of each timm family, and those of Hugging Face.

`make zoo` installs timm, torchvision and transformers and runs this. Weights are random, inputs
small; `benchmarks/zoo/` says how each model is built and what it is called with. torchvision's
compiled operators do not load on a CPU-only torch: their schemas alone are declared.
"""

import statistics
import sys
import time
from collections.abc import Iterator

import torch

import topograph as tg
from benchmarks.reporting import arguments, report, table
from benchmarks.zoo.models import Specimen, missing, quiet

Row = tuple[str, str, str, int, int, float, float, float, str, int, int]


def specimens(quick: bool) -> Iterator[Specimen]:
    """Yield the models, a few fixed ones for a smoke run."""
    if quick:
        from benchmarks.zoo.fixed import fixed

        yield from fixed()
        return
    from benchmarks.zoo.hugging_face import hugging_face
    from benchmarks.zoo.timm_families import timm_families

    yield from timm_families()
    yield from hugging_face()


def examine(specimen: Specimen) -> Row:
    """Build, trace and verify one model."""
    torch.manual_seed(0)
    model = specimen.build().eval()
    args, kwargs = specimen.inputs()
    total = sum(parameter.numel() for parameter in model.parameters())
    turns = []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            model(*args, **kwargs)
            turns.append(time.perf_counter() - began)
    forward = statistics.median(turns[1:])
    began = time.perf_counter()
    try:
        traced = tg.trace(model, args, kwargs)
    except tg.TopographError as error:
        spent = time.perf_counter() - began
        verdict = f"refused: {str(error).split(';')[0]}"
        return (*_named(specimen), 0, 0, 0.0, forward, spent, verdict, 0, total)
    spent = time.perf_counter() - began
    try:
        problems = tg.verify(model, traced, args, kwargs)
    except Exception as error:  # the model itself keeps what it saw
        problems = (f"{type(error).__name__}: {error}",)
    inside = {
        id(parameter): parameter.numel()
        for path in traced.opaque
        for parameter in model.get_submodule(path).parameters()
    }
    verdict = f"differs: {problems[0]}" if problems else "equal"
    opaque = sum(inside.values())
    counts = len(traced.topology.nodes), len(traced.topology.edges)
    share = opaque / max(total, 1)
    return (*_named(specimen), *counts, share, forward, spent, verdict, opaque, total)


def _named(specimen: Specimen) -> tuple[str, str, str]:
    return specimen.name, specimen.family, specimen.kind


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    if (line := missing()) is not None:
        print(f"the zoo is skipped: {line}")
        sys.exit(0)
    rows: list[Row] = []
    with quiet():
        for specimen in specimens(options.quick):
            rows.append(examine(specimen))
            print(f"{rows[-1][0]:45} {rows[-1][8][:100]}", flush=True)
    summary = []
    for family in (*dict.fromkeys(row[1] for row in rows), "all"):
        ours = [row for row in rows if family in (row[1], "all")]
        equal = sum(row[8] == "equal" for row in ours)
        share = sum(row[9] for row in ours) / sum(row[10] for row in ours)
        within = sum(row[7] <= 3 * row[6] + 0.2 for row in ours)
        excess = statistics.median(row[7] - 3 * row[6] for row in ours)
        slowest = max(ours, key=lambda row: row[7])
        summary.append(
            (
                family,
                len(ours),
                equal,
                f"{share:.2%}",
                f"{statistics.median(row[7] for row in ours):.2f}",
                f"{excess:.2f}",
                within,
                f"{slowest[7]:.1f} ({slowest[0]})",
            )
        )
    header = ["family", "models", "traced and equal", "parameters in opaque leaves"]
    header += ["median trace s", "median of trace - 3 x forward, s", "within 3 x forward + 0.2 s"]
    header += ["slowest trace s"]
    details = [
        (
            r[0],
            r[2],
            r[3],
            r[4],
            f"{r[5]:.1%}",
            f"{r[6]:.3f}",
            f"{r[7]:.2f}",
            r[8].replace("|", "/"),
        )
        for r in rows
    ]
    columns = ["model", "kind", "nodes", "edges", "opaque", "forward s", "trace s", "verdict"]
    body = f"{table(header, summary)}\n\n{table(columns, details)}"
    configuration = (
        "Random weights, batch 2. Equal: outputs (bit for bit), buffers and state keys, gradients "
        "(within 128 units in the last place of the largest), in eval and in train, at batch 2 and "
        "3. The forward is a median of three in eval without gradients; trace is one call."
    )
    title = "Public architectures, traced and verified"
    report(__file__, title, configuration, body, not options.no_write)


if __name__ == "__main__":
    main()
