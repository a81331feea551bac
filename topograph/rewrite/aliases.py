"""In-place operations: when reading another tensor instead would change the output."""

from topograph.rewrite.draft import Draft
from topograph.spec import Refusal
from topograph.tracing.axes import CHANNELS_FIRST, CONVOLUTIONS
from topograph.tracing.describe import uses

# Operations whose backward pass does not read the value they made, so that it may be overwritten.
FORGOTTEN = CHANNELS_FIRST | CONVOLUTIONS.keys() | {"linear", "layernorm", "add", "sub", "cat"}


def reroute_hazard(draft: Draft, name: str, only: str | None = None) -> Refusal | None:
    """Return why readers of a node's value cannot be given a copy of it, if they cannot.

    An in-place operation behind the node writes to what it is given. If that were a new tensor,
    others that share the old one's memory would miss the write. It is safe when nothing writes
    behind the node, or when the node's value is its own memory and all readers move together.

    Args:
        draft: The working copy.
        name: A node of the base.
        only: The one reader that moves; None where all do.
    """
    writer = _writer_behind(draft, name)
    if writer is None:
        return None
    users = draft.base.topology.users[name]
    shared = _others_in_memory(draft, name)
    slots = draft.base.topology.by_name[only].inputs.count(name) if only is not None else 0
    if not shared and (only is None or (users, slots) == ((only,), 1)):
        return None
    others = ", ".join(shared or [user for user in users if user != only] or users)
    return Refusal(
        node=name,
        reason=f"{writer} writes in place to memory that {others} also reads",
        fix=f"make {writer} out of place, or choose a node behind it",
    )


def overwritten_before(draft: Draft, source: str, target: str) -> Refusal | None:
    """Return why a node's value is no longer there when a later node is reached, if so.

    A write behind the later node is no better: the backward pass reads the value once more.
    """
    writer = _writer_behind(draft, source)
    if writer is None:
        return None
    late = draft.position(writer) > draft.position(target)
    when = "the backward pass" if late else target
    return Refusal(
        node=source,
        reason=f"{writer} overwrites its value in place before {when} is reached",
        fix=f"make {writer} out of place, or start the branch at {writer}",
    )


def bypass_hazard(draft: Draft, name: str, source: str) -> Refusal | None:
    """Return why readers of a node cannot read its input instead, if they cannot."""
    values = draft.base.values
    assert values is not None
    shared = values.by_node[name].storages & values.by_node[source].storages
    if {number for number, _ in shared} == {0, 1}:  # dropout gives its input back in eval only
        return None
    writer = _writer_behind(draft, name)
    if writer is None:
        return None
    if draft.base.topology.by_name[source].op not in FORGOTTEN:
        others = "whose maker may need it in the backward pass"
    elif list(draft.value(source).users) != [draft.nodes[name]]:
        others = "which others read"
    else:
        return None
    return Refusal(
        node=name,
        reason=f"without it {writer} would write in place to {source}, {others}",
        fix=f"make {writer} out of place first",
    )


def moves_written_memory(draft: Draft) -> bool:
    """Return whether a node reads another value than in the base, whose memory is written to.

    Then the base's record of who shares memory with whom no longer holds.
    """
    values, known = draft.base.values, draft.base.topology.by_name
    assert values is not None
    moved = {
        old
        for node in draft.graph.nodes
        if node.name in known
        for old, new in zip(known[node.name].inputs, uses(node), strict=True)
        if old != new.name
    }
    memory = frozenset().union(*(values.by_node[name].storages for name in moved))
    return any(value.written & memory for value in values.by_node.values())


def _writer_behind(draft: Draft, name: str) -> str | None:
    """Return the first node behind this one that writes to its memory."""
    values = draft.base.values
    assert values is not None
    carrier = draft.value(name)
    bypassed = [other for other, node in draft.values.items() if node is carrier]
    memory = frozenset().union(*(values.by_node[n].storages for n in (name, *bypassed)))
    for node in draft.base.topology.nodes[draft.position(name) + 1 :]:
        if values.by_node[node.name].written & memory:
            return node.name
    return None


def _others_in_memory(draft: Draft, name: str) -> list[str]:
    """Return earlier nodes whose values lie in the same memory: views of each other."""
    values = draft.base.values
    assert values is not None
    memory = values.by_node[name].storages
    earlier = draft.base.topology.nodes[: draft.position(name)]
    return [node.name for node in earlier if values.by_node[node.name].storages & memory]
