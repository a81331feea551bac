"""The words and numbers that every report uses: one spelling for places, blocks, shapes, sizes."""

from collections.abc import Iterator
from typing import Literal
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from topograph.spec import (
    AddBranch,
    After,
    At,
    Between,
    Bottleneck,
    ConvBottleneck,
    Entry,
    Everywhere,
    InsertLayer,
    Linear,
    Named,
    Ranked,
    RemoveLayer,
)
from topograph.spec.select import AnySelector
from topograph.topology import Node, TopologyDiff

Mark = Literal["added", "removed", "changed"]
Line = tuple[Mark | Literal["field", "total"], str]

AXES = {"batch": "b", "channel": "c", "tokens": "t", "space": "s", "unknown": "?"}
SIGN: dict[Mark, str] = {"added": "+", "removed": "-", "changed": "~"}


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


def place(mutation: InsertLayer | RemoveLayer | AddBranch) -> str:
    """Return the node or edge that a mutation changes, in words."""
    match mutation:
        case AddBranch(source=source, target=target):
            return f"from {source} to {target}"
        case RemoveLayer(where=At(node=node)):
            return node
        case InsertLayer() | RemoveLayer():
            return selection(mutation.where)


def material(mutation: InsertLayer | RemoveLayer | AddBranch) -> str:
    """Return what a mutation puts there, in words."""
    match mutation:
        case InsertLayer():
            return composition(mutation.block)
        case RemoveLayer():
            return "removal"
        case AddBranch(gate=gate, projection=projection):
            return f"branch, gate {gate:g}, projection {projection}"


def composition(block: Bottleneck | ConvBottleneck | Linear) -> str:
    """Return what a block is made of, in words."""
    match block:
        case Bottleneck():
            norm = ", norm" if block.norm else ""
            return f"bottleneck, {block.units} units, {block.activation}{norm}"
        case ConvBottleneck():
            kernel = f"kernel {block.kernel} {block.spatial}"
            return f"conv bottleneck, {block.units} units, {block.activation}, {kernel}"
        case Linear():
            return "linear" if block.bias else "linear, no bias"


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
        yield item.change, f"{SIGN[item.change]} {visible(f'{item.name}  {item.summary}').rstrip()}"
        for field in item.fields:
            yield "field", visible(f"    {field.field}: {field.before} -> {field.after}")
    yield "total", f"{diff.parameters:+,} parameters, {diff.flops:+,} FLOPs a sample"
