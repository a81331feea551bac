"""Nodes that go: the one that is asked for, and those that an edit leaves without a reader."""

from torch import fx, nn

from topograph.rewrite.draft import Draft, submodule
from topograph.tracing.describe import uses

PURE = ("size", "getitem", "getattr", "parameter")


def bypass(draft: Draft, name: str, slot: int) -> None:
    """Let all that reads a node's value read one of its inputs instead, and erase the node."""
    node = draft.nodes[name]
    stays = uses(node)[slot]  # a block may have been inserted on this edge in the same plan
    value = draft.value(name)  # a block may have been inserted behind it in the same plan
    node.replace_all_uses_with(stays)
    draft.values[name] = stays if value is node else value
    for other, carrier in draft.values.items():
        if carrier is node:  # a layer behind it was removed before
            draft.values[other] = stays
    erase(draft, name)


def erase(draft: Draft, name: str) -> None:
    """Erase a node, its module, and the sizes and parameters that it alone read."""
    for source in _drop(draft, draft.nodes[name]):
        known = draft.base.topology.by_name.get(source.name)
        if (
            known is not None
            and known.op in PURE
            and not source.users
            and source.name in draft.nodes
        ):
            erase(draft, source.name)


def erase_orphans(draft: Draft, start: fx.Node) -> None:
    """Erase a node that an edit left without a reader, and then those that only it read.

    What stays: what the same plan has made, what writes to memory (``y.mul_(2)`` is not dead),
    closed modules, modules with buffers that are called once more (they would move differently),
    inputs, and what a module computes whose own forward is not replaced.
    """
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node.name in draft.nodes and _may_go(draft, node):
            for size in list(node.users):
                _drop(draft, size)
            waiting += _drop(draft, node)
    for name, carrier in list(draft.values.items()):
        if carrier.name not in draft.nodes:
            del draft.values[name]


def is_called(draft: Draft, path: str) -> bool:
    """Return whether a node still needs a module: itself, what is in it, or what it is in."""
    targets = [
        str(node.target) for node in draft.graph.nodes if node.op in ("call_module", "get_attr")
    ]
    return any(
        f"{target}.".startswith(f"{path}.") or path.startswith(f"{target}.") for target in targets
    )


def _may_go(draft: Draft, node: fx.Node) -> bool:
    values = draft.base.values
    assert values is not None  # the checks have refused traces without example inputs
    record = draft.base.topology.by_name.get(node.name)
    if record is None or record.kind in ("input", "output") or record.opaque is not None:
        return False
    if values.by_node[node.name].written or not _inside(draft, node):
        return False
    if node.op == "call_module":
        calls = [n for n in draft.graph.nodes if n.op == node.op and n.target == node.target]
        buffers = draft.base.module.get_submodule(str(node.target)).buffers()
        if len(calls) > 1 and next(buffers, None) is not None:
            return False
    return all(_is_unread_size(draft, user) for user in node.users)


def _inside(draft: Draft, node: fx.Node) -> bool:
    scope = draft.scopes.get(node.name, "")
    return not draft.scope or node.op == "get_attr" or f"{scope}.".startswith(f"{draft.scope}.")


def _is_unread_size(draft: Draft, node: fx.Node) -> bool:
    known = draft.base.topology.by_name.get(node.name)
    return known is not None and known.op in PURE and not node.users and _inside(draft, node)


def _drop(draft: Draft, node: fx.Node) -> list[fx.Node]:
    """Erase one node, and its module if nothing else calls it; return what it read."""
    read = list(node.all_input_nodes)
    del draft.nodes[node.name]
    draft.graph.erase_node(node)
    target = str(node.target)
    owner, _, last = target.rpartition(".")
    if node.op == "call_module" and not is_called(draft, target):
        draft.remove_module(target)
        _prune(draft, owner)
    elif node.op == "get_attr" and not is_called(draft, target):
        holder = submodule(draft.tree, owner)
        if (
            owner
            and holder is not None
            and type(holder) is nn.Module
            and last in holder._parameters
        ):
            del draft.own(owner)._parameters[last]
            _prune(draft, owner)
    return read


def _prune(draft: Draft, path: str) -> None:
    """Remove containers that an insertion has made and that hold nothing any more."""
    holder = submodule(draft.tree, path) if path else None
    if holder is None or type(holder) not in (nn.Module, nn.ModuleDict):
        return
    if not (holder._modules or holder._parameters or holder._buffers):
        draft.remove_module(path)
        _prune(draft, path.rpartition(".")[0])
