"""Answers whether growth pays: ways to grow a net against the final net from scratch.

Each net is trained for a third of the steps, grown by a block, trained for another third, grown
again, trained to the end: Adam with one learning rate that falls to 0 over the last quarter, its
moments carried along. All ways share the first third, the order of batches and the number of
steps, and every block has as many units as make its parameters the same at each width. The ways:

* *best, whitened*: where `natural` scores best, its whitened rows as a start, output 0;
* *best, Newton*: the same, with the output layer on a Newton step, halved until the loss falls;
* *paper*: where `topological_derivative` is largest, a step along its direction, halved likewise;
* *random*, *first*, *last*: at a random place, the first or the last one, output 0, with rows as
  torch draws them (*zero*) or those of `natural` (*whitened*);
* *Net2Deeper*: identity layers at a random place, with a ReLU where the net has such, as many as
  come nearest to the parameters of a block;
* *not grown*: the first net;
* *scratch*: the net that *best, whitened* ended with, drawn anew by its own reset_parameters,
  trained for the same steps; *scratch, same time*: for as many steps as take the processor time
  of *best, whitened*, with what its growth took.
"""

import argparse
import copy
import importlib.util
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from grow_cifar10 import redrawn
from growth_tables import End, Ends, against, costs
from net2deeper import net2deeper
from placement import BATCH, batches_of, edges, loss_of
from reporting import arguments, report
from tasks import LATER, Pair, Task, later_tasks, tasks
from torch import nn

import topograph as tg
from topograph.rewrite import set_step
from topograph.sensitivity import mean_loss
from topograph.spec import digest

RATE = 2e-3
PROBES = 8  # batches that are scored
HALVINGS = 10
TURNS, STEPS = 11, 4  # to measure a step


@dataclass(frozen=True)
class Way:
    """Where a net grows and how the new layer starts.

    Attributes:
        place: ``best`` by the scorer, ``random``, ``first`` or ``last``.
        scorer: Gives the start; empty for rows as torch draws them and output 0.
        search: Whether a step along the scorer's direction is searched; if not, the output is 0.
    """

    place: str
    scorer: str = ""
    search: bool = False


WAYS = {
    "best, whitened": Way("best", "natural"),
    "best, Newton": Way("best", "natural", search=True),
    "paper": Way("best", "topological_derivative", search=True),
    "random, zero": Way("random"),
    "last, zero": Way("last"),
    "first, whitened": Way("first", "natural"),
    "random, whitened": Way("random", "natural"),
    "last, whitened": Way("last", "natural"),
}


@dataclass
class Run:
    """A net in training; `seconds` are processor time, and hold those of `growing`."""

    traced: tg.TracedModel
    optimizer: torch.optim.Optimizer
    steps: int = 0
    seconds: float = 0.0
    growing: float = 0.0


def begin(model: nn.Module, task: Task) -> Run:
    """Return a run before its first step; only growth needs the trace."""
    began = time.process_time()
    traced = tg.trace(model, (task.train[0][:4],))
    spent = time.process_time() - began
    optimizer = torch.optim.Adam(traced.module.parameters(), lr=RATE)
    return Run(traced, optimizer, seconds=spent, growing=spent)


def train(run: Run, task: Task, stop: int, total: int, seed: int) -> None:
    """Train up to a step of so many."""
    model, began = run.traced.module.train(), time.process_time()
    stream = itertools.islice(batches_of(task.train, seed), run.steps, stop)
    for step, (inputs, target) in enumerate(stream, run.steps):
        for group in run.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 4 * (1 - step / total))
        run.optimizer.zero_grad()
        task.loss(model(inputs), target).backward()
        run.optimizer.step()
    run.optimizer.zero_grad()
    run.seconds, run.steps = run.seconds + time.process_time() - began, stop


def places(traced: tg.TracedModel, task: Task) -> list[tg.InsertLayer]:
    """Return the free places, with units that make the same parameters at each width."""
    nodes, found = traced.topology.by_name, []
    area = task.block.units * traced.module.get_submodule("head").in_features
    for edge in edges(traced, task):
        units = max(1, area // nodes[edge.where.node].channels)
        change = edge.model_copy(update={"block": edge.block.model_copy(update={"units": units})})
        if not traced.topology.contains(digest(change)):
            found.append(change)
    return found


def grown(
    way: Way, traced: tg.TracedModel, task: Task, probes: Sequence[Pair], draw: random.Random
) -> tg.Revision:
    """Return a net with one more block."""
    found = places(traced, task)
    if way.place != "best":
        chosen = {"first": found[0], "last": found[-1], "random": draw.choice(found)}
        found = [chosen[way.place]]
    if not way.scorer:
        return tg.apply(traced, tg.plan(traced, found), step=0)
    best = tg.score(traced, probes, task.loss, found, scorer=way.scorer)[0]
    plan = tg.plan(traced, [best.mutation])
    if way.search:
        revision = searched(traced, plan, best, probes, task)
        if revision is not None:
            return revision
    return tg.apply(traced, plan, directions=[best], step=0)


def searched(
    traced: tg.TracedModel, plan: tg.Plan, best: tg.Score, probes: Sequence[Pair], task: Task
) -> tg.Revision | None:
    """Halve the step from 1 until the loss falls, and on while it falls further; None if never."""
    revision = tg.apply(traced, plan, directions=[best], step=0)
    least, kept = mean_loss(traced, probes, task.loss), 0.0
    for halving in range(HALVINGS + 1):
        set_step(revision, [best], 2.0**-halving)
        after = mean_loss(revision.after, probes, task.loss)
        if after < least:
            least, kept = after, 2.0**-halving
        elif kept:
            break
    set_step(revision, [best], kept)
    return revision if kept else None


def grow(run: Run, task: Task, name: str, seed: int) -> None:
    """Grow a net by a block and carry its optimizer along."""
    began, draw = time.process_time(), random.Random(f"{seed} {run.steps}")
    probes = list(itertools.islice(batches_of(task.train, seed + 100), PROBES))
    if name == "Net2Deeper":
        revision = net2deeper(run.traced, task, places(run.traced, task), draw)
    else:
        revision = grown(WAYS[name], run.traced, task, probes, draw)
    tg.migrate(revision, optimizer=run.optimizer)
    run.traced = revision.after
    spent = time.process_time() - began
    run.seconds, run.growing = run.seconds + spent, run.growing + spent


@torch.no_grad()
def end(run: Run, task: Task) -> End:
    """Return what came of a run."""
    model, accuracy = run.traced.module.eval(), 0.0
    losses = [loss_of(model, task, data) for data in (task.train, task.test)]
    if not task.test[1].is_floating_point():
        accuracy = 100 * (model(task.test[0]).argmax(1) == task.test[1]).float().mean().item()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return End(*losses, accuracy, run.seconds, run.growing, run.steps, parameters)


def paces_of(nets: Sequence[nn.Module], task: Task) -> list[float]:
    """Return each net's median processor time of a training step; the nets take turns."""
    runs = [begin(copy.deepcopy(net), task) for net in nets]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(TURNS):
        for run, spent in zip(runs, times, strict=True):
            before = run.seconds
            train(run, task, STEPS * (turn + 1), STEPS * TURNS, 0)
            spent.append((run.seconds - before) / STEPS)
    return [statistics.median(spent) for spent in times]


def ends(
    task: Task, make: Callable[[], nn.Module], options: argparse.Namespace, seed: int
) -> dict[str, End]:
    """Return what came of every way of one seed, and of the nets that do not grow."""
    torch.manual_seed(seed)
    steps = options.image_steps if task.train[0].ndim == 4 else options.steps
    first, total, found = begin(make(), task), steps * (options.growths + 1), {}
    train(first, task, steps, total, seed)
    stages = [first.traced.module]
    for name in (*WAYS, "Net2Deeper", "not grown"):
        run = copy.deepcopy(first)
        for growth in range(options.growths):
            if name != "not grown":
                grow(run, task, name, seed)
            if name == "best, whitened":
                stages.append(copy.deepcopy(run.traced.module))
            train(run, task, steps * (growth + 2), total, seed)
        found[name] = end(run, task)
    paces = paces_of(stages, task)
    same = round((steps * sum(paces) + found["best, whitened"].growing) / paces[-1])
    for name, count in (("scratch", total), ("scratch, same time", same)):
        run = begin(redrawn(stages[-1], seed), task)
        train(run, task, count, count, seed)
        found[name] = end(run, task)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=3072, help="to train on")
    parser.add_argument("--steps", type=int, default=300, help="before and after each growth")
    parser.add_argument("--image-steps", type=int, default=200, help="of the nets for images")
    parser.add_argument("--growths", type=int, default=2)
    parser.add_argument("--only", default="", help="tasks whose name holds this text")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.samples, options.steps, options.image_steps = 2, 256, 20, 10
    torch.set_num_threads(1)
    parts: dict[str, Ends] = {}
    every = itertools.chain(tasks(options.data, options.samples), later_tasks(options.samples))
    for task in every:
        for net, make in task.nets.items() if options.only in task.name else ():
            name = f"{task.name}, {net}"
            parts[name] = [ends(task, make, options, seed) for seed in range(options.seeds)]
            print(name, f"{time.process_time():.0f} s\n{costs(parts[name])}", flush=True)
    later = {name: found for name, found in parts.items() if name.split(",")[0] in LATER}
    body = against(parts, "scratch")
    if later:
        body += f"\n\n## The tasks that came later\n\n{against(later, 'scratch')}"
    for base in ("scratch, same time", "random, zero"):
        body += f"\n\n## Against {base}\n\n{against(parts, base)}"
    body += "".join(f"\n\n## {name}\n\n{costs(found)}" for name, found in parts.items())
    gromo = "installed, but not run" if importlib.util.find_spec("gromo") else "not installed"
    configuration = (
        f"{options.samples:,} training and {2 * options.samples:,} test samples, batches of "
        f"{BATCH}, Adam at {RATE:g}, falling to 0 over the last quarter; {options.growths} "
        f"growths; {options.steps} steps before, between and after them, "
        f"{options.image_steps} for images; {options.seeds} seeds; {PROBES} probe batches. gromo "
        f"is {gromo}. Cells: mean difference of the test loss in percent, paired by seed, ± its "
        "standard error (seeds better:worse); less is better. "
        "Better and worse in the last row are beyond a t-test at 5 %. "
        f"{', '.join(LATER)} came later: the defaults were chosen by the others. The data are the "
        "same for all seeds, and nets share tasks, so that the errors over nets are too small. "
        "Processor seconds were taken on a busy machine and scatter by a fifth; the steps of "
        "`scratch, same time` follow from the medians of steps that took turns."
    )
    title = "Growing against the final net from scratch"
    report(__file__, title, configuration, body, not options.no_write, "1")


if __name__ == "__main__":
    main()
