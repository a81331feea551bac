"""Which tensors of two checkpoints differ, as terminal text and as a page."""

from rich.text import Text

from topograph.report import words
from topograph.report.html import page
from topograph.report.text import STYLE
from topograph.topology.tensors import CheckpointDiff, number


def tensors_text(found: CheckpointDiff) -> Text:
    """Return the lines of a difference of two checkpoints, in colours.

    Args:
        found: What differs; largest relative change first.

    Returns:
        A rich text with the same words as ``str(found)``.

    Raises:
        Nothing.

    Example:
        >>> tensors_text(CheckpointDiff(same=2)).plain
        'no changes in 2 tensors'

    References:
        https://rich.readthedocs.io/en/stable/text.html
    """
    lines = [Text(words.visible(str(item)), style=STYLE[item.change]) for item in found.tensors]
    lines += [Text(words.visible(line), style=STYLE["total"]) for line in found.totals]
    text = Text("\n").join(lines)
    text.overflow = "fold"
    return text


def render_tensors(found: CheckpointDiff, before: str, after: str) -> str:
    """Return a difference of two checkpoints as a page with one table.

    Args:
        found: What differs; largest relative change first.
        before: What to call the first checkpoint.
        after: What to call the second.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        Nothing.

    Example:
        >>> "no changes in 2 tensors" in render_tensors(CheckpointDiff(same=2), "a", "b")
        True

    References:
        https://developer.mozilla.org/docs/Web/HTTP/Guides/CSP
    """
    largest = max((item.relative or 0.0 for item in found.tensors), default=0.0)
    return page(
        "tensors.html.jinja",
        title=f"topograph: {before} and {after}",
        names=f"{before} → {after}",
        found=found,
        rows=[
            (item, min(100.0, 100 * (item.relative or 0.0) / largest) if largest else 0.0)
            for item in found.tensors
        ],
        shown=number,
    )
