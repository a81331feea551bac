"""`migrate`: the optimizer, its scheduler and averages follow a model over a change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from topograph.errors import MigrationError
from topograph.rewrite import Revision
from topograph.topology import Topology

CARRIED_WHOLE = (torch.optim.LBFGS,)  # one state for all parameters together
MATRICES_ONLY = (torch.optim.Muon,)


@dataclass(frozen=True)
class Migration:
    """What happened to each parameter in the optimizer, by its path.

    Args:
        kept: Stayed, with their moments and their group.
        added: New, in an existing group, without moments.
        dropped: Gone, with their moments.

    Raises:
        TypeError: A field is unknown; `migrate` makes these.

    Example:
        >>> import topograph as tg
        >>> print(tg.Migration(kept=("weight",), added=("bottleneck_1.reduce.weight",)))
        1 kept, 1 added, 0 dropped

    References:
        https://docs.pytorch.org/docs/stable/optim.html
    """

    kept: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.kept)} kept, {len(self.added)} added, {len(self.dropped)} dropped"


def migrate(
    revision: Revision,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    ema: AveragedModel | None = None,
    scaler: Any = None,
) -> Migration:
    """Carry an optimizer, its scheduler and a weight average over a revision, in place.

    Parameters are matched by their path. What stays keeps its moments, step and group, bit for
    bit; a new parameter joins the group that holds most of its kind (matrices with matrices,
    biases and scales with theirs), so that every scheduler goes on as before; what is gone takes
    its moments along. Either all of it happens, or nothing.

    Args:
        revision: From `apply`.
        optimizer: Any but LBFGS; Muon for new matrices only; after ``step`` and ``zero_grad``.
        scheduler: Any of ``torch.optim.lr_scheduler`` on this optimizer.
        ema: An average of the model; it gets the new structure and keeps the averages.
        scaler: The ``GradScaler``, after ``update``.

    Returns:
        Which parameters were kept, added and dropped.

    Raises:
        MigrationError: They do not belong together, or cannot be carried; says what to do.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> optimizer = torch.optim.AdamW(traced.module.parameters())
        >>> change = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))
        >>> print(tg.migrate(tg.apply(traced, tg.plan(traced, [change])), optimizer=optimizer))
        2 kept, 6 added, 0 dropped

    References:
        https://docs.pytorch.org/docs/stable/optim.html
    """
    before = dict(revision.before.module.named_parameters())
    after = dict(revision.after.module.named_parameters())
    added = tuple(path for path in after if path not in before and after[path].requires_grad)
    if scheduler is not None and optimizer is not None and scheduler.optimizer is not optimizer:
        raise MigrationError("the scheduler drives another optimizer; pass that one instead")
    if scaler is not None:
        _check_scaler(scaler, optimizer)
    average = _grown_average(ema, revision) if ema is not None else None
    kept: tuple[str, ...] = tuple(path for path in before if path in after)
    dropped = tuple(path for path in before if path not in after)
    if optimizer is not None:
        grown = _grown(revision.before.topology)
        kept, dropped = _move(optimizer, before, after, added, grown)
    if ema is not None and average is not None:
        ema.module = average
    return Migration(kept, added, dropped)


def _move(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    added: tuple[str, ...],
    grown: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    name = type(optimizer).__name__
    if isinstance(optimizer, CARRIED_WHOLE):
        raise MigrationError(
            f"{name} keeps one state for all parameters together, which has no meaning for others; "
            "make a new one after the change"
        )
    paths = {id(parameter): path for path, parameter in before.items()}
    held = [paths[id(p)] for g in optimizer.param_groups for p in g["params"] if id(p) in paths]
    if not held:
        raise MigrationError(
            f"the {name} holds none of the model's parameters; it was made for another model, or "
            "before an earlier change that it was not carried over"
        )
    _check_new(optimizer, added, after)
    lacking = [p for p in grown if p not in held and before[p].requires_grad]
    if lacking:
        raise MigrationError(
            f"the {name} was not carried over an earlier change: it lacks {lacking[:4]}; call "
            "migrate after every apply, or make a new one from the model's parameters"
        )
    for path in held:
        if path in after and after[path] is not before[path]:
            _check_state(name, path, before[path], optimizer.state.get(before[path], {}))
    groups = []
    for group in optimizer.param_groups:
        stay = [p for p in group["params"] if paths.get(id(p)) is None or paths[id(p)] in after]
        groups.append([after[paths[id(p)]] if id(p) in paths else p for p in stay])
    for path in added:
        groups[_group_for(after[path], groups)].append(after[path])
    for path in held:  # from here on nothing fails
        state = optimizer.state.pop(before[path], None)
        if path in after and state is not None:
            optimizer.state[after[path]] = state
    for group, parameters in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = parameters
    return tuple(p for p in held if p in after), tuple(p for p in held if p not in after)


def _group_for(parameter: nn.Parameter, groups: list[list[nn.Parameter]]) -> int:
    """Return the group with most parameters of this one's kind, the largest where there is none."""
    matrix = parameter.ndim > 1
    alike = [sum((other.ndim > 1) == matrix for other in group) for group in groups]
    sizes = [len(group) for group in groups]
    return max(range(len(groups)), key=lambda index: (alike[index], sizes[index]))


def _check_state(name: str, path: str, old: Tensor, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        fits = not isinstance(value, Tensor) or value.numel() == 1 or value.shape == old.shape
        if not fits or isinstance(value, list | tuple | dict):
            kind = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise MigrationError(
                f"{name} keeps {key!r} of {kind} for {path} {list(old.shape)}; only tensors of the "
                "parameter's shape and scalars can be carried to another parameter"
            )


def _check_new(
    optimizer: torch.optim.Optimizer, added: tuple[str, ...], after: Mapping[str, nn.Parameter]
) -> None:
    others = [path for path in added if after[path].ndim != 2]
    if others and isinstance(optimizer, MATRICES_ONLY):
        raise MigrationError(
            f"{type(optimizer).__name__} trains matrices only, and {others[:4]} are none; insert "
            "Linear(bias=False), or train the grown model with another optimizer"
        )


def _grown(topology: Topology) -> tuple[str, ...]:
    """Return the paths of the parameters that earlier changes have added."""
    if not topology.applied:
        return ()
    paths = (p.path for p in topology.parameters if not p.buffer)
    return tuple(p for p in paths if f"{p.partition('.')[0]}_sum" in topology.by_name)


def _check_scaler(scaler: Any, optimizer: torch.optim.Optimizer | None) -> None:
    state = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer))
    if state is not None and getattr(state["stage"], "name", "READY") != "READY":
        raise MigrationError(
            "the GradScaler is between unscale_ and update; call scaler.update() before growing"
        )


def _grown_average(ema: AveragedModel, revision: Revision) -> nn.Module:
    """Return the new structure with the old averages; new layers start from the live weights."""
    if not isinstance(ema, AveragedModel):
        raise MigrationError(
            f"an average of type {type(ema).__name__} cannot be carried; "
            "use torch.optim.swa_utils.AveragedModel, or make a new one"
        )
    known, old = revision.before.module.state_dict(), ema.module.state_dict()
    if known.keys() != old.keys():
        raise MigrationError(
            "the average has other parameters than the model before the change: "
            f"{sorted(known.keys() ^ old.keys())[:4]}; it averages another model"
        )
    module = revision.after.module.__deepcopy__({})
    with torch.no_grad():
        for path, tensor in module.state_dict().items():
            if path in old and old[path].shape == tensor.shape:
                tensor.copy_(old[path])
    module.train(ema.module.training)
    return module
