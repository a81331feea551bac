"""What is put in place of Python's and torch's own calls while a model is recorded.

Every replacement asks which thread calls it: other threads, and modules that are not recorded,
get what they would get otherwise.
"""

import builtins
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import CodeType, FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch import nn

from topograph.tracing.sizes import Number, Real, Size, remember

ONE_AT_A_TIME = threading.RLock()  # replacements are taken back in the order they were made


class Recording(Protocol):
    """What the replacements tell."""

    @property
    def active(self) -> bool:
        """Whether calls are written down."""

    def module_call(
        self, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        """Handle one call of a module."""

    def refuse(self, reason: str) -> Any:
        """Raise what says that something cannot be written down."""

    def counted_up_to(self, bounds: tuple[Any, ...]) -> None:
        """Handle a loop over a size."""


@contextmanager
def patched(recording: Recording, compiling: bool) -> Iterator[None]:
    """Tell a recording about the calls of modules and autograd functions in this thread.

    Args:
        recording: Who is told.
        compiling: Whether ``torch.compiler.is_compiling()`` is true for the model: libraries then
            leave out checks that read values.
    """
    with ONE_AT_A_TIME, _replaced(recording, compiling):  # in this order: it looks up what is there
        yield


@contextmanager
def _replaced(recording: Recording, compiling: bool) -> Iterator[None]:
    thread = threading.get_ident()
    call, apply = nn.Module.__call__, torch.autograd.Function.__dict__["apply"]
    is_compiling = torch.compiler.is_compiling

    def ours() -> bool:
        return recording.active and threading.get_ident() == thread

    def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if ours():
            return recording.module_call(call, module, args, kwargs)
        return call(module, *args, **kwargs)

    def apply_function(function: Any, *args: Any, **kwargs: Any) -> Any:
        if ours():
            recording.refuse(f"calls {function.__name__}, whose own backward no graph can hold")
        return apply.__get__(None, function)(*args, **kwargs)

    with ExitStack() as undo:
        for owner, name, new, old in (
            (nn.Module, "__call__", call_module, call),
            (torch.autograd.Function, "apply", classmethod(apply_function), apply),
            (torch.compiler, "is_compiling", lambda: ours() or is_compiling(), is_compiling),
        ):
            if name != "is_compiling" or compiling:
                setattr(owner, name, new)
                undo.callback(setattr, owner, name, old)
        yield


@contextmanager
def counted(module: nn.Module, recording: Recording) -> Iterator[None]:
    """Let a module's forward compute with sizes through ``int``, ``range`` and ``math``.

    Python's ``int(size / 2)`` gives a plain number. A forward that uses these names runs as a copy
    whose globals hold versions of them that remember; the module's own function is not touched.
    """
    forward = type(module).forward
    names = _names(forward.__code__) if type(forward) is FunctionType else frozenset()
    shadows = _shadows(recording)
    wanted = {
        name: shadow
        for name, shadow in shadows.items()
        if name in names and forward.__globals__.get(name, _BUILTIN[name]) is _BUILTIN[name]
    }
    if not wanted or "forward" in module.__dict__:
        yield
        return
    twin = FunctionType(
        forward.__code__,
        {**forward.__globals__, **wanted},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    twin.__kwdefaults__ = forward.__kwdefaults__
    module.__dict__["forward"] = MethodType(twin, module)
    try:
        yield
    finally:
        del module.__dict__["forward"]


_BUILTIN: dict[str, Any] = {"int": int, "range": range, "math": math}


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(code.co_names).union(*inner)


class _IntegerType(type):
    """Stands for ``int``: the same in every check of types, but it keeps what sizes remember."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, int)

    def __eq__(cls, other: Any) -> bool:
        return other is int or other is cls

    def __hash__(cls) -> int:
        return hash(int)

    def __call__(cls, *args: Any, **kwargs: Any) -> int:
        if len(args) == 1 and not kwargs:
            if isinstance(args[0], Size):
                return args[0]
            if isinstance(args[0], Real):
                whole: int = math.trunc(args[0])
                return whole
        return int(*args, **kwargs)


class _Integer(metaclass=_IntegerType):
    """See `_IntegerType`."""


class _Mathematics:
    """Stands for ``math``: roots of sizes stay sizes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(math, name)

    @staticmethod
    def sqrt(value: Any) -> float:
        root = math.sqrt(value)
        if not isinstance(value, Number):
            return root
        result: float = remember(root, value.source, "call_function", math.sqrt, (value,))
        return result


def _shadows(recording: Recording) -> dict[str, Any]:
    def counted_range(*bounds: Any) -> range:
        if any(isinstance(bound, Number) for bound in bounds) and recording.active:
            recording.counted_up_to(bounds)
        return builtins.range(*bounds)

    return {"int": _Integer, "range": counted_range, "math": _Mathematics()}
