"""The recording tracer: run the model once and write down what it calls.

A `TorchFunctionMode` sees every torch function; a leaf module's call becomes one ``call_module``
node, a torch function one ``call_function`` or ``call_method`` node. Sizes are integers that carry
their node, so Python's control flow sees values while the batch stays symbolic in the graph. A
submodule that does something that cannot be written down raises `Unrecordable` with its path.
"""

import inspect
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from topograph.tracing.inputs import named_inputs, own_inputs
from topograph.tracing.leaves import is_leaf, paths_by_module, paths_by_tensor
from topograph.tracing.sizes import Size, erase_unread_sizes, plain

ONE_AT_A_TIME = threading.RLock()  # nn.Module.__call__ is replaced while a model is recorded
CONSTANTS = (type(None), bool, int, float, str, complex, torch.dtype, torch.device, torch.layout)
CONSTANT_TYPES = (*CONSTANTS, torch.memory_format, type(Ellipsis))
VALUE_READS = set(
    ("item tolist numpy __bool__ __int__ __float__ __index__ __complex__ __array__ ").split()
)
UNSEEN = set(
    ["register_hook", "backward", "retain_grad", "requires_grad_", "__repr__", "__format__"]
)
DERIVED = {"T", "mT", "H", "mH", "real", "imag"}
REFLECTED = ["add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "mod"]
OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(torch.Tensor, f"__{name}__"): getattr(
        operator, name if name not in ("and", "or") else f"{name}_"
    )
    for name in (
        "add sub mul truediv floordiv mod pow matmul and or xor lt le gt ge eq ne neg "
        "invert getitem setitem iadd isub imul itruediv "
    ).split()
}


class Unrecordable(Exception):
    """A submodule does something that cannot be written down as a graph."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the model itself'}: {reason}")
        self.path, self.reason = path, reason


class _Cannot(Exception):
    """Raised where it happens; becomes `Unrecordable` at the innermost open module."""


class Recorder(TorchFunctionMode):
    """One recording of one call of a model.

    Attributes:
        graph: What has been written down so far.
        owners: For each node's name, the path of the module whose forward made the call.
    """

    def __init__(self, model: nn.Module, closed: Mapping[str, str], opened: frozenset[str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.owners: dict[str, str] = {}
        self.active = False
        self._model, self._closed, self._opened = model, closed, opened
        self._paths = paths_by_module(model)
        self._open: list[str] = [""]
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Any] = []  # an id is only an identity while its object lives
        self._state = paths_by_tensor(model)
        self._state_nodes: dict[str, fx.Node] = {}
        self._first_input: fx.Node | None = None

    def run(self, arguments: inspect.BoundArguments) -> fx.Graph:
        """Record one call and return the graph."""
        with ONE_AT_A_TIME, self._module_calls(), torch.no_grad():
            given = own_inputs(arguments)
            self._placeholders(given)
            self.active = True
            try:
                with self:
                    output = self._model(*given.args, **given.kwargs)
                result = self._argument(output)
            except _Cannot as error:
                raise Unrecordable("", str(error)) from None
            finally:
                self.active = False
        self.graph.output(result)
        erase_unread_sizes(self.graph)
        return self.graph

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name in ("__get__", "__set__", "__delete__"):
            return self._attribute(function, name, args, kwargs)
        if name in UNSEEN:
            return function(*args, **kwargs)
        if name in VALUE_READS:
            raise _Cannot(f"reads a tensor's value (Tensor.{name})")
        if function is torch.Tensor.size:
            return self._size(args[0], function(*args, **kwargs), *args[1:], **kwargs)
        if function in (torch.Tensor.numel, torch.numel, torch.Tensor.nelement):
            return Size(
                function(*args), self.graph.call_method("numel", self._argument(args)), self
            )
        if name == "__iter__":
            return iter(self.__torch_function__(torch.unbind, types, (args[0],), {}))
        return self._call(function, name, args, kwargs)

    def _call(self, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(
            *plain(args), **plain(kwargs)
        )  # not recorded: a mode is off in its own handler
        if output is not None and not _tensors(output):
            return output  # a question about types or devices, not a value
        arguments, named = self._argument(tuple(args)), self._argument(dict(kwargs))
        if isinstance(named.get("device"), torch.device | str) and self._first_input is not None:
            named["device"] = self._emit(
                "call_function", getattr, (self._first_input, "device"), {}
            )
        if function in OPERATORS:
            node = self._emit("call_function", OPERATORS[function], arguments, named)
        elif name.strip("_")[1:] in REFLECTED and name.startswith("__r"):
            swapped = (arguments[1], arguments[0])
            node = self._emit(
                "call_function", getattr(operator, name.strip("_")[1:]), swapped, named
            )
        elif getattr(torch.Tensor, name, None) is function:
            node = self._emit("call_method", name, arguments, named)
        else:
            node = self._emit("call_function", function, arguments, named)
        in_place = name.endswith("_") or name.startswith("__i") or kwargs.get("inplace", False)
        return self._bind(output if in_place else _anew(output, (args, kwargs)), node)

    def _attribute(self, function: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        if name != "__get__":
            if attribute == "data":
                raise _Cannot("assigns to Tensor.data")
            return function(*args, **kwargs)
        value = function(*args, **kwargs)
        if attribute == "shape":
            return self._size(args[0], value)
        if attribute in DERIVED:
            node = self._emit("call_function", getattr, (self._argument(args[0]), attribute), {})
            return self._bind(value, node)
        if attribute == "data":
            raise _Cannot("reads Tensor.data")
        return value

    def _size(self, tensor: Any, value: Any, dim: int | None = None) -> Any:
        node = self._nodes.get(id(tensor))
        if node is None:
            return value
        if dim is not None:
            return Size(value, self._emit("call_method", "size", (node, int(dim)), {}), self)
        return torch.Size([self._size(tensor, size, axis) for axis, size in enumerate(value)])

    def _placeholders(self, arguments: inspect.BoundArguments) -> None:
        """Give every input a placeholder; constants are defaults, and so is all behind them."""
        optional = False
        for name, value in named_inputs(arguments):
            if not _tensors(value):
                self.graph.placeholder(name, default_value=self._default(value))
                optional = True
                continue
            node = self.graph.placeholder(name, **({"default_value": None} if optional else {}))
            self._bind(value, node)
            if isinstance(value, torch.Tensor) and self._first_input is None:
                self._first_input = node

    def _default(self, value: Any) -> Any:
        try:
            return self._argument(value)
        except _Cannot:
            return None  # a value of a foreign type; it was read while recording

    def _emit(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs)
        self.owners[node.name] = self._open[-1]
        return node

    def _bind(self, value: Any, node: fx.Node) -> Any:
        """Remember which node made a value; parts of a tuple or dict are read by ``getitem``."""
        if isinstance(value, torch.Tensor):
            self._nodes[id(value)] = node
            self._alive.append(value)
        elif isinstance(value, tuple | list | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                if _tensors(item):
                    self._bind(item, self._emit("call_function", operator.getitem, (node, key), {}))
        return value

    def _argument(self, value: Any) -> Any:
        """Return what stands for a Python value in the graph."""
        if isinstance(value, Size):
            return value.node
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, slice):
            return slice(*map(self._argument, (value.start, value.stop, value.step)))
        if type(value) in (tuple, torch.Size):
            return tuple(map(self._argument, value))
        if type(value) is list:
            return list(map(self._argument, value))
        if type(value) is dict:
            return {key: self._argument(item) for key, item in value.items()}
        if type(value) in CONSTANT_TYPES:
            return value
        raise _Cannot(f"passes a {type(value).__name__}, which no graph can hold")

    def _tensor(self, value: torch.Tensor) -> fx.Node:
        node = self._nodes.get(id(value))
        if node is not None:
            return node
        path = self._state.get(id(value))
        if path is None:
            raise _Cannot("uses a tensor that no recorded call made (foreign code?)")
        if path not in self._state_nodes:
            self._state_nodes[path] = self._emit("get_attr", path, (), {})
        return self._state_nodes[path]

    @contextmanager
    def _module_calls(self) -> Iterator[None]:
        original, thread, recorder = nn.Module.__call__, threading.get_ident(), self
        apply = torch.autograd.Function.__dict__["apply"]

        def ours() -> bool:
            return recorder.active and threading.get_ident() == thread

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = recorder._paths.get(id(module))
            if not ours() or path is None:
                return original(module, *args, **kwargs)
            return recorder._module(original, module, path, args, kwargs)

        def apply_function(function: Any, *args: Any, **kwargs: Any) -> Any:
            if ours():
                raise _Cannot(f"calls {function.__name__}, whose own backward no graph can hold")
            return apply.__get__(None, function)(*args, **kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        torch.autograd.Function.apply = classmethod(apply_function)  # type: ignore[assignment]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]

    def _module(self, call: Any, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        closed = path in self._closed or (is_leaf(module) and path not in self._opened)
        if path and closed:
            node = self._emit("call_module", path, self._argument(args), self._argument(kwargs))
            self.active = False
            try:
                output = _anew(call(module, *plain(args), **plain(kwargs)), (args, kwargs))
            finally:
                self.active = True
            return self._bind(output, node)
        self._open.append(path)
        try:
            output = call(module, *args, **kwargs)
            self._argument(output)  # an unknown tensor is this module's doing, not its caller's
            return output
        except Unrecordable:
            raise
        except Exception as error:
            reason = (
                str(error) if isinstance(error, _Cannot) else f"{type(error).__name__}: {error}"
            )
            raise Unrecordable(path, reason) from error
        finally:
            self._open.pop()


def _tensors(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))


def _anew(output: Any, inputs: Any) -> Any:
    """Give an output that is one of the inputs (Identity, dropout in eval) its own object."""
    given = {id(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)}

    def own(value: Any) -> Any:
        return value.view_as(value) if id(value) in given else value

    return pytree.tree_map_only(torch.Tensor, own, output)
