"""The one table that says which file carries out which kind of mutation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from torch import nn

from topograph.errors import SelectorError
from topograph.rewrite import (
    add_adapter,
    add_branch,
    disconnect,
    freeze,
    insert_layer,
    narrow_layer,
    remove_layer,
    replace_layer,
    rewire,
    untie,
    widen_layer,
)
from topograph.rewrite.draft import Draft
from topograph.rewrite.plugins import mutation_functions
from topograph.spec import (
    AddAdapter,
    AddBranch,
    AnyMutation,
    Disconnect,
    Freeze,
    InsertLayer,
    NarrowLayer,
    Refusal,
    RemoveLayer,
    ReplaceLayer,
    Rewire,
    Unfreeze,
    Untie,
    WidenLayer,
)
from topograph.topology import Topology


@dataclass(frozen=True)
class Rule:
    """How one kind of mutation is carried out.

    Attributes:
        resolve: From a request to the same request at single places.
        check: Why it cannot be done at its place, or None.
        rewrite: Does it on a draft; returns the new module, if any.
        stem: What the new module's name starts with, or None.
        preserves: Whether a mutation keeps the function, apart from a start.
        ends: The nodes between which it changes something.
    """

    resolve: Callable[[Any, Topology], tuple[Any, ...]]
    check: Callable[[Draft, Any], Refusal | None]
    rewrite: Callable[[Draft, Any, Any, int], nn.Module | None]
    stem: Callable[[Any], str | None]
    preserves: Callable[[Any], bool]
    ends: Callable[[Any], tuple[str, ...]]


def _rule(home: ModuleType) -> Rule:
    return Rule(home.resolve, home.check, home.rewrite, home.stem, home.preserves, home.ends)


RULES: dict[type, Rule] = {
    InsertLayer: _rule(insert_layer),
    RemoveLayer: _rule(remove_layer),
    AddBranch: _rule(add_branch),
    ReplaceLayer: _rule(replace_layer),
    Rewire: _rule(rewire),
    Disconnect: _rule(disconnect),
    Freeze: _rule(freeze),
    Unfreeze: _rule(freeze),
    Untie: _rule(untie),
    AddAdapter: _rule(add_adapter),
    WidenLayer: _rule(widen_layer),
    NarrowLayer: _rule(narrow_layer),
}


def rule_for(mutation: AnyMutation) -> Rule:
    """Return how a mutation is carried out.

    Raises:
        SelectorError: It is no mutation.
        SpecError: A plugin defines it and cannot carry it out; names its distribution.
    """
    rule = RULES.get(type(mutation)) or _added(type(mutation))
    if rule is None:
        kinds = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise SelectorError(
            f"{type(mutation).__name__} is no mutation; give a list of mutations ({kinds})"
        )
    return rule


@cache
def _added(record: type) -> Rule | None:
    """Return how an installed plugin carries out its record; None if it is no plugin's."""
    found = mutation_functions(record)
    return None if found is None else Rule(**found)
