"""Narrow every layer of a network by half: topograph beside Torch-Pruning, without manual hints.

Both find what must change together, choose units by magnitude, and cut. Measured are the time to
find the dependencies (tracing included) and the time to cut, medians of turns in one process; and
whether the network runs afterwards at two batch sizes, with finite gradients, and gives an output
of the shape it had. Torch-Pruning gets the classifier as an ignored layer, as its documentation
asks; topograph keeps the model's output by itself. A call that takes longer than the limit counts
as not ended. The model is built anew for every turn; that is not measured.
"""

import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import topograph as tg
from benchmarks.reporting import arguments, report, seconds, table
from benchmarks.zoo.models import missing
from benchmarks.zoo.operators import declare_torchvision_operators

LIMIT = 280  # seconds for one call
MODELS = (
    "resnet18", "resnet50", "densenet121", "mobilenetv3_large_100", "convnext_tiny",
    "swin_tiny_patch4_window7_224", "vit_small_patch16_224", "efficientnet_b0",
)  # fmt: skip
Turn = tuple[float, float, float, str]  # find, cut, share of parameters left, verdict


class TooLongError(Exception):
    """A call took longer than the limit."""


@contextmanager
def limited() -> Iterator[None]:
    """Stop a call that takes too long."""

    def stop(*_: Any) -> None:
        raise TooLongError(f"not ended within {LIMIT} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


def ours(model: nn.Module, image: Tensor) -> Turn:
    """Narrow with topograph."""
    made: dict[str, Any] = {}

    def find() -> None:
        made["traced"] = tg.trace(model, (image,))
        made["spaces"] = tg.spaces(made["traced"])

    def cut() -> None:
        traced = made["traced"]
        layers = [node for node in traced.topology.nodes if node.op in ("linear", "conv2d")]
        asked = [
            tg.NarrowLayer(where=tg.at(node.name), to=max(1, channels(node) // 2))
            for node in layers
        ]
        plan = tg.plan(traced, asked)
        made["model"] = tg.recompile(tg.apply(traced, plan).after)

    return turn(model, image, find, cut, lambda: made["model"])


def channels(node: Any) -> int:
    """Return how many units a layer makes."""
    return int(node.shape[-1] if node.op == "linear" else node.shape[1])


def theirs(model: nn.Module, image: Tensor) -> Turn:
    """Narrow with Torch-Pruning."""
    import torch_pruning as tp

    made: dict[str, Any] = {}
    head = model.get_classifier()  # type: ignore[operator]

    def find() -> None:
        made["pruner"] = tp.pruner.MagnitudePruner(
            model,
            image,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[head],
        )

    return turn(model, image, find, lambda: made["pruner"].step(), lambda: model)


def turn(
    model: nn.Module,
    image: Tensor,
    find: Callable[[], None],
    cut: Callable[[], None],
    result: Callable[[], nn.Module],
) -> Turn:
    """Narrow once; return both times, the share of parameters left, and whether it runs."""
    before = sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        wanted = model(image).shape
    finding = cutting = float("nan")
    try:
        with limited():
            finding = seconds(find)
        with limited():
            cutting = seconds(cut)
        narrow = result()
        for rows in (1, 3):
            output = narrow(torch.randn(rows, *image.shape[1:]))
            if output.shape[1:] != wanted[1:]:
                return finding, cutting, float("nan"), f"output {list(output.shape)}"
            output.sum().backward()
    except TooLongError as error:
        return finding, cutting, float("nan"), str(error)
    except Exception as error:  # whatever either library makes of a network
        reason = str(error).strip().splitlines()[0][:60]
        return finding, cutting, float("nan"), f"{type(error).__name__}: {reason}"
    gradients = [p.grad for p in narrow.parameters() if p.grad is not None]
    left = sum(p.numel() for p in narrow.parameters()) / before
    if not all(torch.isfinite(g).all() for g in gradients):
        return finding, cutting, left, "a gradient is not finite"
    return finding, cutting, left, "runs"


def row(name: str, turns: int) -> list[object]:
    """Return one line of the table."""
    import timm

    kept: dict[str, list[Turn]] = {"ours": [], "theirs": []}
    for _ in range(turns):
        for who, narrow in (("ours", ours), ("theirs", theirs)):
            if kept[who] and kept[who][0][3] != "runs":
                continue  # it fails alike each time
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False).eval()
            kept[who].append(narrow(model, torch.randn(1, 3, 224, 224)))
    cells: list[object] = [name]
    totals = []
    for who in ("ours", "theirs"):
        find, cut, left = (statistics.median(t[i] for t in kept[who]) for i in range(3))  # type: ignore[misc,type-var]
        verdict = kept[who][0][3]
        cells += [f"{find:.2f}", f"{cut:.2f}", f"{left:.0%}" if left == left else "", verdict]
        totals.append(find + cut if verdict == "runs" else float("nan"))
    ratio = totals[0] / totals[1]
    return [*cells, f"{ratio:.2f}" if ratio == ratio else ""]


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    if (line := missing()) is not None:
        print(f"narrowing is skipped: {line}")
        return
    declare_torchvision_operators()
    try:
        import torch_pruning
    except ImportError:
        print("narrowing is skipped: pip install --no-deps torch-pruning")
        return
    names = MODELS[:1] if options.quick else MODELS
    rows = []
    for name in names:
        rows.append(row(name, 1 if options.quick else 3))
        print(*rows[-1], sep=" | ", flush=True)
    header = (
        "model", "find s", "cut s", "parameters left", "topograph",
        "find s", "cut s", "parameters left", f"Torch-Pruning {torch_pruning.__version__}",
        "time ratio",
    )  # fmt: skip
    configuration = (
        f"One image of 224 x 224, random weights, medians of {1 if options.quick else 3} turns; "
        f"a time ratio below 1: topograph is faster in total; a call may take {LIMIT} s."
    )
    report(
        __file__,
        "Narrowing every layer by half",
        configuration,
        table(header, rows),
        not (options.no_write or options.quick),
    )


if __name__ == "__main__":
    main()
