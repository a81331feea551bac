"""Answers what scoring every place costs, in time and memory, against one training step.

`tg.score` finds the topological derivative of all candidates of `InsertLayer(where=all())` from one
pass. Each row times it on one batch against one plain training step (forward, backward, AdamW step,
zero_grad) of the same eager model on the same batch: one process, step and score in turns, medians.
The second table has the same for MLPs of several widths and depths, the third the other scorers,
each on two batches or on 16, divided by their number, and gromo where it is installed. What a
scorer decomposes once, for all batches, weighs less the more there are.

Memory is the largest sum of all tensors that are alive at once, as torch's CPU allocator counts
them: parameters, both moments of AdamW, and what the step or the score adds to them. It is taken
once on one batch and once on three, for which a score keeps its sums.

The naive way, for comparison: for each edge, insert the block with all its parameters at 0 and run
10 Lanczos iterations on Hessian-vector products (double backward; attention through its plain
formula, since the fused kernel has no second derivative). It is timed on a few sampled edges and
multiplied by the number of edges.
"""

import argparse
import importlib.util
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from nets import ConvNet, Mlp, Vit
from reporting import arguments, interleaved, report, seconds, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

import topograph as tg

LANCZOS = 10
UNITS = 16
Call = Callable[[], Any]
FEW, ENOUGH = 2, 16  # batches; from 16 on rankings are stable
SCORERS = (
    *(("natural", ENOUGH), ("features", ENOUGH), ("topological_derivative", FEW)),
    *(("natural", FEW), ("wasserstein", FEW), ("features", FEW), ("tiny", FEW)),
    ("gradient_norm", FEW),
)


@dataclass
class Case:
    """A model, a batch, and the block that is tried everywhere."""

    name: str
    model: nn.Module
    inputs: Tensor
    target: Tensor
    block: tg.Bottleneck | tg.ConvBottleneck


def cases(quick: bool) -> Iterator[Case]:
    """Yield every case, with a new model each."""
    torch.manual_seed(0)
    width, depth, batch, small = (64, 3, 32, 4) if quick else (512, 10, 256, 16)
    features, labels = torch.randn(batch, width), torch.randint(0, 10, (batch,))
    dense = tg.Bottleneck(units=UNITS)
    for residual in (False, True):
        name = f"MLP {'residual' if residual else 'ReLU'} {width} x {depth}, batch {batch}"
        yield Case(name, Mlp(width, width, depth, 10, residual=residual), features, labels, dense)
    width, depth = (48, 2) if quick else (192, 6)
    images, labels = torch.randn(small, 3, 32, 32), torch.randint(0, 10, (small,))
    for norm in (False, True):
        name = f"ViT {width} x {depth}, 64 tokens, batch {small}"
        block = tg.Bottleneck(units=UNITS, norm=norm)
        yield Case(f"{name}, norm={norm}", Vit(width, depth), images, labels, block)
    images, labels = torch.randn(2 * small, 3, 32, 32), torch.randint(0, 10, (2 * small,))
    for kernel in (1, 3):
        block = tg.ConvBottleneck(units=UNITS, kernel=kernel)
        name = f"ResNet-20, batch {2 * small}, kernel {kernel}"
        yield Case(name, ConvNet(pairs=1 if quick else 3), images, labels, block)


def sweep_cases(quick: bool) -> Iterator[Case]:
    """Yield MLPs of several widths, and of several depths."""
    torch.manual_seed(0)
    batch, block = (32, tg.Bottleneck(units=4)) if quick else (256, tg.Bottleneck(units=UNITS))
    sizes = [(32, 3), (64, 3), (64, 5)] if quick else [(256, 10), (512, 10), (1024, 10)]
    sizes += [] if quick else [(512, 5), (512, 20)]
    for width, depth in sizes:
        features, labels = torch.randn(batch, width), torch.randint(0, 10, (batch,))
        name = f"MLP ReLU {width} x {depth}, batch {batch}"
        yield Case(name, Mlp(width, width, depth, 10), features, labels, block)


def train_step(case: Case, optimizer: torch.optim.Optimizer) -> None:
    """Take one plain training step."""
    case.model.train()
    F.cross_entropy(case.model(case.inputs), case.target).backward()
    optimizer.step()
    optimizer.zero_grad()


def hessian_lanczos(network: nn.Module, block: nn.Module, inputs: Tensor, target: Tensor) -> float:
    """Return the largest Ritz value of minus the Hessian by a block's parameters at 0."""
    parameters = [p for name, p in block.named_parameters() if not name.startswith("norm")]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    with sdpa_kernel(SDPBackend.MATH):
        loss = F.cross_entropy(network(inputs), target)
        slope = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([part.flatten() for part in slope])
    vector, before, beta = torch.randn_like(flat), torch.zeros_like(flat), 0.0
    vector = vector / vector.norm()
    tridiagonal = torch.zeros(LANCZOS, LANCZOS)
    for index in range(LANCZOS):
        product = torch.autograd.grad(flat, parameters, vector, retain_graph=True)
        image = -torch.cat([part.flatten() for part in product]) - beta * before
        tridiagonal[index, index] = alpha = image @ vector
        image = image - alpha * vector
        beta = image.norm()
        if index + 1 < LANCZOS:
            tridiagonal[index, index + 1] = tridiagonal[index + 1, index] = beta
        before, vector = vector, image / beta
    return torch.linalg.eigvalsh(tridiagonal)[-1].item()


def naive_seconds(case: Case, traced: tg.TracedModel, places: list, sample: int) -> float:
    """Return the median time of the naive way on sampled edges."""
    times = []
    for mutation in random.Random(0).sample(places, sample):
        plan = tg.plan(traced, [mutation])
        network = tg.apply(traced, plan, step=0.0).after.module.eval()
        block = network.get_submodule(plan.changes[0].path)
        call = partial(hessian_lanczos, network, block, case.inputs, case.target)
        call()  # warm-up
        times.append(seconds(call))
    return statistics.median(times)


def scoring(case: Case, batches: int = 1, scorer: str = "topological_derivative") -> Call:
    """Return a call that scores all places of a case."""
    traced = tg.trace(case.model, (case.inputs,))
    wanted = [tg.InsertLayer(where=tg.all(), block=case.block)]
    data = [(case.inputs, case.target)] * batches
    return partial(tg.score, traced, data, F.cross_entropy, wanted, scorer=scorer)


def stepping(case: Case) -> Call:
    """Return a call that takes a training step of a case."""
    return partial(train_step, case, torch.optim.AdamW(case.model.parameters()))


def peak(call: Call) -> float:
    """Return the most MiB that a call has alive at once beyond what was there before."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = found.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = most = 0
    for _, change in changes:
        live += change
        most = max(most, live)
    return most / 2**20


def memory(case: Case) -> list[str]:
    """Return the memory of a step, and how many times that scores of 1 and 3 batches take."""
    stays = 3 * sum(p.nbytes for p in case.model.parameters()) / 2**20
    calls = stepping(case), scoring(case), scoring(case, 3), scoring(case, 3, "natural")
    step, *scores = (stays + peak(call) for call in calls)
    return [f"{step:.0f}", *(f"{score / step:.2f}" for score in scores)]


def measure(case: Case, threads: int, options: argparse.Namespace) -> tuple[object, ...]:
    """Return one row of the first tables."""
    torch.set_num_threads(threads)
    step, score = stepping(case), scoring(case)
    count = len(score())
    step_time, score_time = interleaved([step, score], options.repeats)
    times = [f"{1000 * step_time:.1f}", f"{1000 * score_time:.1f}", f"{score_time / step_time:.2f}"]
    return case.name, threads, count, *times, *memory(case)


def naive(case: Case, threads: int, options: argparse.Namespace) -> tuple[object, ...]:
    """Return one row of the table of the naive way."""
    torch.set_num_threads(threads)
    (step_time,) = interleaved([stepping(case)], options.repeats)
    traced = tg.trace(case.model, (case.inputs,))
    places = [found.mutation for found in scoring(case)()]
    time = naive_seconds(case, traced, places, options.sample) * len(places)
    return case.name, threads, f"{1000 * time:,.0f}", f"{time / step_time:,.0f}"


def others(case: Case, threads: int, options: argparse.Namespace) -> tuple[object, ...]:
    """Return one row of the table of scorers: their time for a batch in steps."""
    torch.set_num_threads(threads)
    calls = [scoring(case, count, scorer) for scorer, count in SCORERS]
    step, *times = interleaved([stepping(case), *calls], options.repeats // 3 + 1, warm=1)
    each = [time / count / step for time, (_, count) in zip(times, SCORERS, strict=True)]
    return case.name, threads, *(f"{time:.2f}" for time in each), gromo(case, step)


def gromo(case: Case, step: float) -> str:
    """Return the time of gromo's statistics and updates for a batch of a plain MLP, in steps."""
    if importlib.util.find_spec("gromo") is None:
        return "not installed"
    if not isinstance(case.model, Mlp) or "residual" in case.name:
        return "-"
    from gromo.containers.growing_mlp import GrowingMLP

    width, depth = case.inputs.shape[1], len(case.model.layers) + 1
    net = GrowingMLP(width, 10, width, depth, activation=nn.ReLU())

    def updates() -> None:
        net.init_computation()
        for _ in range(2):
            net.zero_grad()
            F.cross_entropy(net(case.inputs), case.target).backward()
            net.update_computation()
        net.compute_optimal_updates(maximum_added_neurons=UNITS)
        net.reset_computation()

    return f"{interleaved([updates], 3, warm=1)[0] / 2 / step:.2f}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, nargs="+", help="torch's default, and 1")
    parser.add_argument("--repeats", type=int, help="default 21")
    parser.add_argument("--sample", type=int, default=3, help="edges for the naive way")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    options.threads = options.threads or list(dict.fromkeys([torch.get_num_threads(), 1]))
    options.repeats = options.repeats or (3 if options.quick else 21)
    configuration = (
        f"`tg.score` of all places, block of {UNITS} units, one batch, cross entropy; medians of "
        f"{options.repeats} turns after 2 warm ones, step and score in turns. Memory: all tensors "
        "alive at once, with the parameters and both moments of AdamW, of a step; of a score of 1 "
        "and of 3 batches as a multiple of it, and of one by `natural`. Naive: inserted block, "
        f"{LANCZOS} Lanczos iterations with double backward, median of {options.sample} sampled "
        "edges times the number of places, an extrapolation. Scorers: time for one of 2 or 16 "
        "batches as a multiple of a step; gromo's are those of new neurons for each layer of the "
        "plain MLP, on 2."
    )
    whole = ["net", "threads", "places", "step ms", "score ms", "score / step"]
    whole += ["step MiB", "1 batch / step", "3 batches / step", "natural, 3 / step"]
    columns = ["net", "threads", *(f"{scorer}, {count}" for scorer, count in SCORERS), "gromo"]
    parts = [
        ("Nets", whole, cases, measure),
        ("Width and depth", whole, sweep_cases, measure),
        ("Scorers", columns, cases, others),
        ("The naive way", ["net", "threads", "ms (extrapolated)", "naive / step"], cases, naive),
    ]
    tables = []
    for title, header, made, row in parts:
        rows = []
        for threads in options.threads:
            chosen = (case for case in made(options.quick) if options.only in case.name)
            rows += [row(case, threads, options) for case in chosen]
        tables.append(f"## {title}\n\n{table(header, rows)}")
    title = "Scoring every place against one training step"
    threads = " and ".join(map(str, options.threads))
    body = "\n\n".join(tables)
    report(__file__, title, configuration, body, not options.no_write, threads)


if __name__ == "__main__":
    main()
