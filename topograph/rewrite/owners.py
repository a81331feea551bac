"""Attributes of modules that copy a width: ``num_heads``, ``hidden_dim``."""

import re

from torch import nn

from topograph.rewrite.draft import Draft
from topograph.tracing.leaves import is_leaf
from topograph.widths.dims import found, leaves
from topograph.widths.indices import Indices

Sizes = dict[int, set[int]]
HEADS = re.compile(r"^(num_|n_)?(\w+_)?heads?$")


def update_owners(draft: Draft, indices: Indices) -> None:
    """Give the attributes of modules around resized layers the new sizes, where that is certain.

    A number is one when it was the size of dimensions in this module's own forward that all have
    one other size now. The original modules keep theirs.
    """
    for path, sizes in _sizes(draft, indices).items():
        module = draft.base.module.get_submodule(path) if path else draft.tree
        if is_leaf(module):
            continue
        for name, value in _numbers(module):
            new = sizes.get(value, {value})
            if HEADS.search(name):  # three heads are not the three of q, k and v
                new = new - {value} or new
            if len(new) == 1 and value not in new:
                draft.own(path).__dict__[name] = next(iter(new))


def _numbers(module: nn.Module) -> list[tuple[str, int]]:
    return [(n, v) for n, v in vars(module).items() if type(v) is int and v > 1]


def _sizes(draft: Draft, indices: Indices) -> dict[str, Sizes]:
    """Return, for each module whose forward sees a change, what its sizes have become."""
    flow = draft.widths.flow
    seen: dict[str, Sizes] = {}
    for node in flow.traced.module.graph.nodes:
        near = [flow.dims(n) for n in (node, *node.all_input_nodes)]
        sizes = seen.setdefault(draft.scopes.get(node.name, ""), {})
        for dim in [d for dims in near for d in dims or ()]:
            for part in (dim, *leaves(dim)):
                sizes.setdefault(found(part).size, set()).add(indices.size(part))
    changed: dict[str, Sizes] = {}
    for path, sizes in seen.items():
        if any(len(new) > 1 or old not in new for old, new in sizes.items()):
            changed[path] = sizes
    return changed
