"""Reports for a terminal: each function returns something rich can print, and prints nothing."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from topograph.report import words
from topograph.report.tree import lines, module_tree, short_name
from topograph.spec import Growth, History
from topograph.topology import Topology, TopologyDiff

STYLE = {
    "added": "green",
    "removed": "red",
    "changed": "yellow",
    "resized": "yellow",
    "renamed": "blue",
    "moved": "blue",
    "replaced": "magenta",
    "field": "yellow",
    "total": "bold",
}
ORDER = {0: "", 1: " /step", 2: " /step²"}  # unit of a score, told where both occur


def topology_table(topology: Topology) -> Table:
    """Return a table of all nodes, in the order in which values flow, with totals.

    Args:
        topology: The network. Parameters are counted in elements, FLOPs per sample with two per
            multiply-add. A node shows the parameters that it uses, tied ones each time; the total
            counts each once.

    Returns:
        A rich table; names fold on a narrow terminal and are never cut.

    Raises:
        Nothing.

    Example:
        >>> from rich.console import Console
        >>> from topograph.topology import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x", shape=("N", 4))
        >>> console = Console(width=80)
        >>> with console.capture() as captured:
        ...     console.print(topology_table(Topology(name="Net", nodes=(x,))))
        >>> "[N, 4]" in captured.get()
        True

    References:
        https://rich.readthedocs.io/en/stable/tables.html
    """
    counts = {p.path: p.count for p in topology.parameters if not p.buffer}
    table = new_table(f"{topology.name}  {topology.fingerprint[:12]}", footer=True)
    _column(table, "node", footer=f"{len(topology.nodes)} nodes")
    _column(table, "operation")
    _column(table, "detail")
    _column(table, "shape")
    _column(table, "axes")
    _column(table, "parameters", right=True, footer=f"{topology.parameter_count:,}")
    _column(table, "FLOPs", right=True, footer=f"{topology.flops:,}")
    for node in topology.nodes:
        used = sum(counts.get(path, 0) for path in node.parameters)
        row = (
            node.name,
            f"{node.op} (opaque)" if node.opaque else node.op,
            node.detail,
            words.shape(node),
            words.axes(node),
            f"{used:,}" if used else "",
            f"{node.flops:,}" if node.flops else "",
        )
        table.add_row(*map(plain, row))
    table.caption = Text(
        "axes: b batch, c channel, t tokens, s space, ? unknown", style="dim", justify="left"
    )
    return table


def tree_table(topology: Topology, *, depth: int | None = None, every: bool = False) -> Table:
    """Return the submodules of a model, below each the calls that it makes, with sums.

    Neighbours that are alike, such as ``layers.0 … layers.11``, are one row with the sums of all,
    and the calls of the first stand below it. A reason why a part is opaque stands below the part.

    Args:
        topology: The network. Parameters are counted in elements, each once in every row, FLOPs
            per sample with two per multiply-add.
        depth: How many levels to show; a deeper submodule is one row. None for all.
        every: Whether to show every block where several are alike.

    Returns:
        A rich table; names fold on a narrow terminal.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> relu = Node(name="relu", kind="function", op="relu", target="relu", scope="body.act")
        >>> tree_table(Topology(name="Net", nodes=(relu,))).row_count
        3

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module
    """
    root = module_tree(topology, fold=not every)
    table = new_table(f"{topology.name}  {topology.fingerprint[:12]}", footer=True)
    _column(table, "submodule and call", footer=f"{len(topology.nodes)} nodes")
    _column(table, "operation")
    _column(table, "shape")
    _column(table, "axes")
    _column(table, "parameters", right=True, footer=f"{topology.parameter_count:,}")
    _column(table, "FLOPs", right=True, footer=f"{topology.flops:,}")
    _column(table, "edges", right=True, footer=f"{len(root.candidates):,}")
    for level, row in lines(root, depth):
        node = row.node
        name = short_name(node) if node else row.path
        cells = (
            row.what,
            words.shape(node) if node else "",
            words.axes(node) if node else "",
            *(f"{size:,}" if size else "" for size in (row.parameters, row.flops)),
            f"{len(row.candidates):,}" if row.candidates else "",
        )
        opaque = row.first.node is not None and row.first.node.opaque is not None
        style = "yellow" if opaque else "" if node else "bold"
        table.add_row(_indented(name, level), *map(plain, cells), style=style)
        for reason in row.reasons if opaque else ():
            table.add_row(_indented(f"opaque: {reason}", level + 1), style=style)
    table.caption = Text(
        "axes: b batch, c channel, t tokens, s space, ? unknown; edges: those that can take an "
        "inserted layer; … in a name: the path above it; n ×: n blocks are alike, the first below",
        style="dim",
        justify="left",
    )
    return table


def ranking_table(growth: Growth) -> Group:
    """Return "why this edge": every candidate of a growth, best first, and what came of it.

    Args:
        growth: One growth. A score of order 2 is the decrease of the loss per squared step, of
            order 1 per step; a predicted change is in units of the loss, negative is better.

    Returns:
        A table in which the chosen candidates carry a ``*``, and below it the step, the predicted
        and the measured change of the loss.

    Raises:
        Nothing.

    Example:
        >>> from rich.console import Console
        >>> from topograph.spec import Growth
        >>> growth = Growth(reason="by hand", step=0.5, loss_before=1.0, loss_after=0.75,
        ...                 predicted=-0.2, ranking=(), seconds=1.0)
        >>> console = Console(width=80)
        >>> with console.capture() as captured:
        ...     console.print(ranking_table(growth))
        >>> "measured -0.25" in captured.get()
        True

    References:
        Krishnanunni, Bui-Thanh, Dawson, https://arxiv.org/abs/2502.06885.
    """
    table = new_table("why this edge", "", "candidate")
    for name in ("score", "predicted", "parameters", "FLOPs"):
        _column(table, name, right=True)
    raced = any(candidate.raced is not None for candidate in growth.ranking)
    if raced:
        _column(table, "loss after the race", right=True)
    mixed = len({candidate.order for candidate in growth.ranking}) > 1
    for candidate in words.best_first(growth.ranking):
        row: tuple[str, ...] = (
            "*" if candidate.chosen else "",
            f"{words.place(candidate.mutation)}: {words.material(candidate.mutation)}",
            words.score(candidate.value, candidate.error) + ORDER[candidate.order] * mixed,
            words.change(candidate.predicted),
            f"{candidate.parameters:+,}",
            f"{candidate.flops:+,}",
        )
        if raced:
            row += ("" if candidate.raced is None else f"{candidate.raced:.4g}",)
        table.add_row(*map(plain, row), style="bold green" if candidate.chosen else None)
    moved = f"predicted {words.change(growth.predicted)}, measured {words.change(growth.measured)}"
    lines = [
        f"reason: {words.visible(growth.reason)}",
        f"step {growth.step:.4g}; change of the probe loss: {moved}"
        if growth.step
        else "step 0: the new layers start without a change of the loss",
        f"loss {growth.loss_before:.6g} -> {growth.loss_after:.6g}, {growth.seconds:.2f} s",
    ]
    return Group(table, Text("\n".join(lines), overflow="fold"))


def diff_text(diff: TopologyDiff) -> Text:
    """Return the lines of a difference, green where added, red where removed, and so on.

    Args:
        diff: What is different; sizes in parameters and FLOPs per sample.

    Returns:
        A rich text with the same words as ``str(diff)``.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Topology, diff
        >>> net = Topology(name="Net")
        >>> diff_text(diff(net, net)).plain
        'no changes'

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan
    """
    lines = [Text(line, style=STYLE[mark]) for mark, line in words.diff_lines(diff)]
    text = Text("\n").join(lines)
    text.overflow = "fold"
    return text


def history_table(history: History) -> Table:
    """Return the journal as a table, oldest entry first.

    Args:
        history: The run. Changes of size are in parameters; ``loss`` is the measured change
            of the probe loss at a growth.

    Returns:
        A rich table with one row per entry.

    Raises:
        Nothing.

    Example:
        >>> from topograph.spec import History
        >>> history_table(History(model="pkg.mod:make_model")).row_count
        0

    References:
        https://rich.readthedocs.io/en/stable/tables.html
    """
    table = new_table(history.model)
    _column(table, "#", right=True)
    for name in ("created (UTC)", "kind", "topology", "change"):
        _column(table, name)
    for name in ("parameters", "loss"):
        _column(table, name, right=True)
    for entry in history.entries:
        row = (
            str(entry.number),
            entry.created.replace("T", " ").removesuffix("Z").removesuffix("+00:00"),
            entry.kind,
            entry.topology_sha256[:12],
            words.changes(entry),
            f"{entry.plan.diff.parameters:+,}" if entry.plan else "",
            words.change(entry.growth.measured) if entry.growth else "",
        )
        table.add_row(*map(plain, row))
    return table


def new_table(title: str, *columns: str, footer: bool = False) -> Table:
    """Return an empty table in the style of all reports, with columns of words."""
    table = Table(
        title=plain(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_footer=footer,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        _column(table, name)
    return table


def _column(table: Table, name: str, *, right: bool = False, footer: str = "") -> None:
    table.add_column(
        Text(name),
        footer=Text(footer),
        justify="right" if right else "left",
        overflow="fold",
        no_wrap=right,  # a folded number reads as another number
    )


def _indented(text: str, level: int) -> Padding:
    return Padding(plain(text), (0, 0, 0, 2 * level))  # also the lines after a fold


def plain(text: str) -> Text:
    """Return a text in which rich reads no markup and no control codes."""
    return Text(words.visible(text), overflow="fold")
