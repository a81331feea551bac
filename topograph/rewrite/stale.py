"""When a layer may be exchanged: what its readers and its writers rely on."""

from topograph.rewrite.draft import Draft
from topograph.spec import Refusal


def read_after_write(draft: Draft, name: str) -> Refusal | None:
    """Return who reads, under an earlier name, what a node has written in place, if anyone does.

    Another layer in its place would not write there, and that reader would see the old numbers.
    """
    values, nodes = draft.base.values, draft.base.topology.nodes
    assert values is not None  # `plan` has refused traces without example inputs
    here = draft.position(name)
    memory = values.by_node[name].written
    for node in nodes[here + 1 :] if memory else ():
        for source in node.inputs:
            if draft.position(source) < here and values.by_node[source].storages & memory:
                return Refusal(
                    node=name,
                    reason=f"it writes in place to {source}, which {node.name} reads afterwards",
                    fix=f"make {name} out of place first",
                )
    return None


def overwritten_after(
    draft: Draft, name: str, source: str, *, keeps_input: bool, keeps_result: bool
) -> Refusal | None:
    """Return who overwrites what the new layer's backward pass needs, if anyone does.

    Args:
        draft: The working copy.
        name: The node that computes something else.
        source: The node whose value it reads.
        keeps_input: Whether the new backward pass reads the source's value.
        keeps_result: Whether it reads the new value.
    """
    values, nodes = draft.base.values, draft.base.topology.nodes
    assert values is not None
    own = values.by_node[name]
    needed = [(name, own.storages)] if keeps_result else []
    if keeps_input and not own.written:  # a new tensor takes the place of the written one
        needed.append((source, values.by_node[source].storages))
    for node in nodes[draft.position(name) + 1 :]:
        for value, memory in needed:
            if values.by_node[node.name].written & memory:
                return Refusal(
                    node=name,
                    reason=f"{node.name} overwrites {value} in place, which the backward pass of "
                    "the new layer needs",
                    fix=f"make {node.name} out of place first",
                )
    return None


def moved_with(draft: Draft, name: str) -> set[str]:
    """Return the nodes behind a node that view its memory, where something writes to it.

    When its value is a new tensor, who shares memory with whom must be found anew for them.
    """
    values, nodes = draft.base.values, draft.base.topology.nodes
    assert values is not None
    behind = nodes[draft.position(name) + 1 :]
    memory = values.by_node[name].storages
    if not any(values.by_node[node.name].written & memory for node in behind):
        return set()
    return {
        node.name
        for node in behind
        if node.kind not in ("input", "parameter")
        and (values.by_node[node.name].storages | values.by_node[node.name].written) & memory
    }
