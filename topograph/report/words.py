"""The words and numbers that every report uses: one spelling for places, blocks, shapes, sizes."""

from collections.abc import Iterator
from typing import Literal
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from topograph.spec import (
    Activation,
    AddAdapter,
    AddBranch,
    After,
    And,
    AnyMutation,
    At,
    Attention,
    Before,
    Between,
    Bottleneck,
    ConvBottleneck,
    Disconnect,
    Entry,
    Everywhere,
    Freeze,
    InsertLayer,
    InstancesOf,
    Linear,
    LowRank,
    Module,
    Named,
    NarrowLayer,
    Norm,
    Not,
    Or,
    Ranked,
    RemoveLayer,
    ReplaceLayer,
    Replacement,
    Rewire,
    SelfAttention,
    Unfreeze,
    Untie,
    WidenLayer,
)
from topograph.spec.blocks import AnyBlock
from topograph.spec.select import AnySelector
from topograph.spec.widths import Times
from topograph.topology import Node, Record, TopologyDiff
from topograph.topology.diff import SIGN as SIGN
from topograph.topology.fields import Change

Mark = Change
Line = tuple[Mark | Literal["field", "total"], str]

AXES = {"batch": "b", "channel": "c", "tokens": "t", "space": "s", "unknown": "?"}


def visible(text: str) -> str:
    r"""Return a text in which each character that cannot be seen stands as its escape.

    A newline, a terminal's escape, a null or a change of writing direction in a name must not
    act on the page or the terminal: they become ``\n``, ``\x1b``, ``\x00``, ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def xml(text: str) -> str:
    """Return a text that XML reads as characters, in an element or in a quoted attribute."""
    return escape(text, {'"': "&quot;", "'": "&#39;"})


def cells(text: str) -> int:
    """Return how many columns of a fixed-width font a text takes."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def clip(text: str, room: int, *, keep: Literal["start", "end"] = "start") -> str:
    """Return a text that fits `room` columns, with an ellipsis where it was cut."""
    if cells(text) <= room:
        return text
    kept = ""
    for character in text if keep == "start" else reversed(text):
        if cells(kept + character) > room - 1:
            break
        kept += character
    return kept + "…" if keep == "start" else "…" + kept[::-1]


def shape(node: Node) -> str:
    """Return the sizes of a node's value, ``[N, 64, 8, 8]``; empty where it is not one tensor."""
    return "" if node.shape is None else f"[{', '.join(map(str, node.shape))}]"


def axes(node: Node) -> str:
    """Return the meaning of a value's axes in letters: batch, channel, tokens, space."""
    return "".join(AXES[axis] for axis in node.axes)


def change(value: float) -> str:
    """Return a signed number with four significant digits, and no sign at zero."""
    return "0" if value == 0 else f"{value:+.4g}"


def selection(selector: AnySelector) -> str:
    """Return where a selector points, in words."""
    match selector:
        case At(node=node):
            return f"after {node}"
        case Between(source=source, target=target, slot=None):
            return f"edge {source} -> {target}"
        case Between(source=source, target=target, slot=slot):
            return f"edge {source} -> {target}[{slot}]"
        case After(op=op):
            return f"after every {op}"
        case Named(pattern=pattern):
            return f"nodes named {pattern}"
        case Everywhere():
            return "every value"
        case Before(op=op):
            return f"before every {op}"
        case InstancesOf(type_name=name):
            return f"every {name} module"
        case And(parts=parts):
            return f"({' and '.join(map(selection, parts))})"
        case Or(parts=parts):
            return f"({' or '.join(map(selection, parts))})"
        case Not(part=part):
            return f"not {selection(part)}"


def place(mutation: AnyMutation) -> str:
    """Return the node or edge that a mutation changes, in words."""
    if not isinstance(mutation, AnyMutation):  # a plugin's
        return selection(mutation.where) if hasattr(mutation, "where") else mutation.kind
    match mutation:
        case AddBranch(source=source, target=target):
            return f"from {_end(source)} to {_end(target)}"
        case Rewire() | Disconnect():
            return selection(mutation.edge)
        case InsertLayer():
            return selection(mutation.where)
        case (
            RemoveLayer(where=At(node=node))
            | Freeze(where=At(node=node))
            | Unfreeze(where=At(node=node))
            | Untie(where=At(node=node))
            | AddAdapter(where=At(node=node))
            | ReplaceLayer(where=At(node=node))
            | WidenLayer(where=At(node=node))
            | NarrowLayer(where=At(node=node))
        ):
            return node
    return selection(mutation.where)


def material(mutation: AnyMutation) -> str:
    """Return what a mutation puts there, in words."""
    if not isinstance(mutation, AnyMutation):
        return recorded(mutation)
    match mutation:
        case InsertLayer():
            return composition(mutation.block)
        case RemoveLayer():
            return "removal"
        case AddBranch(gate=gate, projection=projection, path=path):
            inner = "" if path is None else f", {composition(path)}"
            return f"branch, gate {gate:g}, projection {projection}{inner}"
        case ReplaceLayer():
            return replacement(mutation.block)
        case Rewire(source=source):
            return f"read {source}"
        case Disconnect():
            return "no operand"
        case Freeze(only=only):
            return "freeze" if only is None else f"freeze {only}"
        case Unfreeze(only=only):
            return "unfreeze" if only is None else f"unfreeze {only}"
        case Untie():
            return "own copies of tied parameters"
        case AddAdapter():
            return adapter(mutation)
        case WidenLayer(to=to):
            return f"widen {_width(to)}"
        case NarrowLayer(to=to):
            return f"narrow {_width(to)}"


def _end(end: str | AnySelector) -> str:
    return end if isinstance(end, str) else selection(end)


def _width(to: int | Times) -> str:
    return f"{to.times:g} times" if isinstance(to, Times) else f"to {to}"


def replacement(block: Replacement) -> str:
    """Return what a layer is replaced by, in words."""
    match block:
        case Activation(name=name):
            return f"{name.replace('_', ' ')} for an activation"
        case Norm(name=name, groups=groups):
            return (
                f"{name.replace('_', ' ')}{f', {groups} groups' if groups > 1 else ''} for a norm"
            )
        case LowRank(rank=rank):
            return f"two matrices of rank {rank} for one"
        case Attention(implementation=implementation):
            return f"attention as {implementation}"
        case Module():
            arguments = "".join(f", {name} {value}" for name, value in block.arguments.items())
            return f"module {block.factory}{arguments}"


def adapter(mutation: AddAdapter) -> str:
    """Return what an adapter is, in words."""
    frozen = ", layer frozen" if mutation.freeze else ""
    if mutation.style == "bottleneck":
        return f"bottleneck adapter, rank {mutation.rank}, {mutation.activation}{frozen}"
    scale = f", scale {mutation.scale:g}" if mutation.alpha is not None else ""
    return f"low-rank adapter, rank {mutation.rank}{scale}{frozen}"


def composition(block: AnyBlock) -> str:
    """Return what a block is made of, in words."""
    if not isinstance(block, AnyBlock):
        return recorded(block)
    match block:
        case Bottleneck():
            norm = ", norm" if block.norm else ""
            return f"bottleneck, {block.units} units, {block.activation}{norm}"
        case ConvBottleneck():
            kernel = f"kernel {block.kernel} {block.spatial}"
            return f"conv bottleneck, {block.units} units, {block.activation}, {kernel}"
        case Linear():
            activation = f", {block.activation}" if block.activation else ""
            return f"linear{activation}" + ("" if block.bias else ", no bias")
        case SelfAttention():
            said = [f"self attention, {block.heads} x {block.units} units"]
            said += [word for word in ("causal", "norm") if getattr(block, word)]
            said += ["similar keys"] if block.keys == "similar" else []
            said += [f"mask {block.mask}"] if block.mask is not None else []
            return ", ".join(said)


def recorded(record: Record) -> str:
    """Return a plugin's record in words: its kind and what it sets, but not where."""
    kind, *rest = (
        f"{value}" if name == "kind" else f"{name.replace('_', ' ')} {value}"
        for name, value in sorted(record, key=lambda item: item[0] != "kind")
        if name != "where" and value is not None
    )
    return ", ".join((kind.replace("_", " "), *rest))


def score(value: float, error: float | None) -> str:
    """Return a score, with its standard error where there is one."""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def best_first(ranking: tuple[Ranked, ...]) -> list[Ranked]:
    """Return candidates by falling score; equal scores keep their order."""
    return sorted(ranking, key=lambda candidate: -candidate.value)


def changes(entry: Entry) -> str:
    """Return what an entry's plan changed: the names of its new layers, or the kinds."""
    if entry.plan is None:
        return ""
    return ", ".join(change.name or change.mutation.kind for change in entry.plan.changes)


def diff_lines(diff: TopologyDiff) -> Iterator[Line]:
    """Yield the lines of ``str(diff)``, each with its mark; a name cannot start a new line."""
    if not diff:
        yield "total", "no changes"
        return
    for item in diff.changes:
        yield item.change, visible(item.title)
        for field in item.fields:
            yield "field", visible(f"    {field.field}: {field.before} -> {field.after}")
    yield "total", f"{diff.parameters:+,} parameters, {diff.flops:+,} FLOPs a sample"
