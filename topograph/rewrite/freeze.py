"""`freeze` and `unfreeze`: whether the parameters of a node are trained."""

from fnmatch import fnmatchcase
from typing import TypeVar

from torch import fx, nn

from topograph.errors import SelectorError
from topograph.rewrite.draft import Draft, submodule
from topograph.spec import At, Between, Freeze, Named, Refusal, Unfreeze, places
from topograph.topology import Node, Topology
from topograph.tracing.describe import dtype_name, uses

M = TypeVar("M", Freeze, Unfreeze)
DIFFERENTIABLE = ("float", "bfloat", "complex")


def preserves(mutation: Freeze | Unfreeze) -> bool:
    """Return True: values stay as they are."""
    return True


def resolve(mutation: M, topology: Topology) -> tuple[M, ...]:
    """Return the mutation once for each node at which it has something to do."""
    found = [
        mutation.model_copy(update={"where": place, "only": only})
        for place, only in _matches(mutation, topology)
    ]
    state = {parameter.path: parameter for parameter in topology.parameters}
    kept, covered = [], set[str]()
    for single in found:
        paths = parameter_paths(topology.by_name[ends(single)[-1]], topology)
        new = {
            path
            for path in paths
            if state[path].trainable == isinstance(mutation, Freeze)
            and state[path].dtype.startswith(DIFFERENTIABLE)
            and (single.only is None or fnmatchcase(path, single.only))
        } - covered
        kept += [single] if new else []
        covered |= new
    return tuple(kept or found)


def check(draft: Draft, mutation: Freeze | Unfreeze) -> Refusal | None:
    """Return why the parameters cannot be frozen or unfrozen, if they cannot."""
    refusal = no_node(draft, mutation.where)
    if refusal is not None:
        return refusal
    node, verb = ends(mutation)[0], mutation.kind
    chosen = _chosen(draft, node, mutation.only)
    if not chosen:
        reason = "it has no parameters"
        if mutation.only is not None:
            reason = f"no parameter of it matches {mutation.only!r}"
        return Refusal(node=node, reason=reason, fix="choose a layer that has some")
    able = {path: p for path, p in chosen.items() if is_differentiable(p)}
    if not able and isinstance(mutation, Unfreeze):
        kinds = ", ".join(sorted({dtype_name(p.dtype) for p in chosen.values()}))
        return Refusal(
            node=node,
            reason=f"its parameters are {kinds}, which has no gradient",
            fix="leave it out",
        )
    wanted = {p: v for p, v in able.items() if v.requires_grad == isinstance(mutation, Freeze)}
    if not wanted:
        state = "frozen" if isinstance(mutation, Freeze) else "trained"
        names = "all its parameters" if mutation.only is None else f"all that match {mutation.only}"
        reason = f"{names} are {state} already"
        return Refusal(node=node, reason=reason, fix="leave it out", satisfied=True)
    for path, parameter in wanted.items():
        problem = unusual(path, parameter)
        if problem is not None:
            return Refusal(node=node, reason=problem, fix=f"{verb} it before tracing")
    return None


def stem(mutation: Freeze | Unfreeze) -> None:
    """Return None: nothing new is made."""
    return


def ends(mutation: Freeze | Unfreeze) -> tuple[str, ...]:
    """Return the node whose parameters are meant."""
    where = mutation.where
    if isinstance(where, Between):
        return (where.source, where.target)
    assert isinstance(where, At)
    return (where.node,)


def rewrite(
    draft: Draft, mutation: Freeze | Unfreeze, name: str | None, seed: int
) -> nn.Module | None:
    """Put parameters on the same memory in the place of the node's, under all their names."""
    set_trained(draft, ends(mutation)[0], isinstance(mutation, Unfreeze), mutation.only)
    draft.in_place.add(mutation)
    return None


def set_trained(draft: Draft, node: str, trained: bool, only: str | None = None) -> None:
    """Set whether a node's parameters are trained, where that is not so already."""
    for path, parameter in _chosen(draft, node, only).items():
        if parameter.requires_grad == trained or not is_differentiable(parameter):
            continue
        new = nn.Parameter(parameter.detach(), requires_grad=trained)
        new.__dict__.update(parameter.__dict__)
        for alias in draft.ties.get(path, (path,)):
            if parameter_at(draft, alias) is parameter:
                draft.exchange_parameter(alias, new)


def no_node(draft: Draft, where: object) -> Refusal | None:
    """Return why a place is not a node of the draft, if so."""
    if isinstance(where, At):
        if where.node in draft.nodes:
            return None
        return Refusal(node=where.node, reason="the same plan removes it", fix="plan them apart")
    return Refusal(
        node=getattr(where, "target", "the edge"),
        reason="an edge is not a layer",
        fix="name the node, as in named('layers.3')",
    )


def own_parameters(draft: Draft, name: str) -> dict[str, nn.Parameter]:
    """Return the parameters that a node uses now, by path: its module's, and those it reads."""
    node = draft.nodes[name]
    found: dict[str, nn.Parameter] = {}
    module = submodule(draft.tree, str(node.target)) if node.op == "call_module" else None
    if module is not None:
        found |= {f"{node.target}.{path}": p for path, p in module.named_parameters()}
    for source in parameter_sources(node):
        parameter = parameter_at(draft, str(source.target))
        if parameter is not None:
            found[str(source.target)] = parameter
    return found


def parameter_sources(node: fx.Node) -> list[fx.Node]:
    """Return the nodes by which a node reads tensors of the state; itself if it is one."""
    return [source for source in (node, *dict.fromkeys(uses(node))) if source.op == "get_attr"]


def parameter_at(draft: Draft, path: str) -> nn.Parameter | None:
    """Return the parameter that stands at a path now, or None where there is none."""
    owner, _, last = path.rpartition(".")
    module = submodule(draft.tree, owner)
    return module._parameters.get(last) if module is not None else None


def parameter_paths(node: Node, topology: Topology) -> list[str]:
    """Return the paths of all parameters that a record says a node uses."""
    read = [topology.by_name[source] for source in node.inputs]
    held = [record for record in (node, *read) if record is node or record.kind == "parameter"]
    return list(dict.fromkeys(path for record in held for path in record.parameters))


def is_differentiable(parameter: nn.Parameter) -> bool:
    """Return whether torch can compute a gradient for a parameter of this type."""
    return parameter.is_floating_point() or parameter.is_complex()


def unusual(path: str, parameter: nn.Parameter) -> str | None:
    """Return why another parameter cannot take the place of one, if it cannot."""
    if type(parameter) is not nn.Parameter:
        return f"{path} is a {type(parameter).__name__}, not an ordinary parameter"
    hooks = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))
    return f"{path} has a hook, which a new parameter would not have" if any(hooks) else None


def _chosen(draft: Draft, node: str, only: str | None) -> dict[str, nn.Parameter]:
    return {
        path: parameter
        for path, parameter in own_parameters(draft, node).items()
        if only is None or any(fnmatchcase(p, only) for p in draft.ties.get(path, (path,)))
    }


def _matches(
    mutation: Freeze | Unfreeze, topology: Topology
) -> list[tuple[At | Between, str | None]]:
    """Return the nodes that are meant, and those of which only some parameters match by path."""
    where, only = mutation.where, mutation.only
    if not isinstance(where, Named) or only is not None:
        return [(place, only) for place in places(where, topology)]
    try:
        named = {place.node for place in places(where, topology) if isinstance(place, At)}
        miss = None
    except SelectorError as error:
        named, miss = set(), error
    found: list[tuple[At | Between, str | None]] = []
    for node in topology.nodes:
        by_path = (fnmatchcase(p, where.pattern) for p in parameter_paths(node, topology))
        if node.name in named:
            found.append((At(node=node.name), None))
        elif node.kind != "output" and any(by_path):
            found.append((At(node=node.name), where.pattern))
    if miss is not None and not found:
        raise miss
    return found
