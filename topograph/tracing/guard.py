"""The guard: nothing reaches generated code unchecked.

`torch.fx` turns names, targets and constants of a graph into Python source and runs it; a quote in
a ``ModuleDict`` key is enough to run code, and ``Graph.lint`` does not look. Every graph passes
here before it is compiled: names are plain identifiers, functions and methods come from a list,
attributes are the model's own tensors, constants have exactly the types whose source is known.
"""

import inspect
import math
import operator
import re
from keyword import iskeyword
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import get_testing_overrides

from topograph.errors import GuardError

NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
PATH_PART = re.compile(r"(?!__)[A-Za-z0-9_-]+")
PLACEHOLDER = re.compile(r"\*{0,2}(?!__)[A-Za-z_][A-Za-z0-9_]*")
SOURCE_NAMES = {"getattr", "slice", "self", "math", *torch.fx.graph._custom_builtins}
SOURCE_PREFIXES = ("_operator", "torch_", "math_")  # how generated source calls functions
ATTRIBUTES = {"T", "mT", "H", "mH", "real", "imag", "shape", "dtype", "device", "ndim"}
CONSTANTS = (
    type(None), bool, int, float, complex, str, type(Ellipsis), torch.dtype, torch.device,
    torch.layout, torch.memory_format,
)  # fmt: skip
SEQUENCES = (tuple, list, torch.Size, fx.immutable_collections.immutable_list)
MAPPINGS = (dict, fx.immutable_collections.immutable_dict)
FACTORIES = (
    "arange empty empty_like eye full full_like linspace logspace ones ones_like rand "
    "rand_like randint randint_like randn randn_like randperm scalar_tensor tensor "
    "as_tensor tril_indices triu_indices zeros zeros_like complex polar "
).split()
FORBIDDEN = {
    "load", "save", "from_file", "compile", "set_default_dtype", "_sync", "set_printoptions",
    "register_hook", "register_post_accumulate_grad_hook", "backward", "share_memory_", "storage",
    "untyped_storage", "data_ptr", "module_load", "apply_", "map_", "map2_", "as_subclass",
}  # fmt: skip
HOMES = {
    "torch", "torch.nn.functional", "torch.functional", "torch._tensor", "torch._lowrank",
    "torch._lobpcg", "torch._C", "torch._C._nn", "torch._C._special", "torch._C._linalg",
    "torch._C._fft", "_operator", "math",
}  # fmt: skip
ARITHMETIC = (
    "abs add and_ eq floordiv ge getitem gt iadd iand ifloordiv imatmul imod imul index "
    "invert ior ipow isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow "
    "rshift setitem sub truediv xor "
).split()


def _allowed_functions() -> frozenset[Any]:
    found = {f for f in get_testing_overrides() if getattr(f, "__name__", "") not in FORBIDDEN}
    found |= {getattr(torch, name) for name in FACTORIES}
    found |= {getattr(operator, name) for name in ARITHMETIC}
    found |= {
        getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt", "prod", "log", "exp")
    }
    found |= {torch._assert, torch._grouped_mm}
    for home in (torch, torch.nn.functional, torch._C._nn, torch.special, torch.linalg, torch.fft):
        for name in dir(home):
            value = getattr(home, name)
            module = getattr(value, "__module__", None) or ""
            if name.startswith("_") or name in FORBIDDEN or isinstance(value, type):
                continue
            if home is not torch and callable(value) and not module.startswith("torch.overrides"):
                found.add(value)
    return frozenset(f for f in found if getattr(f, "__module__", "") in HOMES and _is_plain(f))


def _is_plain(function: Any) -> bool:
    """Return whether this is a library's function, under a name that calls nothing of Python's."""
    name = getattr(function, "__name__", "__")
    return inspect.isroutine(function) and not name.startswith(("__", "_has_torch"))


FUNCTIONS = {id(function): function for function in _allowed_functions()}
METHODS = frozenset(
    name
    for name in dir(torch.Tensor)
    if callable(getattr(torch.Tensor, name)) and not name.startswith("_")
).difference(FORBIDDEN)


def guard(graph: fx.Graph, model: nn.Module) -> None:
    """Refuse a graph that could run anything but the model's own layers and torch's functions.

    Args:
        graph: The graph that is about to be compiled.
        model: The module tree that its targets refer to.

    Raises:
        GuardError: Names the node and what is wrong with it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    tensors = _state_paths(model)
    plain = fx.graph.CodeGen()
    if (type(graph), type(graph._codegen), vars(graph._codegen)) != (
        fx.Graph, type(plain), vars(plain),
    ):  # fmt: skip
        raise GuardError(
            f"the graph writes its source with {type(graph._codegen).__name__}, "
            "not with torch.fx's plain CodeGen; trace the model itself"
        )
    known: set[fx.Node] = set()
    for node in graph.nodes:
        _name(node)
        for source in node.all_input_nodes:
            if source not in known:
                raise GuardError(f"{node.name}: reads a node that is not above it in the graph")
        known.add(node)
        _target(node, modules, tensors)
        _arguments(node, node.args)
        for key, value in node.kwargs.items():
            if type(key) is not str or not NAME.fullmatch(key) or iskeyword(key):
                raise GuardError(
                    f"{node.name}: the keyword {key!r} is not an identifier; rename it"
                )
            _arguments(node, value)
        node.type = None  # an annotation would be printed into the source
        node.meta.clear()  # so would some entries here, under FX_GRAPH_SHOW_META


def _name(node: fx.Node) -> None:
    if type(node) is not fx.Node or node._repr_fn is not None:
        raise GuardError(f"a node of type {type(node).__name__} prints itself in its own way")
    if type(node.name) is not str or not NAME.fullmatch(node.name):
        raise GuardError(f"the node name {node.name!r} is not an identifier; rename it")


def _target(node: fx.Node, modules: dict[str, nn.Module], tensors: set[str]) -> None:
    target = node.target
    match node.op:
        case "placeholder" | "output":
            if type(target) is not str or not PLACEHOLDER.fullmatch(target):
                raise GuardError(
                    f"{node.name}: the input {target!r} is not an identifier; rename it"
                )
            bare = target.lstrip("*")
            if bare in SOURCE_NAMES or bare.startswith(SOURCE_PREFIXES) or iskeyword(bare):
                raise GuardError(
                    f"{node.name}: an input called {bare!r} would hide what the generated source "
                    "calls; rename it"
                )
        case "call_module":
            _path(node, target)
            if target not in modules:
                raise GuardError(f"{node.name}: the model has no module {target!r}")
        case "get_attr":
            _path(node, target)
            owner, _, attribute = str(target).rpartition(".")
            if target not in tensors and not (attribute == "training" and owner in modules):
                raise GuardError(f"{node.name}: {target!r} is no parameter or buffer of the model")
        case "call_method":
            if type(target) is not str or target not in METHODS:
                raise GuardError(
                    f"{node.name}: Tensor.{target} is not a method that a graph may call"
                )
        case "call_function":
            _function(node)
        case _:
            raise GuardError(f"{node.name}: {node.op!r} is no operation of a graph")


def _function(node: fx.Node) -> None:
    if node.target is getattr:
        attribute = node.args[1] if len(node.args) == 2 else None
        if type(attribute) is not str or attribute not in ATTRIBUTES:
            raise GuardError(
                f"{node.name}: reads the attribute {attribute!r}; only {sorted(ATTRIBUTES)}"
            )
        return
    if isinstance(node.target, OpOverload | OpOverloadPacket) and _is_registered(node.target):
        return
    if id(node.target) not in FUNCTIONS:
        name = getattr(node.target, "__name__", type(node.target).__name__)
        raise GuardError(
            f"{node.name}: the function {str(name)[:80]!r} is not one of torch's; "
            "put it into a submodule, which then stays whole (trace(..., opaque=[its path]))"
        )


def _is_registered(operator_: OpOverload | OpOverloadPacket) -> bool:
    """Return whether an operator is the one that torch knows by its name."""
    name = str(operator_)
    value: Any = torch.ops
    for part in name.split("."):
        if not NAME.fullmatch(part):
            return False
        value = getattr(value, part, None)
    return value is operator_


def _path(node: fx.Node, target: Any) -> None:
    parts = target.split(".") if type(target) is str else [target]
    for part in parts:
        if type(part) is not str or not PATH_PART.fullmatch(part):
            raise GuardError(
                f"{node.name}: {part!r} in the path {target!r} is no plain name; rename the module"
            )
        if iskeyword(part):
            raise GuardError(
                f"{node.name}: {part!r} in the path {target!r} is a word of Python; rename it"
            )


def _arguments(node: fx.Node, value: Any) -> None:
    if isinstance(value, fx.Node):
        return
    if isinstance(value, slice):
        for part in (value.start, value.stop, value.step):
            _arguments(node, part)
    elif type(value) in SEQUENCES:
        for part in value:
            _arguments(node, part)
    elif type(value) in MAPPINGS:
        for key, part in value.items():
            if type(key) not in (str, int):
                raise GuardError(
                    f"{node.name}: a dict key of type {type(key).__name__} in its arguments"
                )
            _arguments(node, part)
    elif type(value) not in CONSTANTS:
        raise GuardError(f"{node.name}: a constant of type {type(value).__name__} in its arguments")


def _state_paths(model: nn.Module) -> set[str]:
    named = (model.named_parameters, model.named_buffers)
    return {path for names in named for path, _ in names(remove_duplicate=False)}
