"""Answers what one insert costs, and a hundred in one plan, on chains of growing length.

On chains of alternating Linear(8, 8) and ReLU, the times of `tg.plan` and `tg.apply` are taken for
one insert in the middle and for a hundred (fifty on the shortest chain too) at distinct, evenly
spread places, against what torch.fx itself needs for one edit of the same graph: copy, lint and
recompile. One process, all calls in turns, medians; the topology's fingerprint is known, as it is
after `trace` has been looked at or a plan made.
"""

import copy
import gc
from collections.abc import Sequence
from functools import partial

import torch
from reporting import arguments, interleaved, report, table
from torch import fx, nn

import topograph as tg


def chain(length: int) -> tg.TracedModel:
    """Return a traced chain of so many layers."""
    torch.manual_seed(0)
    layers = [nn.ReLU() if index % 2 else nn.Linear(8, 8) for index in range(length)]
    return tg.trace(nn.Sequential(*layers), (torch.randn(4, 8),))


def inserts(traced: tg.TracedModel, count: int) -> list[tg.InsertLayer]:
    """Return inserts behind `count` distinct nodes, evenly spread."""
    names = [node.name for node in traced.topology.nodes if node.kind == "module"]
    places = [names[(2 * index + 1) * len(names) // (2 * count)] for index in range(count)]
    assert len(set(places)) == count
    return [tg.InsertLayer(where=tg.at(place), block=tg.Bottleneck(units=4)) for place in places]


def by_fx(traced: tg.TracedModel) -> None:
    """Copy, lint and recompile the graph, as any edit by torch.fx does at least once."""
    graph = copy.deepcopy(traced.module.graph)
    graph.lint()
    fx.GraphModule(traced.module, graph)  # recompiles


def measure(length: int, counts: Sequence[int], repeats: int) -> list[tuple[float, ...]]:
    """Return for each count: the times of fx, plan and apply."""
    traced = chain(length)
    calls = [partial(by_fx, traced)]
    for count in counts:
        wanted = inserts(traced, count)
        calls += [
            partial(tg.plan, traced, wanted),
            partial(tg.apply, traced, tg.plan(traced, wanted)),
        ]
    gc.collect()
    edit, *times = interleaved(calls, repeats, warm=1)
    return [(edit, *times[2 * index : 2 * index + 2]) for index in range(len(counts))]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, help="default 9")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repeats = options.repeats or (3 if options.quick else 9)
    sizes = {100: (1, 50, 100), 1_000: (1, 100), 5_000: (1, 100)}
    if options.quick:
        del sizes[5_000]
    rows: list[tuple[object, ...]] = []
    shorter: dict[int, tuple[int, float]] = {}
    for length, counts in sizes.items():
        one = 0.0
        for count, (edit, plan, apply) in zip(
            counts, measure(length, counts, repeats), strict=True
        ):
            total = plan + apply
            one = one or total
            before = shorter.get(count)
            growth = f"{total / before[1]:.2f} for {length / before[0]:.0f}" if before else ""
            shorter[count] = (length, total)
            rows.append(
                (
                    f"{length:,}",
                    count,
                    *(f"{1000 * time:.1f}" for time in (edit, plan, apply)),
                    f"{plan / edit:.2f}",
                    f"{apply / edit:.2f}",
                    "" if count == 1 else f"{total / one:.2f}",
                    growth,
                )
            )
    header = ["layers", "inserts", "fx edit ms", "plan ms", "apply ms", "plan / fx", "apply / fx"]
    header += ["many / one (plan + apply)", "times longer for times the layers"]
    configuration = (
        "Chain of Linear(8, 8) and ReLU in turns; `Bottleneck(units=4)` behind distinct layers; "
        f"medians of {repeats} turns after a warm one. The fx edit is a copy of the graph, a lint "
        "and a recompile of the chain as it was, without any insert."
    )
    title = "One insert and a hundred in one plan"
    report(__file__, title, configuration, table(header, rows), not options.no_write)


if __name__ == "__main__":
    main()
