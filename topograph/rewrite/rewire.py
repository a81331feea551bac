"""`rewire`: one use of a value reads another node's value instead."""

from torch import nn

from topograph.rewrite.aliases import overwritten_before
from topograph.rewrite.draft import Draft
from topograph.rewrite.insert_layer import replace_use
from topograph.rewrite.orphans import erase_orphans
from topograph.spec import Between, Refusal, Rewire, places
from topograph.topology import Topology
from topograph.tracing.describe import uses
from topograph.tracing.seen import Seen


def preserves(mutation: Rewire) -> bool:
    """Return False: another value is read."""
    return False


def resolve(mutation: Rewire, topology: Topology) -> tuple[Rewire, ...]:
    """Return the mutation once for each use that its edge means; the source must exist."""
    if mutation.source != mutation.edge.source:
        places(Between(source=mutation.edge.source, target=mutation.edge.target), topology)
    return tuple(
        mutation.model_copy(update={"edge": place}) for place in places(mutation.edge, topology)
    )


def check(draft: Draft, mutation: Rewire) -> Refusal | None:
    """Return why the use cannot read the other value, if it cannot."""
    topology, edge = draft.base.topology, mutation.edge
    old, new = topology.by_name[edge.source], topology.by_name.get(mutation.source)
    if new is None or new.kind == "output":
        return Refusal(
            node=edge.target,
            reason=f"it cannot read {mutation.source!r}: no value is called so",
            fix="name a node that `inspect` lists",
        )
    for node in (old, new, topology.by_name[edge.target]):
        if node.name not in draft.nodes:
            return Refusal(node=node.name, reason="the same plan removes it", fix="plan them apart")
    for node in (old, new):
        if node.kind == "parameter" or not isinstance(_seen(draft, node.name)[0], Seen):
            return Refusal(
                node=node.name, reason="it is no tensor that flows", fix="choose a layer's value"
            )
    if new.name == old.name:
        return Refusal(node=edge.target, reason=f"it reads {old.name} already", fix="leave it out")
    if draft.position(new.name) >= draft.position(edge.target):
        return Refusal(
            node=edge.target,
            reason=f"{new.name} is not above it, so the graph would have a cycle",
            fix="choose a source above it",
        )
    if uses(draft.nodes[edge.target])[edge.slot or 0] is not draft.value(old.name):
        return Refusal(
            node=edge.target,
            reason=f"the same plan changes what it reads in slot {edge.slot}",
            fix="plan them apart",
        )
    return (
        _looks(draft, old.name, new.name)
        or _written_through(draft, edge)
        or overwritten_before(draft, new.name, edge.target)
    )


def stem(mutation: Rewire) -> None:
    """Return None: nothing new is made."""
    return


def ends(mutation: Rewire) -> tuple[str, ...]:
    """Return the nodes between which an edge goes and another comes."""
    return (mutation.edge.source, mutation.source, mutation.edge.target)


def rewrite(draft: Draft, mutation: Rewire, name: str | None, seed: int) -> nn.Module | None:
    """Let the use read the other value; erase what only the old value was made for."""
    reader, slot = draft.nodes[mutation.edge.target], mutation.edge.slot or 0
    old = uses(reader)[slot]
    replace_use(reader, slot, draft.value(mutation.source))
    erase_orphans(draft, old)
    return None


def _seen(draft: Draft, name: str) -> tuple[Seen, Seen]:
    assert draft.base.values is not None  # `plan` has refused traces without example inputs
    return draft.base.values.by_node[name].passes


def _looks(draft: Draft, old: str, new: str) -> Refusal | None:
    """Return how two values differ in what is not numbers, if they do, at either batch size."""
    for had, gets in zip(_seen(draft, old), _seen(draft, new), strict=True):
        if (had.shape, had.dtype, had.device) != (gets.shape, gets.dtype, gets.device):
            return Refusal(
                node=new,
                reason=f"it is {list(gets.shape)} {gets.dtype} on {gets.device}, "
                f"{old} is {list(had.shape)} {had.dtype} on {had.device}",
                fix="choose a source of the same shape and type",
            )
        if _layout(had) != _layout(gets):
            return Refusal(
                node=new,
                reason=f"its strides {gets.stride} are not those of {old}, {had.stride}; "
                "a view behind it could fail",
                fix="choose a source with the same memory layout",
            )
    return None


def _layout(seen: Seen) -> tuple[int, ...]:
    return tuple(step for size, step in zip(seen.shape, seen.stride, strict=False) if size != 1)


def _written_through(draft: Draft, edge: Between) -> Refusal | None:
    """Return which write would go to the new source's memory instead of the old one's, if any."""
    values, topology = draft.base.values, draft.base.topology
    assert values is not None
    memory = values.by_node[edge.source].storages
    shared = values.by_node[edge.target].storages & memory
    for node in topology.nodes[draft.position(edge.target) :]:
        written = values.by_node[node.name].written
        if written & (shared or (memory if node.name == edge.target else frozenset())):
            return Refusal(
                node=edge.target,
                reason=f"{node.name} writes in place to what it reads there",
                fix=f"make {node.name} out of place, or rewire a use behind it",
            )
    return None
