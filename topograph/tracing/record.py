"""The recording tracer: run the model once and write down what it calls.

A `TorchFunctionMode` sees every torch function; a leaf module's call becomes one ``call_module``
node, a torch function one ``call_function`` or ``call_method`` node. Sizes are numbers that carry
their node, so Python's control flow sees values while the batch stays symbolic in the graph. A
submodule that does something that cannot be written down raises `Unrecordable` with its path.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from topograph.tracing.flops import Flops
from topograph.tracing.frames import Frame
from topograph.tracing.functions import (
    CHECKED_READS,
    DERIVED,
    OPERATORS,
    UNSEEN,
    VALUE_READS,
    reflected,
    writes,
)  # fmt: skip
from topograph.tracing.inputs import Inputs
from topograph.tracing.leaves import is_leaf, paths_by_module
from topograph.tracing.ledger import Cannot, Ledger, Unrecordable
from topograph.tracing.patches import counted, patched
from topograph.tracing.preserve import dice
from topograph.tracing.seen import Result, look, storages
from topograph.tracing.sizes import Size, erase_unread, remember
from topograph.tracing.structure import AS_IT_IS, anew, has_tensors, take_apart, tensors_in

set_grad_enabled = torch._C._set_grad_enabled


class Recorder(TorchFunctionMode):
    """One recording of one call of a model.

    Args:
        model: What is called.
        closed: Paths of submodules that stay one node, with reasons.
        opened: Paths of layers that are opened although they are torch's own.
        pretend: Say to the model that a compiler looks on, so that checks of values are left out.
        insist: Write value reads of the model's own forward down as checks.

    Attributes:
        ledger: What has been written down so far.
        frames: For each submodule, its calls.
        output: What the model returned, in plain tuples, lists and dicts, and its `Mould`.
        notes: What a user should know about this recording.
        counted: Whether the model changed a number that it keeps.
    """

    def __init__(
        self,
        model: nn.Module,
        closed: Mapping[str, str],
        opened: frozenset[str],
        *,
        pretend: bool = False,
        insist: bool = False,
    ) -> None:
        super().__init__()
        self.ledger = Ledger(model)
        self.frames: dict[str, list[Frame]] = {}
        self.notes: list[str] = []
        self.output: Any = None
        self.mould = AS_IT_IS
        self.counted = False
        self._dice = dice()
        self._model, self._closed, self._opened = model, closed, opened
        self._pretend, self._insist = pretend, insist
        self._paths = paths_by_module(model)
        self._flops = Flops()

    @property
    def active(self) -> bool:
        """Whether calls are written down; they are not inside a leaf."""
        return self.ledger.active

    @property
    def drew(self) -> bool:
        """Whether the model's open parts drew numbers from Python's or NumPy's generator."""
        return dice() != self._dice

    def run(self, arguments: Inputs) -> None:
        """Record one call."""
        given = arguments.copied()
        self.ledger.placeholders(given)
        with patched(self, self._pretend), torch.enable_grad():
            self.ledger.active = True
            try:
                with self._flops, self:
                    self.output, self.mould = take_apart(self._model(*given.args, **given.kwargs))
                result = self.ledger.argument(self.output)
            except Cannot as error:
                raise Unrecordable("", str(error)) from None
            finally:
                self.ledger.active = False
        self.ledger.graph.output(result)
        self.ledger.results["output"] = Result(look(self.output), frozenset(), 0)
        erase_unread(self.ledger.graph)

    # What Python and torch tell

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name in ("__get__", "__set__", "__delete__"):
            return self._attribute(function, name, args, kwargs)
        if name == "_enter_autocast":
            raise Cannot("runs under torch.autocast, which no graph can hold")
        if name in UNSEEN or function is set_grad_enabled:
            return function(*args, **kwargs)
        if name in VALUE_READS:
            return self._value(function, name, args, kwargs)
        if function is torch.Tensor.size:
            return self._size(args[0], function(*args, **kwargs), *args[1:], **kwargs)
        if function in (torch.Tensor.numel, torch.numel, torch.Tensor.nelement):
            node = self.ledger.nodes.get(id(args[0]))
            total = function(*args)
            return (
                total
                if node is None
                else remember(total, self.ledger, "call_method", "numel", (node,))
            )
        if name == "__len__":
            return function(*args)
        if name == "__iter__":
            return iter(self.__torch_function__(torch.unbind, types, (args[0],), {}))
        return self._call(function, name, args, kwargs)

    def module_call(
        self, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        """Write down a leaf's call as one node, or open the module."""
        path = self._paths.get(id(module))
        if path is None:
            return call(module, *args, **kwargs)
        if path and (path in self._closed or (is_leaf(module) and path not in self._opened)):
            return self._leaf(call, module, path, args, kwargs)
        given, held = (self.ledger.nest(args), self.ledger.nest(kwargs)), dict(module._buffers)
        self.ledger.open.append(path)
        try:
            with counted(module, self):
                output = call(module, *args, **kwargs)
            plain, mould = take_apart(output)
            self.ledger.argument(plain)  # an unknown tensor is its doing, not its caller's
            if any(module._buffers.get(name) is not buffer for name, buffer in held.items()):
                raise Cannot("puts a new tensor in the place of a buffer")
        except Unrecordable:
            raise
        except Cannot as error:
            raise Unrecordable(path, str(error)) from error
        except Exception as error:
            raise Unrecordable(path, f"{type(error).__name__}: {error}", own=True) from error
        finally:
            self.ledger.open.pop()
        self.frames.setdefault(path, []).append(Frame(*given, self.ledger.nest(plain), mould))
        return output

    def refuse(self, reason: str) -> Any:
        """Raise what makes the innermost open module a leaf."""
        raise Cannot(reason)

    def counted_up_to(self, bounds: tuple[Any, ...]) -> None:
        """Close a module that loops over a size; what cannot be closed checks the size."""
        path = self.ledger.where
        if path and path not in self._opened:
            self.refuse("counts up to a size, so that another size has other steps")
        for bound in bounds:
            if isinstance(bound, Size):
                self._check(bound.node, int(bound), "counts up to a size")

    # Calls

    def _call(self, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        read = [*tensors_in(args), *tensors_in(kwargs)]
        versions = [tensor._version for tensor in read]
        counted_before = self._flops.total
        self.ledger.active = False  # what torch does inside is its own affair
        try:
            output = function(*args, **kwargs)
        finally:
            self.ledger.active = True
        if not has_tensors(output) and (output is not None or not read):
            return output  # a question about types or devices, or an assertion on sizes
        arguments, named = self.ledger.argument(args), self.ledger.argument(kwargs)
        if (
            isinstance(named.get("device"), torch.device | str)
            and self.ledger.first_input is not None
        ):
            named["device"] = self.ledger.emit(
                "call_function", getattr, (self.ledger.first_input, "device"), {}
            )
        if function in OPERATORS:
            node = self.ledger.emit("call_function", OPERATORS[function], arguments, named)
        elif (python := reflected(name)) is not None:
            node = self.ledger.emit("call_function", python, (arguments[1], arguments[0]), named)
        elif getattr(torch.Tensor, name, None) is function:
            node = self.ledger.emit("call_method", name, arguments, named)
        else:
            node = self.ledger.emit("call_function", function, arguments, named)
        if not writes(name, kwargs):
            output = anew(output, (args, kwargs))
        moved = [t for t, old in zip(read, versions, strict=True) if t._version != old]
        return self._made(output, node, counted_before, moved)

    def _leaf(self, call: Any, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        read = [*tensors_in(args), *tensors_in(kwargs)]
        versions = [tensor._version for tensor in read]
        arguments, named = self.ledger.argument(args), self.ledger.argument(kwargs)
        node = self.ledger.emit("call_module", path, arguments, named)
        counted_before = self._flops.total
        before = dice() if path in self._closed else None
        self.ledger.active = False
        try:
            output = anew(call(module, *args, **kwargs), (args, kwargs))
        except Exception as error:
            raise Unrecordable(path, f"{type(error).__name__}: {error}", own=True) from error
        finally:
            self.ledger.active = True
        if before == self._dice:
            self._dice = dice()  # what a closed part draws, it draws anew on every call
        moved = [t for t, old in zip(read, versions, strict=True) if t._version != old]
        return self._made(output, node, counted_before, moved)

    def _made(self, output: Any, node: fx.Node, counted: int, moved: list[torch.Tensor]) -> Any:
        """Remember what a call gave, wrote to and cost."""
        cost = self._flops.total - counted
        bound = self.ledger.bind(output, node, cost, storages(moved))
        return bound if torch.is_grad_enabled() else self._cut(bound)

    def _cut(self, output: Any) -> Any:
        """Write down that the model computed this under ``torch.no_grad``."""

        def detached(tensor: torch.Tensor) -> torch.Tensor:
            node = self.ledger.emit("call_method", "detach", (self.ledger.nodes[id(tensor)],), {})
            bound: torch.Tensor = self.ledger.bind(tensor.detach(), node)
            return bound

        return pytree.tree_map_only(torch.Tensor, detached, output)

    def _attribute(self, function: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        if name != "__get__":
            if attribute == "data":
                raise Cannot("assigns to Tensor.data")
            return function(*args, **kwargs)
        value = function(*args, **kwargs)
        if attribute == "shape":
            return self._size(args[0], value)
        if attribute in DERIVED:
            node = self.ledger.emit(
                "call_function", getattr, (self.ledger.argument(args[0]), attribute), {}
            )
            return self.ledger.bind(value, node)
        if attribute == "data":
            node = self.ledger.emit("call_method", "detach", (self.ledger.argument(args[0]),), {})
            return self.ledger.bind(value, node)
        return value

    def _size(self, tensor: Any, value: Any, dim: int | None = None) -> Any:
        node = self.ledger.nodes.get(id(tensor))
        if node is None:
            return value
        if dim is not None:
            return remember(value, self.ledger, "call_method", "size", (node, int(dim)))
        return torch.Size([self._size(tensor, size, axis) for axis, size in enumerate(value)])

    def _value(self, function: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Handle a read of numbers: those of constants are constants, others cannot be known."""
        nodes = [self.ledger.nodes.get(id(tensor)) for tensor in tensors_in(args)]
        value = function(*args, **kwargs)
        if nodes and all(node in self.ledger.constant for node in nodes):
            return value
        read = f"reads a tensor's value (Tensor.{name})"
        if not (self._insist and name in CHECKED_READS and self.ledger.where == ""):
            raise Cannot(read)
        self._check(self.ledger.argument(args[0]), value, read)
        return value

    def _check(self, node: fx.Node, value: Any, why: str) -> None:
        """Write down that a number must be what it is now."""
        same = self.ledger.emit("call_function", operator.eq, (node, value), {})
        message = f"traced where {node.name} is {value}, since the model {why}"
        self.ledger.emit("call_function", torch._assert, (same, message), {})
        self.notes.append(f"{message}; another value is an error")
