"""`inspect --spaces`: which widths of a model must change together."""

import json

from topograph.cli.output import show, table, write
from topograph.report.words import visible
from topograph.topology.spaces import Space
from topograph.tracing import TracedModel
from topograph.widths import spaces

MOST_NAMES = 3


def print_spaces(traced: TracedModel, as_json: bool) -> None:
    """Print a model's channel spaces as a table, or as a JSON document."""
    found = spaces(traced)
    if as_json:
        write(json.dumps([space.model_dump(mode="json") for space in found], indent=2))
        return
    shown = table("channel spaces", "space", "units", "made by", "read by", "mixed by", "fixed")
    for column in shown.columns[2:]:
        column.justify = "left"
    for space in found:
        fixed = space.lock or ("it is a size of the model's output" if space.output else "")
        made, read = _members(space, "makes"), _members(space, "reads")
        cells = (space.name, str(space.size), made, read, _names(space.mixed), fixed)
        shown.add_row(*map(visible, cells))
    show(shown)


def _members(space: Space, role: str) -> str:
    matrices = [m.path.removesuffix(".weight") for m in space.members if m.role == role]
    return _names(tuple(path for path in dict.fromkeys(matrices) if not path.endswith("bias")))


def _names(names: tuple[str, ...]) -> str:
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
