"""Answers what scoring every place costs, against one training step.

`tg.score` finds the topological derivative of all candidates of `InsertLayer(where=all())` from one
pass. Each row times it on one batch against one plain training step (forward, backward, AdamW step,
zero_grad) of the same eager model on the same batch: one process, step and score in turns, medians.

The naive way, for comparison: for each edge, insert the block with all its parameters at 0 and run
10 Lanczos iterations on Hessian-vector products (double backward; attention through its plain
formula, since the fused kernel has no second derivative). It is timed on a few sampled edges and
multiplied by the number of edges.
"""

import argparse
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from nets import ConvNet, Mlp, Vit
from reporting import arguments, interleaved, report, seconds, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import topograph as tg

LANCZOS = 10
UNITS = 16


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
        block = network.get_submodule(plan.changes[0].name)
        call = partial(hessian_lanczos, network, block, case.inputs, case.target)
        call()  # warm-up
        times.append(seconds(call))
    return statistics.median(times)


def measure(case: Case, threads: int, options: argparse.Namespace) -> tuple[object, ...]:
    """Return one row of the table."""
    torch.set_num_threads(threads)
    traced = tg.trace(case.model, (case.inputs,))
    optimizer = torch.optim.AdamW(case.model.parameters())
    wanted = [tg.InsertLayer(where=tg.all(), block=case.block)]
    batches = [(case.inputs, case.target)]
    score = partial(tg.score, traced, batches, F.cross_entropy, wanted)
    scores = score()
    step_time, score_time = interleaved(
        [partial(train_step, case, optimizer), score], options.repeats
    )
    places = [item.mutation for item in scores]
    naive = naive_seconds(case, traced, places, options.sample) * len(places)
    milliseconds = [f"{1000 * time:.1f}" for time in (step_time, score_time)]
    return (
        case.name,
        threads,
        len(places),
        *milliseconds,
        f"{score_time / step_time:.2f}",
        f"{1000 * naive:,.0f}",
        f"{naive / step_time:,.0f}",
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, nargs="+", help="torch's default, and 1")
    parser.add_argument("--repeats", type=int, help="default 21")
    parser.add_argument("--sample", type=int, default=3, help="edges for the naive way")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    options.threads = options.threads or list(dict.fromkeys([torch.get_num_threads(), 1]))
    options.repeats = options.repeats or (3 if options.quick else 21)
    rows = []
    for threads in options.threads:
        chosen = (case for case in cases(options.quick) if options.only in case.name)
        rows += [measure(case, threads, options) for case in chosen]
    configuration = (
        f"`tg.score` of all places, block of {UNITS} units, one batch, cross entropy; medians of "
        f"{options.repeats} turns after 2 warm ones, step and score in turns. Naive: inserted "
        f"block, {LANCZOS} Lanczos iterations with double backward, median of {options.sample} "
        "sampled edges times the number of places, an extrapolation."
    )
    header = ["net", "threads", "places", "step ms", "score ms", "score / step"]
    body = table([*header, "naive ms (extrapolated)", "naive / step"], rows)
    title = "Scoring every place against one training step"
    threads = " and ".join(map(str, options.threads))
    report(__file__, title, configuration, body, not options.no_write, threads)


if __name__ == "__main__":
    main()
