"""`compare`: which tensors of two checkpoints differ, also up to the order of hidden units."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from topograph.errors import CorruptError, SpecError, StoreError
from topograph.sensitivity.align import align_units, groups_of
from topograph.store.reading import read_tensors
from topograph.store.tensors import describe, find_aliases
from topograph.topology.canonical import parse_json
from topograph.topology.tensors import CheckpointDiff, Kind, TensorChange, UnitMatch
from topograph.tracing import TracedModel

Checkpoint = TracedModel | nn.Module | Mapping[str, Tensor] | str | Path

REVISION = re.compile(r"(.+)@(\d{1,9})")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
HEADER = 8  # bytes of a safetensors file that hold the length of its header


def compare(
    before: Checkpoint,
    after: Checkpoint,
    *,
    align: bool = False,
    like: TracedModel | None = None,
) -> CheckpointDiff:
    r"""Return which tensors of two checkpoints differ, and by how much.

    With ``align`` the hidden units of `after` are first put in the order nearest to those of
    `before`, by optimal transport: a permutation of hidden units is no difference. Tied tensors
    count once, under the first of their keys. Two entries that are both not a number are equal.

    Args:
        before: A traced model, a module, a state dict, a safetensors file, or a run directory: its
            last entry, or entry 2 as ``runs/a@2``. Never a pickle.
        after: The other.
        align: Match units first. Of the difference there remains what no order explains.
        like: The model that says which units may change places; by default `before` or `after`
            if it is a traced model.

    Returns:
        The difference, largest relative change first; falsy if there is none.

    Raises:
        SpecError: An argument is none of these, or `align` has no traced model to go by.
        StoreError: A file or a run cannot be read.
        CorruptError: A file is not safetensors.
        SelectorError: The traced model was made without example inputs.

    Example:
        >>> import topograph as tg
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> traced, order = tg.trace(net, (torch.zeros(2, 4),)), torch.arange(7, -1, -1)
        >>> state = net.state_dict()
        >>> other = {k: v[order] for k, v in state.items() if k.startswith("0")}
        >>> other |= {"2.weight": state["2.weight"][:, order], "2.bias": state["2.bias"]}
        >>> len(compare(traced, other).tensors)
        3
        >>> print(compare(traced, other, align=True))
        no changes in 4 tensors
        0: 8 of 8 units matched elsewhere

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, arXiv:2209.04836; Singh, Jaggi: Model Fusion
        via Optimal Transport, arXiv:1910.05653.
    """
    old, new = state_of(before), state_of(after)
    tied = find_aliases(old).keys() & find_aliases(new).keys()
    old, new = ({k: v for k, v in state.items() if k not in tied} for state in (old, new))
    units: tuple[UnitMatch, ...] = ()
    if align:
        guide = like or next((v for v in (before, after) if isinstance(v, TracedModel)), None)
        if guide is None:
            raise SpecError(
                "align: tensors do not say which units may change places; pass a traced model as "
                "one of the two, or as like=tg.trace(model, example_inputs=(…))"
            )
        found = align_units(old, new, groups_of(guide))
        new = found.state
        moved = {name: _moved(order) for name, order in found.orders.items()}
        units = tuple(
            UnitMatch(space=name, size=len(found.orders[name]), moved=count)
            for name, count in moved.items()
            if count
        )
    changes = [change(key, old.get(key), new.get(key)) for key in dict.fromkeys((*old, *new))]
    differing = [found for found in changes if found is not None]
    return CheckpointDiff(
        tensors=tuple(sorted(differing, key=_rank)), same=len(changes) - len(differing), units=units
    )


def state_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by their keys, on the CPU where they are read from a file."""
    if isinstance(checkpoint, TracedModel):
        return checkpoint.module.state_dict()
    if isinstance(checkpoint, nn.Module):
        return checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        wrong = [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]
        if wrong:
            raise SpecError(
                f"state dict: {wrong[0]!r} is a {type(checkpoint[wrong[0]]).__name__}, not a "
                "tensor; pass the state dict of the model alone"
            )
        return dict(checkpoint)
    if not isinstance(checkpoint, str | Path):
        raise SpecError(
            f"compare takes traced models, modules, state dicts and paths, got a "
            f"{type(checkpoint).__name__}; pass model.state_dict()"
        )
    run, number = revision_of(checkpoint)
    if run.is_dir():
        return read_tensors(run, number)
    return _read_file(Path(checkpoint))


def revision_of(path: str | Path) -> tuple[Path, int | None]:
    """Return the run directory and the entry's number that ``runs/a@2`` names."""
    found = REVISION.fullmatch(str(path))
    if found and not Path(path).exists():
        return Path(found[1]), int(found[2])
    return Path(path), None


def change(path: str, before: Tensor | None, after: Tensor | None) -> TensorChange | None:
    """Return what differs between two tensors of one key, None for nothing.

    Args:
        path: The key.
        before: The tensor before, None where there was none.
        after: The tensor after.

    Returns:
        The change, measured in float64 (complex numbers by their parts).

    Raises:
        Nothing.

    Example:
        >>> print(change("w", torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])))
        ~ w  [2] float32  relative 0.2, largest 1, cosine 0.9947, 1 of 2 entries

    References:
        Golub, Van Loan: Matrix Computations (the Frobenius norm).
    """
    old, new = ("none" if tensor is None else describe(tensor) for tensor in (before, after))
    if before is None or after is None:
        kind: Kind = "added" if before is None else "removed"
        return TensorChange(path=path, before=old, after=new, change=kind)
    if before.shape != after.shape:
        return TensorChange(path=path, before=old, after=new, change="resized")
    a, b = _numbers(before), _numbers(after)
    differing = int(((a != b) & ~(a.isnan() & b.isnan())).sum())
    if not differing and before.dtype == after.dtype:
        return None
    gap, norms = b - a, (float(a.norm()), float(b.norm()))
    return TensorChange(
        path=path,
        before=old,
        after=new,
        change="changed",
        relative=_finite(float(gap.norm()) / norms[0] if norms[0] else math.inf),
        largest=_finite(float(gap.abs().max()) if gap.numel() else 0.0),
        cosine=_cosine(a, b, norms),
        entries=differing,
        of=a.numel(),
    )


def _numbers(tensor: Tensor) -> Tensor:
    values = tensor.detach().cpu().flatten()
    return (torch.view_as_real(values) if values.is_complex() else values).to(torch.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cosine(a: Tensor, b: Tensor, norms: tuple[float, float]) -> float | None:
    if not all(norms):
        return None
    unit = (a / norms[0]).flatten() @ (b / norms[1]).flatten()
    return _finite(float(unit.clamp(-1, 1)))


def _moved(order: Tensor) -> int:
    return int((order != torch.arange(len(order))).sum())


def _rank(found: TensorChange) -> tuple[float, str]:
    return (-math.inf if found.relative is None else -found.relative), found.path


def _read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; a key may stand in it once."""
    if path.suffix in PICKLES:
        raise StoreError(
            f"{path}: is a pickle, which can run code when it is read; load it where you trust it "
            "and write it with safetensors.torch.save_file"
        )
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file or run; check the path") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        stored: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptError(
            f"{path}: not a safetensors file ({error}); write it with safetensors.torch.save_file"
        ) from None
    length = int.from_bytes(content[:HEADER], "little")
    parse_json(content[HEADER : HEADER + length].decode("utf-8"), str(path))
    return stored
