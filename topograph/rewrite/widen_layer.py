"""`widen_layer`: more units in a channel space, started so that the function stays."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from topograph.errors import ShapeError, TopographError
from topograph.rewrite.answers import answers, max_difference, within_rounding
from topograph.rewrite.draft import Draft, Resize
from topograph.rewrite.halves import halved, split_units, unsplittable
from topograph.rewrite.norms import STARTS, norms_over
from topograph.rewrite.request import Edits, names_of, numbered, wanted, width
from topograph.rewrite.resize import Moves, resize
from topograph.spec import At, Refusal, at_each_place
from topograph.spec.widths import WidenLayer
from topograph.topology import Topology
from topograph.tracing.module import build
from topograph.widths.flow import Meeting
from topograph.widths.indices import NEW, Index, Indices

COPIES = ("duplicate", "split")
Named = tuple[int, ...] | None  # units that a mutation names


def preserves(mutation: WidenLayer) -> bool:
    """Return whether new units start without a say."""
    return mutation.how != "random"


def resolve(mutation: WidenLayer, topology: Topology) -> tuple[WidenLayer, ...]:
    """Return the mutation once for each single node that its selector means, with its width."""
    return tuple(numbered(single, topology) for single in at_each_place(mutation, topology))


def check(draft: Draft, mutation: WidenLayer) -> Refusal | None:
    """Return why the layer cannot be widened, if it cannot."""
    edits = wanted(draft, mutation)
    if isinstance(edits, Refusal):
        return edits
    return _start(draft, mutation, edits)[1]


def _refusal(draft: Draft, mutation: WidenLayer, edits: Edits, how: str) -> Refusal | None:
    """Return why new units that start in a certain way would change the function."""
    assert isinstance(mutation.where, At)
    node, names = mutation.where.node, names_of(draft, edits)
    if how in STARTS:
        if keeps_function(draft, edits, how):
            return None
        changes = f"units of {names} that start {how} change the function"
        return Refusal(node=node, reason=changes, fix='give how="auto"')
    if how == "split" and (refusal := unsplittable(mutation, edits)) is not None:
        return refusal
    indices = Indices(
        {key: _index(dim.size, size, how, 0, mutation.units) for key, (dim, size) in edits.items()}
    )
    for mixer in draft.widths.flow.meetings:
        index = indices.of(mixer.dim)
        reason = _changes(mixer, index, how) if index is not None else None
        if reason is not None:
            return Refusal(
                node=node,
                reason=f"{mixer.node.name} mixes all units of {names}, {reason}",
                fix='widen it by a whole factor, or give how="random" to change the function',
            )
    both = [path for dim, _ in edits.values() for path in draft.widths.both(dim)]
    if both and how in COPIES:
        return Refusal(
            node=node,
            reason=f"{both[0]} both makes and reads units of {names}, so that copies cannot share "
            "its weights",
            fix="untie it first" if mutation.how == "auto" else 'give how="zero"',
        )
    return None


def keeps_function(draft: Draft, edits: Edits, how: str) -> bool:
    """Return whether the output stays when new units start in a certain way; tries it."""
    base = draft.base
    fake = any(isinstance(value, FakeTensor) for value in base.inputs.values())
    if fake or len(edits) != 1 or any(norms_over(draft.widths, key) is None for key in edits):
        return False
    trial = Draft(base)
    trial.widths = draft.widths
    _note(trial, edits, how, 0)
    try:
        resize(trial)
        network = build(trial.graph, trial.tree, base.topology.name, base.module.calling)
        second = answers(network, base.inputs)
    except (TopographError, RuntimeError, TypeError, ValueError, IndexError):
        return False
    first = answers(base.module, base.inputs)
    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return False
    return within_rounding(base.module, base.inputs, first, max_difference(first, second))


def pin(draft: Draft, mutation: WidenLayer) -> WidenLayer:
    """Return the mutation with the sizes that it really gives, and how."""
    edits = wanted(draft, mutation)
    assert not isinstance(edits, Refusal)
    sizes = {draft.widths.names[key]: size for key, (_, size) in edits.items()}
    update = {
        "to": width(draft, mutation, edits),
        "how": _start(draft, mutation, edits)[0],
        "sizes": sizes,
    }
    if mutation.how == "split":
        ((dim, size),) = edits.values()
        update["units"] = split_units(mutation.units, dim.size, size)
    return mutation.model_copy(update=update)


def stem(mutation: WidenLayer) -> None:
    """Return None: nothing new is made."""
    return


def ends(mutation: WidenLayer) -> tuple[str, ...]:
    """Return the layer."""
    assert isinstance(mutation.where, At)
    return (mutation.where.node,)


def rewrite(draft: Draft, mutation: WidenLayer, name: None, seed: int) -> None:
    """Note the new sizes; all of a plan's are carried out together."""
    edits = wanted(draft, mutation)
    assert not isinstance(edits, Refusal)
    how = _start(draft, mutation, edits)[0] if mutation.how == "auto" else mutation.how
    _note(draft, edits, how, seed, mutation.units)


def set_new_units(
    network: nn.Module, moved: Moves, direction: Mapping[str, Tensor], step: float
) -> None:
    """Set the first new units of resized parameters to `step` times a unit direction.

    Args:
        network: The model after the resize.
        moved: For each resized tensor, by path, for each axis where its entries were.
        direction: For each parameter's path, a tensor for the leading corner of its new units.
        step: Euclidean length of the start along the direction.

    Raises:
        ShapeError: A direction does not fit the new units.
    """
    for path, part in direction.items() if step else ():
        axis, new = _new_units(path, part, moved.get(path, ()))
        parameter = network.get_parameter(path)
        shape = [*parameter.shape[:axis], len(new), *parameter.shape[axis + 1 :]]
        if not _fits(part, shape, axis, moved[path]):
            raise ShapeError(
                f"{path}: a direction of shape {list(part.shape)} does not fit new units of shape "
                f"{shape}; score this layer again"
            )
        with torch.no_grad():
            units = parameter.index_select(axis, new.to(parameter.device))
            units[tuple(map(slice, part.shape))] = (step * part).to(parameter)
            parameter.index_copy_(axis, new.to(parameter.device), units)


def _fits(part: Tensor, shape: list[int], axis: int, places: tuple[Index | None, ...]) -> bool:
    """Return whether a direction is of new units, or fewer, and whole on the other axes.

    An axis that has grown, too, is whole where it is as long as it was.
    """
    if part.ndim != len(shape):
        return False
    sizes = zip(part.shape, shape, places, strict=True)
    return all(
        size <= full
        and (at == axis or size == full or (place and size == int(place.old.max()) + 1))
        for at, (size, full, place) in enumerate(sizes)
    )


def _new_units(path: str, part: Tensor, places: tuple[Index | None, ...]) -> tuple[int, Tensor]:
    """Return the axis of new units that a direction is for, and where they are."""
    grown = {
        axis: (place.old == NEW).nonzero().flatten()
        for axis, place in enumerate(places)
        if place is not None and (place.old == NEW).any()
    }
    if len(grown) > 1 and part.ndim == len(places):  # of several, where the part is no whole
        whole = [axis for axis in grown if part.shape[axis] == _size_before(places[axis])]
        grown = {axis: new for axis, new in grown.items() if axis not in whole}
    if len(grown) != 1:
        raise ShapeError(
            f"{path}: a direction of shape {list(part.shape)} may be for new units of {len(grown)} "
            "of its axes, not of one; score this layer again, and widen one at a time"
        )
    return next(iter(grown.items()))


def _size_before(place: Index | None) -> int:
    assert place is not None  # the axis has grown
    return int((place.old != NEW).sum())


def _note(draft: Draft, edits: Edits, how: str, seed: int, units: Named = None) -> None:
    for key, (dim, size) in edits.items():
        draft.resizes[key] = Resize(_index(dim.size, size, how, seed, units), how, seed)


def _start(draft: Draft, mutation: WidenLayer, edits: Edits) -> tuple[str, Refusal | None]:
    """Return how new units start, and why that would change the function, if it would.

    The first way that keeps it; copies where all that reads the units is frozen, since behind
    weights of 0 they never learn.
    """
    if mutation.how == "random":
        return mutation.how, None
    if mutation.how != "auto":
        return mutation.how, _refusal(draft, mutation, edits, mutation.how)
    mixed = any(draft.widths.mixed.get(key) for key in edits)
    usual = "duplicate" if mixed or _readers_are_frozen(draft, edits) else "zero"
    refusal = _refusal(draft, mutation, edits, usual)
    if refusal is not None:
        for how in STARTS:
            if keeps_function(draft, edits, how):
                return how, None
    return usual, refusal


def _readers_are_frozen(draft: Draft, edits: Edits) -> bool:
    widths, trains = draft.widths, {True: set[bool](), False: set[bool]()}
    for path, axis in (place for key in edits for place in widths.axes[key]):
        tensor = widths.tensors[path]
        trains["reads" in widths.flow.roles_of(tensor, axis)].add(tensor.requires_grad)
    return trains[True] == {False} and True in trains[False]


def _index(old: int, new: int, how: str, seed: int, units: Named) -> Index:
    if how == "split":
        return halved(old, split_units(units, old, new))
    if how != "duplicate":
        ones = torch.ones(new, dtype=torch.float64)
        return Index(torch.cat([torch.arange(old), torch.full((new - old,), NEW)]), ones)
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.arange(old)] * (new // old)
    rest = torch.randperm(old, generator=generator)[: new % old]
    source = torch.cat([*whole, rest])
    return Index(source, _shares(source, old, generator))


def _shares(source: Tensor, old: int, generator: torch.Generator) -> Tensor:
    """Split each unit's weight unevenly among its copies, so that they do not stay equal."""
    drawn = 0.75 + 0.5 * torch.rand(len(source), generator=generator, dtype=torch.float64)
    copies = torch.bincount(source, minlength=old)
    total = torch.zeros(old, dtype=torch.float64).index_add_(0, source, drawn)
    return torch.where(copies[source] == 1, 1.0, drawn / total[source])


def _changes(mixer: Meeting, index: Index, how: str) -> str | None:
    """Return why what mixes the units gives another value for the new ones, if it does."""
    if mixer.kind in ("inner", "other"):
        return "so that neither new units nor copies keep the function"
    if how == "zero":
        return "so that new ones change the others"
    size = int(index.old.max()) + 1
    if len(torch.bincount(index.old, minlength=size).unique()) > 1:
        return f"so that only copies of all {size} keep the function"
    return None
