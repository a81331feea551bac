"""What carries out the kinds of other distributions: their functions, watched.

An error of a plugin becomes one message that names its distribution, and so does a result of
another type than asked for. What a plugin writes into a graph passes the guard as all else does.
"""

import re
from collections.abc import Callable
from functools import cache, wraps
from types import NoneType
from typing import Any

from torch import nn

from topograph.errors import SpecError, TopographError
from topograph.spec import Refusal, extensions
from topograph.topology import Record

Functions = dict[str, Callable[..., Any]]
MUTATION: dict[str, tuple[type, ...]] = {
    "resolve": (tuple,),
    "check": (Refusal, NoneType),
    "rewrite": (nn.Module, NoneType),
    "stem": (str, NoneType),
    "preserves": (bool,),
    "ends": (tuple,),
}
BLOCK: dict[str, tuple[type, ...]] = {"fits": (Refusal, NoneType), "layers": (nn.ModuleDict,)}
STEM = re.compile(r"[a-z][a-z0-9_]{0,199}")


def mutation_functions(record: type) -> Functions | None:
    """Return the functions that carry out a plugin's mutation; None if it is no plugin's.

    Raises:
        SpecError: The plugin cannot be loaded, or lacks a function.
    """
    return _functions(record, extensions.MUTATIONS, extensions.REWRITES, MUTATION)


@cache
def block_functions(record: type) -> Functions | None:
    """Return the functions that build a plugin's block; None if it is no plugin's.

    They are ``fits(block, node)``, which returns a `Refusal` or None, and ``layers(block, node,
    like, seed)``, which returns a ``ModuleDict`` whose layers are called one after the other; what
    they return is added to the value, so the last of them starts at 0.

    Raises:
        SpecError: The plugin cannot be loaded, or lacks a function.
    """
    return _functions(record, extensions.BLOCKS, extensions.BUILDERS, BLOCK)


def _functions(
    record: type, records: str, homes: str, returns: dict[str, tuple[type, ...]]
) -> Functions | None:
    field = record.model_fields.get("kind") if issubclass(record, Record) else None
    kind = field.default if field is not None else None
    if kind not in extensions.names(records) or extensions.record(records, kind) is not record:
        return None
    found = extensions.functions(homes, kind, tuple(returns))
    who = f"{kind!r} of {extensions.owners(homes, kind)}"
    return {name: _watched(who, found[name], returns[name]) for name in returns}


def _watched(
    who: str, function: Callable[..., Any], returns: tuple[type, ...]
) -> Callable[..., Any]:
    name = getattr(function, "__name__", "function")

    @wraps(function)
    def watched(*args: Any) -> Any:
        try:
            value = function(*args)
        except TopographError:
            raise
        except Exception as error:
            raise SpecError(
                f"{who}: its {name} fails with {type(error).__name__}: {error}; mend the plugin"
            ) from error
        if not isinstance(value, returns) or (isinstance(value, str) and not STEM.fullmatch(value)):
            expected = " or ".join(
                "None" if kind is NoneType else kind.__name__ for kind in returns
            )
            raise SpecError(
                f"{who}: its {name} returns {value!r}, expected {expected}; mend the plugin"
            )
        return value

    return watched
