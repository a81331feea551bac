"""`migrate`: the optimizer, its scheduler and averages follow a model over a change."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from topograph.errors import MigrationError
from topograph.rewrite import Revision
from topograph.rewrite.draft import replaced
from topograph.rewrite.untie import origins
from topograph.spec import Untie
from topograph.topology import Topology
from topograph.training.average import grown_average
from topograph.training.state import check_state, resized_state

CARRIED_WHOLE = (torch.optim.LBFGS,)  # one state for all parameters together
MATRICES_ONLY = (torch.optim.Muon,)


@dataclass(frozen=True)
class Migration:
    """What happened to each parameter in the optimizer, by its path.

    Args:
        kept: Stayed, with their moments and their group; so do copies of tied parameters.
        added: New, or unfrozen and in no group so far; in an existing group, without moments.
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
    undone: bool = False,
) -> Migration:
    """Carry an optimizer, its scheduler and a weight average over a revision, in place.

    Parameters are matched by their path. What stays keeps its moments, step and group, bit for
    bit; a new parameter joins the group that holds most of its kind (matrices with matrices,
    biases and scales with theirs), so that every scheduler goes on as before; what is gone takes
    its moments along. What is frozen keeps its moments and its group, so that unfreezing goes on
    from there; the copy of a tied parameter gets a copy of the moments and joins the same group.
    Either all of it happens, or nothing.

    Args:
        revision: From `apply`.
        optimizer: Any but LBFGS; Muon for new matrices only; after ``step`` and ``zero_grad``.
        scheduler: Any of ``torch.optim.lr_scheduler`` on this optimizer.
        ema: An average of the model; it gets the new structure and keeps the averages.
        scaler: The ``GradScaler``, after ``update``.
        undone: Carry them back to the model before, after `undo`: what a narrowing removed comes
            back with moments of 0.

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
    if not isinstance(revision, Revision):
        raise MigrationError(
            f"migrate takes a Revision, got {type(revision).__name__}; pass what apply returned"
        )
    if undone:
        revision = _backwards(revision)
    before = dict(revision.before.module.named_parameters())
    after = dict(revision.after.module.named_parameters())
    sources = _sources(revision)
    added = tuple(p for p in after if p not in sources and after[p].requires_grad)
    woken = tuple(
        path
        for path, source in sources.items()
        if after[path].requires_grad and not before[source].requires_grad
    )
    if scheduler is not None and optimizer is not None and scheduler.optimizer is not optimizer:
        raise MigrationError("the scheduler drives another optimizer; pass that one instead")
    if scaler is not None:
        _check_scaler(scaler, optimizer)
    average = grown_average(ema, revision, sources) if ema is not None else None
    kept, dropped = tuple(sources), tuple(p for p in before if p not in sources.values())
    if optimizer is not None:
        held = _held(optimizer, before)
        added = (*added, *(path for path in woken if sources[path] not in held))
        _move(optimizer, revision, sources, added)
        kept = tuple(path for path, source in sources.items() if source in held)
        dropped = tuple(path for path in held if path not in sources.values())
    if ema is not None and average is not None:
        ema.module = average
    return Migration(kept, added, dropped)


def _backwards(revision: Revision) -> Revision:
    """Return the revision that leads back."""
    sizes = {path: p.shape for path, p in revision.before.module.named_parameters()}
    moved = {
        path: tuple(
            place and place.backwards(size) for place, size in zip(places, sizes[path], strict=True)
        )
        for path, places in revision.moved.items()
        if path in sizes
    }
    plan = revision.plan.model_copy(update={"changes": ()})
    return Revision(revision.after, revision.before, plan, moved)


def _sources(revision: Revision) -> dict[str, str]:
    """Return, for each parameter afterwards that is not new, its path before: its own, usually.

    A copy of a tied parameter comes from the path that the parameters shared.
    """
    module = revision.before.module
    first = {id(parameter): path for path, parameter in module.named_parameters()}
    shared = {
        path: first[id(parameter)]
        for path, parameter in module.named_parameters(remove_duplicate=False)
    }
    after = [path for path, _ in revision.after.module.named_parameters()]
    for path, parameter in revision.after.module.named_parameters():
        if id(parameter) in first:  # the same one, perhaps at another path
            shared[path] = first[id(parameter)]
    for change in revision.plan.changes:
        if isinstance(change.mutation, Untie):
            copied = origins(revision.before.topology, change, after)
            shared |= {path: shared[source] for path, source in copied.items() if source in shared}
    return {path: shared[path] for path in after if path in shared}


def _held(
    optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """Return the model's parameters that an optimizer holds, in its order."""
    paths = {id(parameter): path for path, parameter in before.items()}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    return {paths[id(p)]: p for p in everything if id(p) in paths}


def _move(
    optimizer: torch.optim.Optimizer,
    revision: Revision,
    sources: Mapping[str, str],
    added: tuple[str, ...],
) -> None:
    before = dict(revision.before.module.named_parameters())
    after = dict(revision.after.module.named_parameters())
    name = type(optimizer).__name__
    if isinstance(optimizer, CARRIED_WHOLE):
        raise MigrationError(
            f"{name} keeps one state for all parameters together, which has no meaning for others; "
            "make a new one after the change"
        )
    held = _held(optimizer, before)
    if not held:
        raise MigrationError(
            f"the {name} holds none of the model's parameters; it was made for another model, or "
            "before an earlier change that it was not carried over"
        )
    _check_new(optimizer, added, after)
    lacking = _lacking(optimizer, revision.before.topology, before, held)
    if lacking:
        raise MigrationError(
            f"the {name} was not carried over an earlier change: it lacks {lacking[:4]}; call "
            "migrate after every apply, or make a new one from the model's parameters"
        )
    heirs: dict[int, list[str]] = {id(parameter): [] for parameter in held.values()}
    states: dict[str, Any] = {}
    for path, source in sources.items():
        if source not in held:
            continue
        state = optimizer.state.get(held[source])
        if state is not None:
            follows = copy.deepcopy(state) if heirs[id(held[source])] else state
            places = revision.moved.get(path)
            if places is None and after[path].shape != held[source].shape:
                places = revision.moved.get(source)
            if places is not None:
                check_state(name, path, held[source], state)
                follows = resized_state(follows, held[source], places)
            states[path] = follows
        heirs[id(held[source])].append(path)
    groups = []
    for group in optimizer.param_groups:
        follow = [[after[h] for h in heirs.get(id(p), ())] for p in group["params"]]
        stay = zip(group["params"], follow, strict=True)
        groups.append([new for p, then in stay for new in (then if id(p) in heirs else [p])])
    for path in added:
        groups[_group_for(after[path], groups)].append(after[path])
    for parameter in held.values():  # from here on nothing fails
        optimizer.state.pop(parameter, None)
    for path, state in states.items():
        optimizer.state[after[path]] = state
    for group, parameters in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = parameters


def _group_for(parameter: nn.Parameter, groups: list[list[nn.Parameter]]) -> int:
    """Return the group with most parameters of this one's kind, the largest where there is none."""
    matrix = parameter.ndim > 1
    alike = [sum((other.ndim > 1) == matrix for other in group) for group in groups]
    sizes = [len(group) for group in groups]
    return max(range(len(groups)), key=lambda index: (alike[index], sizes[index]))


def _check_new(
    optimizer: torch.optim.Optimizer, added: tuple[str, ...], after: Mapping[str, nn.Parameter]
) -> None:
    others = [path for path in added if after[path].ndim != 2]
    if others and isinstance(optimizer, MATRICES_ONLY):
        raise MigrationError(
            f"{type(optimizer).__name__} trains matrices only, and {others[:4]} are none; insert "
            "Linear(bias=False), or train the grown model with another optimizer"
        )


def _lacking(
    optimizer: torch.optim.Optimizer,
    topology: Topology,
    before: Mapping[str, nn.Parameter],
    held: Mapping[str, nn.Parameter],
) -> list[str]:
    """Return what earlier changes have added or exchanged and the optimizer does not hold."""
    everything = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [path for path in before if path not in held and before[path].requires_grad]
    grown = bool(topology.applied)
    return [
        path
        for path in missing
        if (grown and f"{path.partition('.')[0]}_sum" in topology.by_name)
        or id(replaced(before[path])) in everything
    ]


def _check_scaler(scaler: Any, optimizer: torch.optim.Optimizer | None) -> None:
    state = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer))
    if state is not None and getattr(state["stage"], "name", "READY") != "READY":
        raise MigrationError(
            "the GradScaler is between unscale_ and update; call scaler.update() before growing"
        )
