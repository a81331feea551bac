"""One graph for both modes: merge what was traced in train with what was traced in eval.

A constant that differs between the two, such as the flag in ``F.dropout(x, p, self.training)``,
is read from the owning module's ``training`` attribute when the graph runs. A module whose
operations differ is reported, so that it can become an opaque leaf.
"""

import operator
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

Owners = Mapping[str, str]


def differing_owners(
    train: fx.Graph, train_owners: Owners, evaluation: fx.Graph, evaluation_owners: Owners
) -> list[str]:
    """Return the innermost module paths whose operations differ between the two graphs."""
    first, second = (
        _calls_by_owner(train, train_owners),
        _calls_by_owner(evaluation, evaluation_owners),
    )
    differing = [
        path for path in first.keys() | second.keys() if first.get(path) != second.get(path)
    ]
    return sorted(
        path
        for path in differing
        if not any(other != path and other.startswith(f"{path}.") for other in differing if path)
        and not (path == "" and len(differing) > 1)
    )


def merge_modes(train: fx.Graph, evaluation: fx.Graph, owners: dict[str, str]) -> list[str]:
    """Make the graph traced in train right in eval too; return the owners where that fails.

    Both graphs must have the same calls in the same order, as `differing_owners` found.
    """
    ours_of = dict(zip(evaluation.nodes, train.nodes, strict=True))
    failed = []
    for twin, node in ours_of.items():
        ours, layout = _flatten((node.args, node.kwargs))
        read = map_arg((twin.args, twin.kwargs), ours_of.__getitem__)
        theirs, other_layout = _flatten(read)
        owner = owners.get(node.name, "")
        if layout != other_layout:
            failed.append(owner)
            continue
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if _same(mine, other):
                continue
            if _reads(mine) or _reads(other) or type(mine) is not type(other):
                failed.append(owner)
            else:
                ours[index] = _by_mode(train, node, owner, mine, other)
        node.args, node.kwargs = pytree.tree_unflatten(ours, layout)
    return sorted(set(failed))


def _reads(value: Any) -> bool:
    """Return whether an argument is a node, or a slice between nodes."""
    parts = (value.start, value.stop, value.step) if isinstance(value, slice) else (value,)
    return any(isinstance(part, fx.Node) for part in parts)


def _by_mode(graph: fx.Graph, node: fx.Node, owner: str, train: Any, evaluation: Any) -> fx.Node:
    """Return a node whose value is one constant in train and another in eval."""
    path = f"{owner}.training" if owner else "training"
    with graph.inserting_before(node):
        flag = graph.create_node("get_attr", path, name=path.replace(".", "_"))
        if train is True and evaluation is False:
            return flag
        return graph.call_function(operator.getitem, ((evaluation, train), flag))


def _calls_by_owner(graph: fx.Graph, owners: Owners) -> dict[str, list[tuple[str, str]]]:
    calls: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for node in graph.nodes:
        calls[owners.get(node.name, "")].append((node.op, str(node.target)))
    return dict(calls)


def _flatten(value: Any) -> tuple[list[Any], Any]:
    return pytree.tree_flatten(value, is_leaf=lambda part: isinstance(part, fx.Node | slice))


def _same(first: Any, second: Any) -> bool:
    return first == second or (first != first and second != second)  # NaN is the same as NaN
