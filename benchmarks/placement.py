"""Answers which scorer says where a new layer pays, against the truth after training.

Each net is trained a little (early) or until it hardly learns any more (plateau). Then the table of
truth: at every candidate edge a block is inserted, with the function kept, and the grown net is
trained on for the same number of steps; the final losses on training and test set, in the mean over
five such continuations, are the truth of that edge. A continuation has an order of batches of its
own, the same for all edges, and a draw of the block's rows: as torch draws them (start *zero*) or
those of `natural`, from probe batches of its own (start *whitened*); the outputs are 0.

A scorer's regret is 0 if its best edge is the best of the truth and 1 if it is as good as the mean
edge. What is best of the truth is partly luck. How near one can come is told by the rows that
choose by some of the continuations and are judged by the others: `1 continuation` is what training
each edge once to the horizon says. The rows `other seeds` take the edge that was best on average
over the other nets of that kind. Both look at test losses only.

The rows `race after` are `tg.race`: the best three of a scorer and one by lot are trained in rounds
on the probe batches, started as in the truth, the worse half leaves after each, and all optimizer
steps together, those of the unchanged network too, are at most 5 % or 25 % of those after growth. A
scorer's cost is its time over that of a training step; a race's is its scorer's and its optimizer
steps. The last column is the time of everything over that of a training step: of a race also of
applying each entrant and of measuring it after each round, which weighs on small nets.
"""

import argparse
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from placement_tables import Truth, report_of
from reporting import arguments, report
from tasks import Pair, Task, tasks
from torch import nn

import topograph as tg
from topograph.rewrite import set_step
from topograph.rewrite.blocks import start_layers

SCORERS = (
    *("topological_derivative", "gradient_norm", "gradmax", "tiny", "natural", "wasserstein"),
    *("features", "betti_stall", "first", "last", "random"),
)
STARTS = ("zero", "whitened")
BATCH = 64
PROBES = 8  # batches that are scored
EDGES = 8  # at most; of more, every second or third
ENTRANTS = 3  # of a scorer's best, beside one by lot
SCREENS = ("topological_derivative", "natural", "random")  # before a race
SHARES = (0.05, 0.25)  # of the steps after growth that a race may take
RATE = 2e-3  # of Adam


@dataclass(frozen=True)
class Net:
    """A trained net and where it may grow.

    Attributes:
        task: What it has learnt.
        traced: The net.
        places: The candidate edges.
        seed: Of its weights; those of everything else follow.
        step: Seconds of processor time of a training step.
    """

    task: Task
    traced: tg.TracedModel
    places: list[tg.InsertLayer]
    seed: int
    step: float

    def probes(self, seed: int) -> list[Pair]:
        """Return batches to score on."""
        return list(itertools.islice(batches_of(self.task.train, seed), PROBES))


def batches_of(data: Pair, seed: int) -> Iterator[Pair]:
    """Yield shuffled batches without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[0]), generator=generator)
        for part in order.split(BATCH):
            if len(part) == BATCH:
                yield data[0][part], data[1][part]


def train(model: nn.Module, task: Task, stops: Sequence[int], seed: int) -> Iterator[float]:
    """Train with Adam up to each of some numbers of steps; yield the seconds of a step there."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    stream, done = batches_of(task.train, seed), 0
    for stop in stops:
        model.train()
        began = time.process_time()
        for _ in range(stop - done):
            inputs, target = next(stream)
            optimizer.zero_grad()
            task.loss(model(inputs), target).backward()
            optimizer.step()
        yield (time.process_time() - began) / (stop - done)
        done = stop


@torch.no_grad()
def loss_of(model: nn.Module, task: Task, data: Pair) -> float:
    """Return the mean loss over a data set, in eval mode."""
    model.eval()
    return task.loss(model(data[0]), data[1]).item()


def edges(traced: tg.TracedModel, task: Task) -> list[tg.InsertLayer]:
    """Return the places behind activations and sums of the body, each once."""
    found = []
    for node in traced.topology.nodes:
        body = node.op in ("relu", "tanh", "gelu", "add") and traced.topology.users[node.name]
        if body:
            found.append(tg.InsertLayer(where=tg.at(node.name), block=task.block))
    places = [p for p in tg.candidates(traced, found) if isinstance(p, tg.InsertLayer)]
    return places[:: -(-len(places) // EDGES)]


def truth_of(net: Net, start: str, options: argparse.Namespace) -> Truth:
    """Grow a net at every edge and train on, several times."""
    revisions = [tg.apply(net.traced, tg.plan(net.traced, [place]), step=0) for place in net.places]
    ends = np.empty((2, options.continuations, len(net.places)))
    for turn in range(options.continuations):
        seed = 1_000 * (net.seed + 1) + 10 * turn
        given = started(net, start, net.probes(seed))
        for at, revision in enumerate(revisions):
            block = revision.after.module.get_submodule(revision.plan.changes[0].path)
            start_layers(block, 100 * seed + at)
            set_step(revision, given, 0)
            grown = copy.deepcopy(revision.after.module)
            list(train(grown, net.task, (options.horizon,), seed + 1))
            sets = (net.task.train, net.task.test)
            ends[:, turn, at] = [loss_of(grown, net.task, data) for data in sets]
    found = Truth([place.where.node for place in net.places], *ends)
    for known in sorted({1, options.continuations // 2} - {0, options.continuations}):
        name = f"{known} continuation{'s' if known > 1 else ''}"
        found.known[name] = known
        found.cost[name] = found.time[name] = known * len(net.places) * options.horizon
    return found


def started(net: Net, start: str, probes: Sequence[Pair]) -> list[tg.Score]:
    """Return what says with which rows the blocks start, if not as torch draws them."""
    if start == "zero":
        return []
    return tg.score(net.traced, probes, net.task.loss, net.places, scorer="natural")


def ask(net: Net, truths: Mapping[str, Truth], horizon: int) -> None:
    """Add what every scorer says of a net's edges, what races say, and their cost."""
    probes = net.probes(net.seed + 2)
    starts = {start: started(net, start, probes) for start in truths}
    for scorer in SCORERS:
        began = time.process_time()
        try:
            scores = tg.score(net.traced, probes, net.task.loss, net.places, scorer=scorer)
        except tg.TopographError:
            continue  # it does not know such nets
        cost = (time.process_time() - began) / net.step
        value = {score.mutation: score.value for score in scores}
        for start, found in truths.items():
            found.cost[scorer] = found.time[scorer] = cost
            found.said[scorer] = [value.get(place, float("-inf")) for place in net.places]
            for share in SHARES if scorer in SCREENS else ():
                name, began = f"race after {scorer}, {share:.0%}", time.process_time()
                end = raced(net, probes, scores, starts[start], max(2, round(share * horizon)))
                found.time[name] = cost + (time.process_time() - began) / net.step
                found.cost[name] = cost + end.spent
                order = {entrant.score.mutation: -at for at, entrant in enumerate(end.entrants)}
                found.said[name] = [float(order.get(p, -len(order))) for p in net.places]


def raced(
    net: Net,
    probes: Sequence[Pair],
    scores: Sequence[tg.Score],
    starts: Sequence[tg.Score],
    budget: int,
) -> tg.Raced:
    """Return how a race went of a scorer's best and one by lot, all started as in the truth."""
    rows = {one.mutation: one.start for one in starts}
    plain = [replace(one, direction={}, start=rows.get(one.mutation, {})) for one in scores]
    optimizer = torch.optim.Adam(net.traced.module.parameters(), lr=RATE)
    rules = tg.Race(of=ENTRANTS, random=1, budget=budget)
    return tg.race(net.traced, plain, probes, net.task.loss, optimizer, rules, step=tg.Zero())


def with_other_seeds(truths: Sequence[Truth]) -> None:
    """Add what the other seeds' test losses say of each edge as a scorer."""
    for index, found in enumerate(truths):
        others = [one.test.mean(0) for place, one in enumerate(truths) if place != index]
        if others:
            found.said["other seeds"] = (-np.mean(others, 0)).tolist()


def net_of(
    task: Task, make: Callable[[], nn.Module], steps: int, options: argparse.Namespace, seed: int
) -> dict[str, Truth]:
    """Return what came of one net that was trained for some steps, by start."""
    torch.manual_seed(seed)
    model = make()
    (step,) = train(model, task, (steps,), seed)
    traced = tg.trace(model, (task.train[0][:4],))
    net = Net(task, traced, edges(traced, task), seed, step)
    truths = {start: truth_of(net, start, options) for start in options.start}
    ask(net, truths, options.horizon)
    return truths


def nets_of(
    task: Task, make: Callable[[], nn.Module], steps: int, options: argparse.Namespace
) -> dict[str, list[Truth]]:
    """Return what came of all nets of one kind, by start."""
    count = options.images if task.train[0].ndim == 4 else options.seeds
    nets = [net_of(task, make, steps, options, seed) for seed in range(count)]
    found = {start: [truths[start] for truths in nets] for start in options.start}
    for each in found.values():
        with_other_seeds(each)
    return found


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5, help="nets of each kind")
    parser.add_argument("--images", type=int, default=3, help="nets of each kind on images")
    parser.add_argument("--continuations", type=int, default=5, help="of every edge of a net")
    parser.add_argument("--start", nargs="+", choices=STARTS, default=STARTS, help="of the rows")
    parser.add_argument("--samples", type=int, default=1024, help="to train on")
    parser.add_argument("--early", type=int, default=100, help="steps before growth")
    parser.add_argument("--plateau", type=int, default=1500)
    parser.add_argument("--horizon", type=int, default=500, help="steps after growth")
    parser.add_argument("--only", default="", help="nets whose task and name hold this text")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.images, options.continuations = 2, 1, 2
        options.samples, options.plateau, options.horizon = 256, 200, 60
    return options


def configured(options: argparse.Namespace) -> str:
    """Return what was run, and how to read the tables."""
    return (
        f"{options.samples:,} training samples, batches of {BATCH}, Adam at 2e-3, "
        f"{options.early} (early) or {options.plateau:,} (plateau) steps before growth and "
        f"{options.horizon} after it; {options.seeds} nets of each kind, {options.images} on "
        f"images, {options.continuations} continuations of every edge; {PROBES} probe batches, "
        f"races of {ENTRANTS} of the best and one by lot. Zero and whitened are the starts of the "
        "rows, in the truth and in the races; costs are those with the first. Ranks are Spearman's,"
        " 1 where the scorer's best has the least loss; regret is 0 at the best edge and 1 at the "
        "mean; ± is a standard error over nets. "
        "The nets of one row share tasks, so that the errors are too small."
    )


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    parts: dict[str, dict[str, list[Truth]]] = {}
    for task in tasks(options.data, options.samples):
        for net, make in task.nets.items():
            for stage in ("early", "plateau") if options.only in f"{task.name}, {net}" else ():
                name = f"{task.name}, {net}, {stage}"
                parts[name] = nets_of(task, make, getattr(options, stage), options)
                print(f"{time.process_time():.0f} s {name}", flush=True)
    body = report_of(parts, options.horizon)
    title = "Where a new layer pays: scorers against the truth after training"
    report(__file__, title, configured(options), body, not options.no_write, "1")


if __name__ == "__main__":
    main()
