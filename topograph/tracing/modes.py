"""One graph for both modes: merge what was recorded in train with what was recorded in eval.

A constant that differs between the two, such as the flag in ``F.dropout(x, p, self.training)``,
is read from the owning module's ``training`` attribute when the graph runs. The two recordings have
different batch sizes, so a number may differ for that reason: a third recording tells. A module
whose operations differ is reported, so that it can become an opaque leaf.
"""

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx
from torch.fx.node import map_aggregate, map_arg


class Recorded(Protocol):
    """A recording: a graph, and which module made each call."""

    graph: fx.Graph
    owners: dict[str, str]
    first_input: fx.Node | None


@dataclass(frozen=True)
class Merge:
    """Two recordings of the same calls in the same order.

    Attributes:
        train: In train; this graph becomes the one for both.
        evaluation: In eval.
        batch: Rows in eval; one more in train, unless the batch is fixed.
        fixed: Whether both have the same rows.
    """

    train: Recorded
    evaluation: Recorded
    batch: int
    fixed: bool


def differing_owners(train: Recorded, evaluation: Recorded) -> list[str]:
    """Return the innermost module paths whose operations differ between the two recordings."""
    first, second = _calls_by_owner(train), _calls_by_owner(evaluation)
    differing = [
        path for path in first.keys() | second.keys() if first.get(path) != second.get(path)
    ]
    return sorted(
        path
        for path in differing
        if not any(other != path and other.startswith(f"{path}.") for other in differing if path)
        and not (path == "" and len(differing) > 1)
    )


def merge_modes(merge: Merge, again: Callable[[], Recorded]) -> list[str]:
    """Make the graph recorded in train right in eval too; return the owners where that fails.

    Args:
        merge: Both recordings, with the same calls in the same order.
        again: Records once more in train, with the rows of eval: asked for only where a whole
            number differs, which the batch or the mode may explain.
    """
    graph, owners = merge.train.graph, merge.train.owners
    ours_of = dict(zip(merge.evaluation.graph.nodes, graph.nodes, strict=True))
    same_rows: list[fx.Node] | None = None
    failed = []
    for index, (twin, node) in enumerate(ours_of.items()):
        read = map_arg((twin.args, twin.kwargs), ours_of.__getitem__)
        if read == (node.args, node.kwargs):
            continue
        ours, layout = _flatten((node.args, node.kwargs))
        theirs, other_layout = _flatten(read)
        owner = owners.get(node.name, "")
        if layout != other_layout:
            failed.append(owner)
            continue
        changed = False
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if _same(mine, other):
                continue
            if (
                isinstance(mine, fx.Node)
                or isinstance(other, fx.Node)
                or type(mine) is not type(other)
            ):
                failed.append(owner)
                continue
            if type(mine) is int and not merge.fixed:
                if same_rows is None:
                    same_rows = list(again().graph.nodes)
                    if len(same_rows) != len(ours_of):
                        return [owner]
                leaves, _ = _flatten((same_rows[index].args, same_rows[index].kwargs))
                if leaves[place] == other:  # the rows, not the mode
                    ours[place] = _by_rows(merge.train, merge.batch, other, mine)
                    changed = True
                    continue
            ours[place] = _by_mode(merge, node, owner, mine, other)
            changed = True
        if changed:
            node.args, node.kwargs = _with_leaves((node.args, node.kwargs), ours)
    return sorted(set(failed))


def _by_rows(recorded: Recorded, batch: int, small: int, large: int) -> fx.Node:
    """Return a node for a number that grows with the batch: ``slope * rows + rest``."""
    slope, rest = large - small, small - (large - small) * batch
    graph, source = recorded.graph, recorded.first_input
    assert source is not None  # there are no rows without it
    with graph.inserting_after(source):
        number = graph.call_method("size", (source, 0))
    for function, constant, neutral in ((operator.mul, slope, 1), (operator.add, rest, 0)):
        if constant != neutral:
            with graph.inserting_after(number):
                number = graph.call_function(function, (number, constant))
    return number


def _by_mode(merge: Merge, node: fx.Node, owner: str, train: Any, evaluation: Any) -> fx.Node:
    """Return a node whose value is one constant in train and another in eval."""
    path = f"{owner}.training" if owner else "training"
    graph = merge.train.graph
    with graph.inserting_before(node):
        flag = graph.create_node("get_attr", path, name=path.replace(".", "_"))
        merge.train.owners[flag.name] = owner
        if train is True and evaluation is False:
            return flag
        chosen = graph.call_function(operator.getitem, ((evaluation, train), flag))
        merge.train.owners[chosen.name] = owner
        return chosen


def _calls_by_owner(recorded: Recorded) -> dict[str, list[tuple[str, str]]]:
    calls: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for node in recorded.graph.nodes:
        calls[recorded.owners.get(node.name, "")].append((node.op, str(node.target)))
    return dict(calls)


def _flatten(value: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested arguments, slices among them, and their layout."""
    leaves: list[Any] = []
    layout = map_aggregate(value, leaves.append)  # every leaf becomes None
    return leaves, layout


def _with_leaves(value: Any, leaves: list[Any]) -> Any:
    rest = iter(leaves)
    return map_aggregate(value, lambda _: next(rest))


def _same(first: Any, second: Any) -> bool:
    return first == second or (first != first and second != second)  # NaN is the same as NaN
