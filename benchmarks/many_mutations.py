"""Answers whether a thousand mutations in a row stay as quick and as small as the first hundred.

One small residual net goes through a cycle of single mutations that ends as large as it began:
a block is inserted, frozen, unfrozen and taken out again, a layer widened and narrowed back, an
adapter added and taken out, a branch added and taken out. Each is planned and applied by itself,
without a run directory and with one, which keeps every revision. The blocks differ from cycle to
cycle: a request that a topology contains, or once contained, is no change.
"""

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from reporting import arguments, report, table
from torch import Tensor, nn

import topograph as tg
from topograph.spec import AnyMutation

EVERY = 100
Step = Callable[[tg.TracedModel], AnyMutation]


class Net(nn.Module):
    """A residual net whose layers have names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)
        self.up, self.act, self.down = nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each class."""
        h = self.stem(x)
        h = h + self.down(self.act(self.up(self.norm(h))))
        return self.head(h)


def last(traced: tg.TracedModel, ending: str) -> str:
    """Return the last node whose name has an ending."""
    return [n.name for n in traced.topology.nodes if n.name.endswith(ending)][-1]


def out(traced: tg.TracedModel, start: str) -> AnyMutation:
    """Return the mutation that takes the newest addition of a kind out of its sum."""
    total = [n for n in traced.topology.nodes if n.name.startswith(start) and n.op == "add"][-1]
    where = tg.between(total.inputs[1], total.name, 1)
    return tg.Disconnect(edge=where)


def cycle(number: int) -> Iterator[Step]:
    """Yield the mutations of one cycle; requests differ from cycle to cycle where they must."""
    units = 2 + number % 34
    block = tg.Bottleneck(units=units, activation=("gelu", "silu", "tanh")[number // 34 % 3])
    yield lambda _: tg.InsertLayer(where=tg.at("stem"), block=block)
    yield lambda t: tg.Freeze(where=tg.at(last(t, "_reduce")))
    yield lambda t: tg.Unfreeze(where=tg.at(last(t, "_reduce")))
    yield lambda t: out(t, "bottleneck")
    yield lambda _: tg.WidenLayer(where=tg.at("up"), to=96)
    yield lambda _: tg.NarrowLayer(where=tg.at("up"), to=64)
    yield lambda _: tg.AddAdapter(where=tg.at("down"), rank=2, alpha=1 + number / 1000)
    yield lambda t: out(t, "adapter")
    yield lambda _: tg.AddBranch(source="stem", target="add", path=block)
    yield lambda t: out(t, "branch")


def resident() -> float:
    """Return this process's memory in MiB, after a collection."""
    gc.collect()
    status = Path(f"/proc/{os.getpid()}/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(count: int, run: Path | None) -> list[tuple[float, float, float, float, int]]:
    """Return for each hundred mutations: ms to plan, apply and commit, MiB, and digests kept."""
    torch.manual_seed(0)
    traced = tg.trace(Net(), (torch.randn(4, 16),))
    journal = tg.Run.create(run, traced, model="pkg.mod:make") if run is not None else None
    steps = (step for number in range(count) for step in cycle(number))
    rows, times = [], []
    for done in range(1, count + 1):
        mutation, marks = next(steps)(traced), [time.perf_counter()]
        plan = tg.plan(traced, [mutation])
        assert plan, mutation
        marks.append(time.perf_counter())
        revision = tg.apply(traced, plan)
        marks.append(time.perf_counter())
        if journal is not None:
            journal.commit(revision)
        marks.append(time.perf_counter())
        traced = revision.after
        times.append([1000 * (b - a) for a, b in pairwise(marks)])
        if done % EVERY == 0:
            middle = [statistics.median(column) for column in zip(*times, strict=True)]
            rows.append((*middle, resident(), len(traced.topology.applied)))
            times = []
            print(done, *(f"{value:.1f}" for value in rows[-1]), flush=True)
    if journal is not None:
        journal.close()
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", type=int, help="default 1000")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.count or (2 * EVERY if options.quick else 1_000)
    with TemporaryDirectory() as folder:
        both = [measure(count, None), measure(count, Path(folder) / "run")]
    lines = []
    for how, rows in zip(("no run directory", "run directory"), both, strict=True):
        first = sum(rows[0][:3])
        for index, row in enumerate(rows, 1):
            total = sum(row[:3])
            numbers = (f"{value:.1f}" for value in (*row[:3], total))
            flat = f"{total / first:.2f}"
            lines.append((how, index * EVERY, *numbers, flat, f"{row[3]:.0f}", row[4]))
    header = ["kept in", "mutations", "plan ms", "apply ms", "commit ms", "sum ms", "of the first"]
    header += ["resident MiB", "digests in the topology"]
    configuration = (
        "Medians over each hundred mutations of a cycle of ten; one thread. Resident memory is "
        "taken after a collection; the second run starts in the process of the first."
    )
    title = "A thousand mutations in a row"
    report(__file__, title, configuration, table(header, lines), not options.no_write)


if __name__ == "__main__":
    main()
