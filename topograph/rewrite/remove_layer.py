"""`remove_layer`: the readers of a node read its input instead."""

from torch import nn

from topograph.rewrite.aliases import bypass_hazard
from topograph.rewrite.draft import Draft
from topograph.spec import At, Refusal, RemoveLayer, places
from topograph.topology import Topology
from topograph.tracing.describe import uses

PURE = ("size", "getitem", "getattr", "parameter")


def preserves(mutation: RemoveLayer) -> bool:
    """Return False: what is removed did something."""
    return False


def resolve(mutation: RemoveLayer, topology: Topology) -> tuple[RemoveLayer, ...]:
    """Return the mutation once for each single node that its selector means."""
    return tuple(
        mutation.model_copy(update={"where": place}) for place in places(mutation.where, topology)
    )


def check(draft: Draft, mutation: RemoveLayer) -> Refusal | None:
    """Return why the node cannot be removed, if it cannot."""
    if not isinstance(mutation.where, At):
        edge = mutation.where
        return Refusal(
            node=getattr(edge, "target", "the edge"),
            reason="an edge is not a layer",
            fix="name the node, as in named('layers.3')",
        )
    topology = draft.base.topology
    node = topology.by_name[mutation.where.node]
    if node.kind not in ("module", "function", "method"):
        return Refusal(node=node.name, reason=f"it is {node.kind}, no layer", fix="choose a layer")
    if node.name not in draft.nodes or not draft.nodes[node.name].users:
        return Refusal(node=node.name, reason="nothing reads it any more", fix="leave it out")
    inputs = [topology.by_name[name] for name in node.inputs]
    inputs = [
        source for source in inputs if source.shape is not None and source.kind != "parameter"
    ]
    if len(inputs) != 1:
        names = ", ".join(source.name for source in inputs) or "nothing"
        return Refusal(
            node=node.name,
            reason=f"a removed layer is replaced by its one input; this one reads {names}",
            fix="remove the layers that feed it",
        )
    source = inputs[0]
    if (node.shape, node.dtype) != (source.shape, source.dtype):
        return Refusal(
            node=node.name,
            reason=f"it makes {_shape(node.shape)} {node.dtype} of "
            f"{_shape(source.shape)} {source.dtype}",
            fix="remove only layers that keep the shape",
        )
    return bypass_hazard(draft, node.name, source.name)


def stem(mutation: RemoveLayer) -> None:
    """Return None: nothing new is made."""
    return


def ends(mutation: RemoveLayer) -> tuple[str, ...]:
    """Return the node that goes."""
    assert isinstance(mutation.where, At)
    return (mutation.where.node,)


def rewrite(draft: Draft, mutation: RemoveLayer, name: str | None, seed: int) -> nn.Module | None:
    """Remove the node, what only it read, and its module if nothing else calls it."""
    assert isinstance(mutation.where, At)
    topology = draft.base.topology
    record = topology.by_name[mutation.where.node]
    sources = [topology.by_name[source] for source in record.inputs]
    slot = next(i for i, s in enumerate(sources) if s.shape is not None and s.kind != "parameter")
    node = draft.nodes[record.name]
    stays = uses(node)[slot]  # a block may have been inserted on this edge in the same plan
    value = draft.value(record.name)  # a block may have been inserted behind it in the same plan
    node.replace_all_uses_with(stays)
    draft.values[record.name] = stays if value is node else value
    for other, carrier in draft.values.items():
        if carrier is node:  # a layer behind it was removed before
            draft.values[other] = stays
    _erase(draft, node.name)
    return None


def _erase(draft: Draft, name: str) -> None:
    """Erase a node, its module, and what it alone read and nobody needs."""
    node = draft.nodes.pop(name)
    read = list(node.all_input_nodes)
    draft.graph.erase_node(node)
    target = str(node.target)
    if node.op == "call_module" and not _is_called(draft, target):
        draft.remove_module(target)
    for source in read:
        known = draft.base.topology.by_name.get(source.name)
        if (
            known is not None
            and known.op in PURE
            and not source.users
            and source.name in draft.nodes
        ):
            _erase(draft, source.name)


def _is_called(draft: Draft, path: str) -> bool:
    """Return whether a node still needs a module: itself, what is in it, or what it is in."""
    targets = [
        str(node.target) for node in draft.graph.nodes if node.op in ("call_module", "get_attr")
    ]
    return any(
        f"{target}.".startswith(f"{path}.") or path.startswith(f"{target}.") for target in targets
    )


def _shape(shape: object) -> str:
    return f"[{', '.join(map(str, shape))}]" if isinstance(shape, tuple) else "?"
