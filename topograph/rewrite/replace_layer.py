"""`replace_layer`: another layer in a layer's place, at all its calls."""

from typing import Any

from torch import fx, nn

from topograph.errors import SpecError
from topograph.rewrite.aliases import bypass_hazard
from topograph.rewrite.attention import attention_fits, emit_attention, end_of
from topograph.rewrite.draft import Draft, submodule
from topograph.rewrite.factories import made, trouble
from topograph.rewrite.freeze import no_node
from topograph.rewrite.orphans import erase, erase_orphans
from topograph.rewrite.replacements import (
    CURVES,
    KNOWN_CURVES,
    RESULT_ONLY,
    RESULT_TOO,
    low_rank_fits,
    low_rank_module,
    norm_fits,
    norm_module,
)
from topograph.rewrite.stale import moved_with, overwritten_after, read_after_write
from topograph.spec import (
    Activation,
    At,
    Attention,
    LowRank,
    Module,
    Norm,
    Refusal,
    ReplaceLayer,
    places,
)
from topograph.topology import Node, Topology
from topograph.tracing.describe import uses
from topograph.tracing.seen import Seen


def preserves(mutation: ReplaceLayer) -> bool:
    """Return False: what comes is another layer; the plan shows how far the output moves."""
    return False


def resolve(mutation: ReplaceLayer, topology: Topology) -> tuple[ReplaceLayer, ...]:
    """Return the mutation once for each node that it means; once for all calls of a module."""
    found, met = [], set()
    for place in places(mutation.where, topology):
        node = topology.by_name[place.node] if isinstance(place, At) else None
        if node is not None and node.kind == "module":
            if node.target in met:
                continue
            met.add(node.target)
        found.append(mutation.model_copy(update={"where": place}))
    return tuple(found)


def check(draft: Draft, mutation: ReplaceLayer) -> Refusal | None:
    """Return why the layer cannot be replaced, if it cannot."""
    refusal = no_node(draft, mutation.where)
    if refusal is not None:
        return refusal
    assert isinstance(mutation.where, At)
    node = draft.base.topology.by_name[mutation.where.node]
    if node.kind not in ("module", "function", "method"):
        return Refusal(node=node.name, reason=f"it is {node.kind}, no layer", fix="choose a layer")
    calls = _calls(draft, node)
    if node.name in draft.changed or not any(draft.nodes[call.name].users for call in calls):
        return Refusal(
            node=node.name,
            reason="the same plan changes it already, or nothing reads it",
            fix="plan them apart",
        )
    if isinstance(mutation.block, Attention):
        return attention_fits(draft, mutation.block, node)
    refusal = _held_elsewhere(draft, node)
    for call in calls:  # it is one module: where one call refuses, none is replaced
        if refusal is not None:
            break
        refusal = _single_input(draft, call) or _fits(draft, mutation.block, call)
    if refusal is not None and refusal.node != node.name:
        reason = f"its module is called at {refusal.node}, too: {refusal.reason}"
        return Refusal(node=node.name, reason=reason, fix=refusal.fix)
    return refusal


def stem(mutation: ReplaceLayer) -> None:
    """Return None: a module keeps its path; what a function becomes is named by its kind."""
    return


def ends(mutation: ReplaceLayer) -> tuple[str, ...]:
    """Return the node that is replaced."""
    assert isinstance(mutation.where, At)
    return (mutation.where.node,)


def rewrite(draft: Draft, mutation: ReplaceLayer, name: None, seed: int) -> nn.Module | None:
    """Exchange the module, or put a new one in a function's place; return it."""
    assert isinstance(mutation.where, At)
    block, record = mutation.block, draft.base.topology.by_name[mutation.where.node]
    if isinstance(block, Attention):
        end, new_name = end_of(draft, block, record.name), draft.free_name("attention")
        made_of = emit_attention(draft, block, draft.nodes[record.name], new_name)
        _take_place(draft, end, made_of)
        return None
    new = _new_module(draft, block, record, seed)
    for call in _calls(draft, record):
        draft.changed |= {call.name} if record.kind == "module" else set()
        draft.changed |= {name for name in moved_with(draft, call.name) if name in draft.nodes}
    if record.kind == "module":
        old = _module(draft, record)
        assert old is not None
        new.train(old.training)
        for path in _paths(draft, record):
            draft.exchange_module(path, new)
        draft.in_place.add(mutation)
        return new
    node, new_name = draft.nodes[record.name], draft.free_name(block.kind)
    source = uses(node)[_slots(draft, record)[0]]  # a block may stand on this edge by now
    draft.add_module(new_name, new)
    _take_place(draft, node, draft.call("call_module", new_name, (source,), new_name, node))
    return new


def _take_place(draft: Draft, old: fx.Node, new: fx.Node) -> None:
    """Let all that reads one node read another one, and erase what only it was made for."""
    old.replace_all_uses_with(new)
    carried = [name for name, carrier in draft.values.items() if carrier is old]
    if old.name not in draft.values:
        carried.append(old.name)
    draft.values.update(dict.fromkeys(carried, new))
    read = list(old.all_input_nodes)
    erase(draft, old.name)
    for source in read:
        if source.name in draft.nodes and not source.users:
            erase_orphans(draft, source)


def _calls(draft: Draft, node: Node) -> list[Node]:
    """Return the records of all calls of a node's module that are left, or of the one function."""
    if node.kind != "module":
        return [node]
    nodes = [n for n in draft.base.topology.nodes if n.name in draft.nodes]
    return [n for n in nodes if (n.kind, n.target) == ("module", node.target)]


def _module(draft: Draft, node: Node) -> nn.Module | None:
    return submodule(draft.tree, node.target) if node.kind == "module" else None


def _paths(draft: Draft, node: Node) -> list[str]:
    """Return all paths of a module: more than its own where the model holds it twice."""
    old = _module(draft, node)
    named = draft.tree.named_modules(remove_duplicate=False)
    return [path for path, module in named if module is old]


def _held_elsewhere(draft: Draft, node: Node) -> Refusal | None:
    """Return who else uses a module or its parameters, beside its calls."""
    for path in _paths(draft, node) if node.kind == "module" else ():
        for other in draft.graph.nodes:
            target = str(other.target)
            if other.op == "get_attr" and target.startswith(f"{path}."):
                return Refusal(
                    node=node.name,
                    reason=f"{other.name} reads its {target.rpartition('.')[2]} by itself",
                    fix="replace what reads it first",
                )
            if other.op == "call_module" and path.startswith(f"{target}."):
                return Refusal(
                    node=node.name,
                    reason=f"{target} is closed and calls it, too",
                    fix=f"trace with transparent=[{target!r}], or replace {target}",
                )
    return None


def _single_input(draft: Draft, node: Node) -> Refusal | None:
    """Return why a call cannot be exchanged for one with a single argument, if it cannot."""
    call = draft.nodes[node.name]
    plain = node.kind != "module" or (len(call.args) == 1 and not call.kwargs)
    if len(_slots(draft, node)) == 1 and plain and node.shape is not None:
        return None
    return Refusal(
        node=node.name,
        reason=f"it reads {', '.join(node.inputs) or 'nothing'}, and a layer reads one value",
        fix="choose a layer from one value to one value",
    )


def _slots(draft: Draft, node: Node) -> list[int]:
    """Return which of the things that a node reads are values that flow."""
    read = [draft.base.topology.by_name[name] for name in node.inputs]
    return [i for i, s in enumerate(read) if s.shape is not None and s.kind != "parameter"]


def _fits(draft: Draft, block: Any, node: Node) -> Refusal | None:
    """Return why a block cannot take the place of one call, if it cannot."""
    old, source = _module(draft, node), node.inputs[_slots(draft, node)[0]]
    refusal: Refusal | None = None
    keeps_input, keeps_result, passes = True, False, False  # what the backward pass needs
    match block:
        case Activation(name=name):
            if node.op not in KNOWN_CURVES:
                refusal = Refusal(
                    node=node.name,
                    reason=f"it is {node.op}, no activation",
                    fix="choose an activation, or replace it by a module (register_block)",
                )
            keeps_input = name not in RESULT_ONLY
            keeps_result, passes = name in RESULT_ONLY | RESULT_TOO, name == "identity"
        case Norm(name=name):
            refusal, passes = norm_fits(block, node, old), name == "identity"
        case LowRank():
            refusal = low_rank_fits(block, node, old) or _tied(draft, node)
        case Module():
            keeps_result = passes = True
    refusal = refusal or _tried(draft, block, node) or read_after_write(draft, node.name)
    if refusal is None and passes:
        refusal = bypass_hazard(draft, node.name, source)
    return refusal or overwritten_after(
        draft, node.name, source, keeps_input=keeps_input, keeps_result=keeps_result
    )


def _tied(draft: Draft, node: Node) -> Refusal | None:
    homes = _paths(draft, node)
    paths = draft.ties.get(f"{node.target}.weight", ())
    others = [path for path in paths if path.rpartition(".")[0] not in homes]
    if not others:
        return None
    return Refusal(
        node=node.name,
        reason=f"its weight is tied to {', '.join(others)}, which would stay whole",
        fix="untie it first",
    )


def _tried(draft: Draft, block: Any, node: Node) -> Refusal | None:
    """Return what goes wrong when a block is called on what the node reads, if anything does."""
    values = draft.base.values
    assert values is not None  # `plan` has refused traces without example inputs
    if isinstance(block, LowRank):
        return None  # by what it is, and its decomposition takes time
    given = values.by_node[node.inputs[_slots(draft, node)[0]]].passes
    wanted = values.by_node[node.name].passes
    fix = "mend the factory or its arguments" if isinstance(block, Module) else "choose another"
    try:
        new = _new_module(draft, block, node, 0)
    except SpecError as error:
        return Refusal(node=node.name, reason=str(error), fix=fix)
    for index in (0, 1):
        problem = trouble(new, given[index], wanted[index], values.mode, training=index == 1)
        if problem is not None:
            name = block.factory if isinstance(block, Module) else block.name
            return Refusal(node=node.name, reason=f"{name} {problem}", fix=fix)
    return None


def _new_module(draft: Draft, block: Any, node: Node, seed: int) -> nn.Module:
    values = draft.base.values
    assert values is not None  # as above
    like: Seen = values.by_node[node.inputs[_slots(draft, node)[0]]].passes[0]
    match block:
        case Activation(name=name):
            return CURVES[name]()
        case Norm():
            return norm_module(block, node, _module(draft, node), like)
        case LowRank():
            return low_rank_module(block, _module(draft, node))
    return made(block, like, seed)
