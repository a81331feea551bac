"""In-place operations: when reading another tensor instead would change the output."""

from topograph.rewrite.draft import Draft
from topograph.spec import Refusal


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
    if not shared and (only is None or users == (only,)):
        return None
    others = ", ".join(shared or [user for user in users if user != only])
    return Refusal(
        node=name,
        reason=f"{writer} writes in place to memory that {others} also reads",
        fix=f"make {writer} out of place, or choose a node behind it",
    )


def overwritten_before(draft: Draft, source: str, target: str) -> Refusal | None:
    """Return why a node's value is no longer there when a later node is reached, if so."""
    writer = _writer_behind(draft, source)
    if writer is None or draft.position(writer) > draft.position(target):
        return None
    return Refusal(
        node=source,
        reason=f"{writer} overwrites its value in place before {target} is reached",
        fix=f"make {writer} out of place, or start the branch at {writer}",
    )


def bypass_hazard(draft: Draft, name: str, source: str) -> Refusal | None:
    """Return why readers of a node cannot read its input instead, if they cannot."""
    values = draft.base.values
    assert values is not None
    if values.by_node[name].storages & values.by_node[source].storages:
        return None
    writer = _writer_behind(draft, name)
    if writer is None or draft.base.topology.users[source] == (name,):
        return None
    return Refusal(
        node=name,
        reason=f"without it {writer} would write in place to {source}, which others read",
        fix=f"make {writer} out of place first",
    )


def _writer_behind(draft: Draft, name: str) -> str | None:
    """Return the first node behind this one that writes to its memory."""
    values = draft.base.values
    assert values is not None
    memory = values.by_node[name].storages
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
