"""Reports as one HTML file each: no scripts, nothing loaded, light and dark, printable."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from topograph.errors import SpecError
from topograph.report import words
from topograph.report.compiling import compiled_after, without_compiling
from topograph.report.curve import curve_svg
from topograph.report.decisions import stretches
from topograph.report.overlay import marks_after, marks_before
from topograph.report.palette import scheme
from topograph.report.svg import graph_svg
from topograph.report.tree import module_tree
from topograph.report.words import Mark
from topograph.spec import Entry, History
from topograph.topology import Topology, TopologyDiff, diff

MOST_DRAWN = 2_000  # nodes; a larger graph is only told, not drawn
TIMES = {"training_seconds": "training", "growth_seconds": "growth"}


class Drawing(NamedTuple):
    """A captioned graph, None where it is too large; `anchor` leads to its first marked node."""

    caption: str
    svg: Markup | None
    nodes: int
    anchor: str


class Comparison(NamedTuple):
    """Two topologies side by side."""

    diff: TopologyDiff
    lines: tuple[words.Line, ...]
    sizes: tuple[tuple[str, int, int], ...]
    drawings: tuple[Drawing, Drawing]


class Step(NamedTuple):
    """One applied change: its journal entry, whether it still counts, and what it changed."""

    number: int
    entry: Entry
    kept: bool
    comparison: Comparison
    compiled: str | None


def render_history(history: History, topologies: Mapping[int, Topology]) -> str:
    """Return a run as a page: what was grown, why, what was predicted and what was measured.

    Metrics of the first and the last entry that have any become the headline;
    ``training_seconds`` and ``growth_seconds`` in them are read as totals so far, in seconds.

    Args:
        history: The run. Steps are training steps, losses in their own units, sizes in
            parameters and in FLOPs per sample.
        topologies: The network at each ``base`` and ``apply`` entry, by the entry's number.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        SpecError: A ``base`` or ``apply`` entry has no topology; names the entry.

    Example:
        >>> from topograph.spec import History
        >>> "pkg.mod:make_model" in render_history(History(model="pkg.mod:make_model"), {})
        True

    References:
        https://developer.mozilla.org/docs/Web/HTTP/Guides/CSP
    """
    for entry in history.entries:
        if entry.kind in ("base", "apply") and entry.number not in topologies:
            raise SpecError(
                f"entry {entry.number} ({entry.kind}) has no topology; expected one for each base "
                f"and apply entry, got {sorted(topologies)}; load it from the entry's folder"
            )
    base = next((entry.number for entry in history.entries if entry.kind == "base"), None)
    stack = history.entries[-1].stack if history.entries else ()
    steps: list[Step] = []
    for entry in history.entries:
        if entry.kind == "apply":
            below = entry.stack[-2] if len(entry.stack) > 1 else base
            if below is None or below not in topologies:
                raise SpecError(
                    f"entry {entry.number} (apply) has nothing to compare with; expected the "
                    f"topology of entry {below} below it; the journal must start with a base"
                )
            pair = topologies[below], topologies[entry.number]
            comparison = compare(*pair, page=f"entry-{entry.number}")
            told = entry.number in stack, comparison, compiled_after(history, entry)
            steps.append(Step(len(steps) + 1, entry, *told))
    measured = without_compiling(history)
    first = topologies[base] if base is not None else None
    last = topologies[stack[-1]] if stack else first
    return page(
        "report.html.jinja",
        title=f"topograph: {history.model}",
        history=history,
        facts=list(_facts(history, first, last, steps)),
        curve=Markup(curve_svg(measured)) if measured.curve else None,
        decisions=stretches(history),
        steps=steps,
    )


def render_topology(topology: Topology) -> str:
    """Return a topology as a page: its sizes, its graph, its submodules and a table of its nodes.

    Args:
        topology: The network; sizes in parameters and in FLOPs per sample.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Topology
        >>> render_topology(Topology(name="Net")).startswith("<!DOCTYPE html>")
        True

    References:
        https://developer.mozilla.org/docs/Web/HTTP/Guides/CSP
    """
    counts = {p.path: p.count for p in topology.parameters if not p.buffer}
    rows = [(node, sum(counts.get(path, 0) for path in node.parameters)) for node in topology.nodes]
    return page(
        "topology.html.jinja",
        title=f"topograph: {topology.name}",
        topology=topology,
        drawing=_draw("graph", topology, {}, "graph"),
        rows=rows,
        tree=module_tree(topology, fold=True),
    )


def render_diff(before: Topology, after: Topology) -> str:
    """Return the difference of two topologies as a page: lines, sizes, both graphs with marks.

    Args:
        before: The first topology.
        after: The second; nodes are matched as `topograph.diff` does.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        TypeError: An argument is not a `Topology`.

    Example:
        >>> from topograph.topology import Topology
        >>> "no changes" in render_diff(Topology(name="Net"), Topology(name="Net"))
        True

    References:
        https://developer.mozilla.org/docs/Web/HTTP/Guides/CSP
    """
    comparison = compare(before, after)
    names = dict.fromkeys((before.name, after.name))
    return page(
        "diff.html.jinja",
        title=f"topograph: {' and '.join(names)}",
        names=" → ".join(names),
        comparison=comparison,
    )


def compare(before: Topology, after: Topology, *, page: str = "graph") -> Comparison:
    """Return what two topologies look like side by side; `page` starts their anchors."""
    found = diff(before, after)
    return Comparison(
        diff=found,
        lines=tuple(words.diff_lines(found)),
        sizes=(
            ("nodes", len(before.nodes), len(after.nodes)),
            ("parameters", before.parameter_count, after.parameter_count),
            ("FLOPs a sample", before.flops, after.flops),
        ),
        drawings=(
            _draw("before", before, marks_before(found), f"{page}-before"),
            _draw("after", after, marks_after(found), f"{page}-after"),
        ),
    )


def _draw(caption: str, topology: Topology, marks: Mapping[str, Mark], anchor: str) -> Drawing:
    nodes = len(topology.nodes)
    if not 0 < nodes <= MOST_DRAWN:
        return Drawing(caption, None, nodes, "")
    marked = any(node.name in marks for node in topology.nodes)
    svg = Markup(graph_svg(topology, marks, anchor=anchor))
    return Drawing(caption, svg, nodes, anchor if marked else "")


def _facts(
    history: History, first: Topology | None, last: Topology | None, steps: list[Step]
) -> Iterable[tuple[str, str, str]]:
    """Yield the headline: name, value, and a remark."""
    measured = [entry.metrics for entry in history.entries if entry.metrics]
    if measured:
        for name, after in measured[-1].items():
            if name in TIMES or name == "step":
                continue
            before = measured[0].get(name)
            if before is None or len(measured) == 1:
                yield name, metric(name, after), ""
            else:
                yield (
                    name,
                    f"{metric(name, before)} → {metric(name, after)}",
                    _shift(name, before, after),
                )
    if first and last:
        before, after = first.parameter_count, last.parameter_count
        share = f"{(after - before) / before:+.1%}" if before else ""
        yield "parameters", f"{before:,} → {after:,}", share
        before, after = first.flops, last.flops
        share = f"{(after - before) / before:+.1%}" if before else ""
        yield "FLOPs a sample", f"{before:,} → {after:,}", share
    undone = sum(not step.kept for step in steps)
    yield "growths", str(len(steps)), f"{undone} undone" if undone else ""
    times = {name: m[name] for m in measured for name in TIMES if name in m}
    grown = [entry.growth.seconds for entry in history.entries if entry.growth]
    if grown:
        times.setdefault("growth_seconds", sum(grown))
    whole = sum(times.values())
    for name, what in TIMES.items():
        if name in times:
            share = f"{times[name] / whole:.1%} of the time" if len(times) == 2 and whole else ""
            yield f"time in {what}", duration(times[name]), share


def metric(name: str, value: float) -> str:
    """Return a metric's value: an accuracy between 0 and 1 in percent, others in four digits."""
    return f"{value:.2%}" if _is_share(name, value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time in the units that a reader would choose."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _is_share(name: str, value: float) -> bool:
    return name.lower().endswith(("accuracy", "acc")) and 0 <= value <= 1


def _shift(name: str, before: float, after: float) -> str:
    if _is_share(name, before) and _is_share(name, after):
        return f"{100 * (after - before):+.2f} points"
    return words.change(after - before)


def _shown(value: object) -> object:
    """Return a value as the page shows it; only finished drawings keep their line breaks."""
    return value if isinstance(value, Markup) else words.visible(str(value))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("topograph.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    said = "axes best_first change changes material place score shape".split()
    environment.filters |= {name: getattr(words, name) for name in said}
    return environment


def page(template: str, **context: object) -> str:
    """Return a page of this room: a template with its colours and what it shows."""
    colours = Markup(scheme(":root"))
    return _environment().get_template(template).render(colours=colours, **context) + "\n"
