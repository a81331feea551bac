"""What a request for a width means: which spaces change, and by how much."""

from collections.abc import Mapping
from typing import TypeVar

from topograph.rewrite.draft import Draft
from topograph.spec import Refusal
from topograph.spec.selectors import At
from topograph.spec.widths import NarrowLayer, Times, WidenLayer
from topograph.topology import Node, Topology
from topograph.widths.dims import Dim, leaves
from topograph.widths.indices import chosen, resized
from topograph.widths.weights import VOCABULARY

Request = WidenLayer | NarrowLayer
R = TypeVar("R", WidenLayer, NarrowLayer)
Edits = dict[int, tuple[Dim, int]]
LAST = ("linear", "embedding", "multiheadattention", "lstm", "gru", "rnn")  # units come last
NEVER = ("inner", "other")  # what not even copies of all units leave as it is
MIXING = (*NEVER, "norm", "mean")
NO_LAYER = {"input": "an input", "output": "the output", "parameter": "a parameter"}
IN_OUTPUT = "it is a size of the model's output"


def wanted(draft: Draft, mutation: Request) -> Edits | Refusal:
    """Return the spaces that a request at one place resizes, with their sizes; or why none does."""
    if not isinstance(mutation.where, At):
        edge = getattr(mutation.where, "target", "the edge")
        return Refusal(
            node=edge, reason="an edge has no width", fix="name a layer, as in named('fc1')"
        )
    name = mutation.where.node
    dim = _width(draft, name)
    if isinstance(dim, Refusal):
        return dim
    if isinstance(mutation.to, Times):
        return Refusal(
            node=name,
            reason=f"it is a {draft.base.topology.by_name[name].op} with several values, so that "
            "no factor says its width",
            fix=f"give a number; it has {dim.size} units",
        )
    if dim.size == mutation.to and not _sizes(mutation):
        reason = f"it has {dim.size} units already"
        return Refusal(node=name, reason=reason, fix="leave it out", satisfied=True)
    atoms = dict.fromkeys(leaves(dim))
    if mutation.space is not None:
        named = draft.widths.dims.get(mutation.space)
        if named not in atoms or named is None:
            there = ", ".join(n for a in atoms if (n := draft.widths.names.get(id(a)))) or "none"
            return Refusal(
                node=name,
                reason=f"its width has no space {mutation.space!r}; there is {there}",
                fix="give one of those, or none",
            )
        atoms = {named: None}
    why = {atom: _lock(draft, mutation, atom) for atom in atoms}
    allowed = frozenset(id(atom) for atom, reason in why.items() if reason is None)
    if not allowed:
        reason = next((r for a, r in why.items() if r and a.size > 1), "it has one entry")
        soft = reason in (IN_OUTPUT, VOCABULARY)
        fix = 'give outputs="change" to let it' if soft else "choose another layer"
        return Refusal(node=name, reason=f"its width of {dim.size} is fixed: {reason}", fix=fix)
    wider = isinstance(mutation, WidenLayer)
    sizes = _sizes(mutation)
    unknown = [n for n in sizes if id(draft.widths.dims.get(n)) not in allowed]
    if unknown:
        return Refusal(
            node=name,
            reason=f"its width has no space {unknown[0]!r} that may change",
            fix="plan it anew",
        )
    edits: Edits = {id(d): (d, sizes[n]) for n, d in draft.widths.dims.items() if n in sizes}
    for least in () if sizes else (MIXING, NEVER, ()):  # spaces that keep the function come first
        kinds = {id(a): {kind for _, kind in draft.widths.mixed.get(id(a), ())} for a in atoms}
        easy = frozenset(key for key in allowed if not wider or not kinds[key] & set(least))
        edits = chosen(dim, mutation.to, easy)
        if edits and (resized(dim, edits) > dim.size) == wider:
            break
    to = resized(dim, edits)
    if not edits or to == dim.size or (to > dim.size) != wider:
        names = ", ".join(draft.widths.names[key] for key in allowed if key in draft.widths.names)
        return Refusal(
            node=name,
            reason=f"it has {dim.size} units, and {'widening' if wider else 'narrowing'} {names} "
            f"to {mutation.to} leaves {to}",
            fix=f"give a {'larger' if wider else 'smaller'} number, in whole blocks",
        )
    taken = [atom for atom, _ in edits.values() if id(atom) in draft.resizes]
    if taken and _is_made(draft, mutation, edits):
        reason = "the same plan resizes what it shares with others so already"
        return Refusal(node=name, reason=reason, fix="leave it out", satisfied=True)
    if taken:
        return Refusal(
            node=name,
            reason=f"the same plan already resizes {draft.widths.names[id(taken[0])]}, which it "
            "shares",
            fix="ask once for each space",
        )
    return edits


def numbered(mutation: R, topology: Topology) -> R:
    """Return a request at one place with a number for its width, where the topology knows it."""
    if not isinstance(mutation.to, Times) or not isinstance(mutation.where, At):
        return mutation
    now = _units(topology.by_name[mutation.where.node])
    return mutation if now is None else mutation.model_copy(update={"to": mutation.to.of(now)})


def shared(draft: Draft, mutation: Request) -> frozenset[tuple[int, int]]:
    """Return the spaces that a request at one place resizes, with their sizes; none if refused."""
    edits = wanted(draft, mutation)
    if isinstance(edits, Refusal):
        return frozenset()
    return frozenset((key, size) for key, (_, size) in edits.items())


def names_of(draft: Draft, edits: Edits) -> str:
    """Return the names of the spaces that are edited."""
    return ", ".join(draft.widths.names[key] for key in edits)


def width(draft: Draft, mutation: Request, edits: Mapping[int, tuple[Dim, int]]) -> int:
    """Return the width that a layer has after some edits."""
    assert isinstance(mutation.where, At)
    dim = _width(draft, mutation.where.node)
    assert isinstance(dim, Dim)
    return resized(dim, edits)


def _is_made(draft: Draft, mutation: Request, edits: Edits) -> bool:
    """Return whether a draft gives all these spaces these sizes already, in the way asked for."""
    if isinstance(mutation, NarrowLayer) and mutation.by != "magnitude":
        return False
    how = mutation.how if isinstance(mutation, WidenLayer) else "narrow"
    made = [(draft.resizes.get(key), size) for key, (_, size) in edits.items()]
    return all(m and m.index.size == size and how in ("auto", m.how) for m, size in made)


def _units(node: Node) -> int | None:
    """Return how many units a node has, as `_width` finds them, None where its record is silent."""
    if not node.shape or node.kind in ("input", "output", "parameter"):
        return None
    if node.op in LAST or (node.op.startswith("conv") and len(node.shape) > 1):
        size = node.shape[-1 if node.op in LAST else 1]
        return size if isinstance(size, int) else None
    return node.channels


def _sizes(mutation: Request) -> Mapping[str, int]:
    """Return the sizes that a plan has written down."""
    if isinstance(mutation, WidenLayer):
        return mutation.sizes or {}
    return {n: len(u) for n, u in mutation.keep.items()} if isinstance(mutation.keep, dict) else {}


def _lock(draft: Draft, mutation: Request, atom: Dim) -> str | None:
    """Return why a space cannot change in a request."""
    if atom.lock == VOCABULARY and mutation.outputs == "change":
        return None if isinstance(mutation, WidenLayer) else f"{VOCABULARY}, whose ids would shift"
    if atom.lock is not None:
        return atom.lock
    if id(atom) not in draft.widths.names:
        return "no parameter runs over it" if atom.size > 1 else "it has one entry"
    if mutation.outputs == "keep" and id(atom) in draft.widths.outputs:
        return IN_OUTPUT
    return None


def _width(draft: Draft, name: str) -> Dim | Refusal:
    """Return the dimension of a node's units."""
    node = draft.base.topology.by_name[name]
    dims = draft.widths.flow.layouts.get(name)
    if isinstance(dims, list) and node.op in LAST:  # the value, then states or weights
        dims = dims[0]
    if not isinstance(dims, tuple) or not dims or node.kind in NO_LAYER:
        said = NO_LAYER.get(node.kind, f"a {node.op}")
        return Refusal(
            node=name, reason=f"it is {said}, no layer with a width",
            fix="choose a linear layer or a convolution",
        )  # fmt: skip
    if node.op in LAST:
        return dims[-1]
    if node.op.startswith("conv") and len(dims) > 1:
        return dims[1]
    if node.axes.count("channel") == 1:
        return dims[node.axes.index("channel")]
    return Refusal(
        node=name,
        reason=f"its value {list(node.shape or ())} has no certain channel axis",
        fix="choose the layer that makes its units",
    )
