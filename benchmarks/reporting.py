"""How every benchmark reports: one markdown table, its configuration, and where it ran."""

import argparse
import datetime
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import topograph as tg

RESULTS = Path(__file__).parent / "results"


def arguments(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: small and few")
    parser.add_argument("--no-write", action="store_true", help="write no results file")
    return parser


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes, without garbage collection, as `timeit` measures."""
    gc.disable()
    began = time.perf_counter()
    call()
    spent = time.perf_counter() - began
    gc.enable()
    return spent


def interleaved(calls: Sequence[Callable[[], object]], repeats: int, warm: int = 2) -> list[float]:
    """Return each call's median time; the calls take turns, so that drift hits all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(warm + repeats):
        for kept, call in zip(times, calls, strict=True):
            spent = seconds(call)
            if turn >= warm:
                kept.append(spent)
    return [statistics.median(kept) for kept in times]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table; all columns but the first are set to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def environment(threads: str | None = None) -> str:
    """Return date, versions, processors and threads in one line."""
    return (
        f"{datetime.date.today().isoformat()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, topograph {tg.__version__}; "
        f"{os.cpu_count()} processors, torch on {threads or torch.get_num_threads()} thread(s)"
    )


def report(
    script: str, title: str, configuration: str, body: str, write: bool, threads: str | None = None
) -> None:
    """Print the table, and write it with its configuration to ``results/<script>.md``."""
    text = f"# {title}\n\n{configuration}\n\n{body}\n\n{environment(threads)}\n"
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{Path(script).stem}.md").write_text(text, encoding="utf-8")
