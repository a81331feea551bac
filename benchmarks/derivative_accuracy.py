"""Does the topological derivative foretell the change of the loss, as the step goes to zero?

In float64, for nets and blocks of every kind: the decrease of the loss at a step `e`, measured
after `tg.apply`, over the predicted `D e^order`. Two kinds of directions:

* *leading*: `tg.score`'s own, D = score.value, started by `tg.apply(..., directions=[score])`.
* *random*: Gaussian in all parameters of a block of three units, of length 1. The prediction does
  not use `topograph.sensitivity`: with f = W2 act(W1 g(x) + b1), D = s1 <W2 [W1 b1], M>, and this
  contraction is -s1 dJ/dt of the virtual map x + t W2 (W1 g(x) + b1) at t = 0, which autograd
  takes with g written out here. Of nine draws the one with the median |D| is kept, since D of a
  random direction can be 0 by chance, where a ratio means nothing.

Places are those of `all()` and the single uses of values that are read several times; of each net
and block a seeded sample. Nets are smooth (GELU), but for the rows that say ReLU: behind a kink at
exactly 0 the derivative is one-sided. GELU and SiLU blocks have an error of first order in the
step (their second derivative at 0 is not 0), tanh one of second order; "1e-3 both" averages the
loss at +e and -e, which cancels it. BatchNorm uses its running statistics. Rounding of the loss
difference sets the floor: about 1e-16 / (D e^order).
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from nets import ConvNet, Mlp, Vit
from reporting import arguments, report, table
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

import topograph as tg
from topograph.rewrite.blocks import set_start

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)
SLOPES = {"tanh": 1.0, "gelu": 0.5, "silu": 0.5}
DRAWS = 9
Change = tg.InsertLayer | tg.AddBranch


def nets() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield name, network and inputs; BatchNorm has seen a few batches."""
    torch.manual_seed(0)
    features, images = torch.randn(24, 12), torch.randn(6, 3, 8, 8)
    yield "MLP plain", Mlp(12, 16, 4, 5, nn.GELU), features
    yield "MLP plain, ReLU", Mlp(12, 16, 4, 5, nn.ReLU), features
    yield "MLP residual", Mlp(12, 16, 4, 5, nn.GELU, residual=True), features
    yield "MLP pre-norm residual", Mlp(12, 16, 4, 5, nn.GELU, True, True), features
    yield "CNN plain", ConvNet((6, 8), 1, 5, nn.GELU, residual=False, norm=False), images
    yield "ResNet BatchNorm", ConvNet((6, 8), 1, 5, nn.GELU), images
    yield "ResNet BatchNorm, ReLU", ConvNet((6, 8), 1, 5, nn.ReLU), images
    yield "ViT", Vit(16, 2, heads=2, size=8, patch=2, outputs=5), images


def blocks(images: bool) -> Iterator[tuple[str, Any]]:
    """Yield the blocks that fit a net's values; a branch stands for itself."""
    if images:
        for kernel, spatial in ((1, "in"), (3, "in"), (3, "out")):
            for activation in ("tanh", "gelu"):
                block = tg.ConvBottleneck(
                    units=3, kernel=kernel, spatial=spatial, activation=activation
                )
                yield f"conv {kernel} {spatial}, {activation}", block
    else:
        for activation in ("tanh", "gelu"):
            for norm in (False, True):
                block = tg.Bottleneck(units=3, activation=activation, norm=norm)
                yield f"bottleneck {activation}, norm={norm}", block
        yield "linear", tg.Linear()
    yield "branch gate", None


def changes(traced: tg.TracedModel, block: Any, most: int) -> list[Change]:
    """Return a seeded sample of the places where a block, or a branch, can be put."""
    shape = traced.topology
    if block is None:
        names = [n.name for n in shape.nodes if n.kind in ("module", "function") and n.shape]
        pairs = [(a, b) for i, b in enumerate(names) for a in names[:i]]
        same = [p for p in pairs if shape.by_name[p[0]].shape == shape.by_name[p[1]].shape]
        wanted: list[Change] = [tg.AddBranch(source=a, target=b) for a, b in same]
    else:
        wanted = [tg.InsertLayer(where=tg.all(), block=block)]
        for edge in shape.edges:
            if len(shape.users[edge.source]) > 1 and shape.by_name[edge.target].shape:
                where = tg.between(edge.source, edge.target, edge.slot)
                wanted.append(tg.InsertLayer(where=where, block=block))
    found = [c for c in tg.candidates(traced, wanted) if not isinstance(c, tg.Refusal)]
    return random.Random(0).sample(found, min(most, len(found)))


class Virtual(fx.Interpreter):
    """Runs a graph with ``x + t * made(x)`` instead of `x` at the place of a change."""

    def __init__(self, traced: tg.TracedModel, change: Change, made: Any) -> None:
        super().__init__(traced.module, garbage_collect_values=False)
        self.change, self.made, self.t = change, made, torch.zeros((), requires_grad=True)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(self.change, tg.AddBranch):
            source = {m.name: kept for m, kept in self.env.items()}.get(self.change.source)
            return value + self.t * source if n.name == self.change.target else value
        where = self.change.where
        return value + self.t * self.made(value) if getattr(where, "node", "") == n.name else value

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        where, slots = getattr(self.change, "where", None), iter(range(10**6))
        if getattr(where, "target", None) != n.name:
            return super().fetch_args_kwargs_from_env(n)

        def use(source: fx.Node) -> Any:
            value = self.env[source]
            return value + self.t * self.made(value) if next(slots) == where.slot else value

        return map_arg((n.args, n.kwargs), use)


def product(block: Any, phi: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return ``W2 (W1 g(x) + b1)``: the block without its activation."""
    if isinstance(block, tg.Linear):
        return F.linear(x, phi["linear.weight"], phi.get("linear.bias"))
    first, bias, last = phi["reduce.weight"], phi["reduce.bias"], phi["expand.weight"]
    if isinstance(block, tg.ConvBottleneck):
        hidden = F.conv2d(x, first, bias, padding=first.shape[-1] // 2)
        return F.conv2d(hidden, last, padding=last.shape[-1] // 2)
    x = F.layer_norm(x, x.shape[-1:]) if block.norm else x
    return F.linear(F.linear(x, first, bias), last)


def oracle(
    traced: tg.TracedModel, change: Change, layers: nn.Module, x: Tensor, y: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Return a typical random unit direction and its derivative, by autograd alone."""
    block = getattr(change, "block", None)
    slope = SLOPES.get(getattr(block, "activation", ""), 1.0)
    draws = []
    for _ in range(DRAWS):
        named = layers.named_parameters()
        phi = {k: torch.randn_like(p) for k, p in named if not k.startswith("norm")}
        length = torch.sqrt(sum(part.square().sum() for part in phi.values()))
        phi = {name: part / length for name, part in phi.items()}
        run = Virtual(traced, change, lambda value, phi=phi: product(block, phi, value))
        loss = F.cross_entropy(run.run(x), y)
        rate = -torch.autograd.grad(loss, run.t)[0].item()
        draws.append((phi, slope * rate * (phi["gate"].item() if block is None else 1)))
    return sorted(draws, key=lambda draw: abs(draw[1]))[DRAWS // 2]


def errors(
    network: nn.Module, layers: nn.Module, phi: Mapping[str, Tensor], rate: float, order: int,
    x: Tensor, y: Tensor,
) -> list[float]:  # fmt: skip
    """Return |measured / predicted - 1| at every step, then at 1e-3 from both sides."""

    def loss(step: float) -> float:
        set_start(layers, phi, step)
        with torch.no_grad():
            return F.cross_entropy(network(x), y).item()

    start = loss(0.0)
    found = [abs((start - loss(e)) / (rate * e**order) - 1) for e in STEPS]
    down, up = loss(1e-3), loss(-1e-3)
    both = (2 * start - down - up) / 2 if order == 2 else (up - down) / 2
    return [*found, abs(both / (rate * 1e-3**order) - 1)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--edges", type=int, help="most places of a net and block, default 8")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    most, rows = options.edges or (2 if options.quick else 8), []
    for name, model, x in nets():
        y = torch.randint(0, 5, (len(x),))
        for _ in range(5):
            model.train()(x)
        traced = tg.trace(model.eval(), (x,))
        for title, block in blocks(isinstance(model, ConvNet)):
            found: defaultdict[str, list[list[float]]] = defaultdict(list)
            for change in changes(traced, block, most):
                (score,) = tg.score(traced, [(x, y)], F.cross_entropy, [change])
                plan = tg.plan(traced, [change])
                revision = tg.apply(traced, plan, directions=[score], step=STEPS[0])
                network = revision.after.module.eval()
                layers = network.get_submodule(plan.changes[0].name)
                rest = (score.order, x, y)
                found["leading"].append(
                    errors(network, layers, score.direction, score.value, *rest)
                )
                phi, rate = oracle(traced, change, layers, x, y)
                found["random"].append(errors(network, layers, phi, rate, *rest))
            for direction, values in found.items():
                columns = [f"{statistics.median(c):.0e} / {max(c):.0e}" for c in zip(*values, strict=True)]
                rows.append((name, title, direction, len(values), *columns))
    configuration = (
        "float64, cross entropy, eval mode, blocks of 3 units. Columns: step; entries: median / "
        f"worst |measured / predicted - 1| over the places, at most {most} of a net and block. "
        "\"1e-3 both\": mean of the steps 1e-3 and -1e-3."
    )
    header = ["net", "block", "direction", "places", *(f"{e:.0e}" for e in STEPS), "1e-3 both"]
    title = "Predicted against measured change of the loss"
    report(__file__, title, configuration, table(header, rows), not options.no_write)


if __name__ == "__main__":
    main()
