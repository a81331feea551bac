"""The guard: crafted graphs and models are refused by name, and none of them runs code."""
# ruff: noqa: E501  (a table has one case in a line)

import collections
import os

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import topograph as tg
from topograph.tracing.guard import guard
from topograph.tracing.module import build

RAN: list[str] = []
torch.canary = RAN.append  # generated code sees `torch`, so code that gets in can call this
EVIL = "torch.canary('ran')"


@pytest.fixture(autouse=True)
def _nothing_ran():
    RAN.clear()
    yield
    assert RAN == []


class Loud(str):
    __slots__ = ()

    def __repr__(self):
        return EVIL


class LoudTuple(tuple):
    __slots__ = ()

    def __repr__(self):
        return EVIL


class LoudDict(dict):
    def __repr__(self):
        return EVIL


class LoudNumber(int):
    def __repr__(self):
        return EVIL


class Disguised:
    """Calls anything, and is equal to ``torch.relu``."""

    __name__ = "relu"
    __module__ = "torch"

    def __hash__(self):
        return hash(torch.relu)

    def __eq__(self, other):
        return True

    def __call__(self, value):
        RAN.append("called")
        return value


Pair = collections.namedtuple("Pair", "first")
Pair.__qualname__ = f"Pair(first={EVIL})"  # fx prints the type's own name


class OwnCode(fx.graph.CodeGen):
    def gen_fn_def(self, *args, **kwargs):
        return super().gen_fn_def(*args, **kwargs) + f"\n    {EVIL}"


def body() -> nn.Module:
    model = nn.Module()
    model.fc, model.note = nn.Linear(4, 4), "os"
    model.hidden = nn.ModuleDict()
    return model


def crafted(op="call_function", target=torch.relu, args=None, kwargs=None, **fields):
    """Return a graph with one crafted node in it."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.create_node(op, target, (x,) if args is None else args(x), kwargs or {})
    for name, value in fields.items():
        setattr(node, name, value)
    graph.output(node)
    return graph


def named_by_hand(name):
    graph = crafted()
    next(n for n in graph.nodes if n.op == "call_function").name = name
    return graph


def foreign_node():
    other = named_by_hand(f"x), {EVIL}, (x")
    stranger = next(n for n in other.nodes if n.op == "call_function")
    graph = crafted()
    node = next(n for n in graph.nodes if n.op == "call_function")
    node.args = (stranger,)
    return graph


def with_codegen(change):
    graph = crafted()
    change(graph)
    return graph


def placeholder(target):
    graph = fx.Graph()
    graph.output(graph.create_node("placeholder", target, name="x"))
    return graph


def renamed_function():
    def function(value):
        RAN.append("called")
        return value

    function.__name__ = f"relu({EVIL})"
    return function


GRAPHS = {
    "a submodule's name is code": (lambda: crafted("call_module", f"fc({EVIL})"), r"fc\(torch"),
    "a quote in a module's name": (lambda: crafted("call_module", f'fc"),{EVIL},("'), "no plain"),
    "a module's dunder": (lambda: crafted("call_module", "fc.__class__"), "'__class__' in the path"),
    "an unknown module": (lambda: crafted("call_module", "fd"), "the model has no module 'fd'"),
    "a target of another type": (lambda: crafted("call_module", Loud("fc")), "no plain name"),
    "a method is code": (lambda: crafted("call_method", f"relu(); {EVIL}; (x"), "not a method"),
    "a dunder method": (lambda: crafted("call_method", "__reduce_ex__"), "Tensor.__reduce_ex__"),
    "a method that registers": (lambda: crafted("call_method", "register_hook"), "register_hook"),
    "a method that takes a function": (lambda: crafted("call_method", "apply_"), "apply_"),
    "a method of no tensor": (lambda: crafted("call_method", "format"), "Tensor.format"),
    "a keyword is code": (lambda: crafted(kwargs={f"a={EVIL}, b": 1}), "is not an identifier"),
    "a keyword with a dunder": (lambda: crafted(kwargs={"__x": 1}), "'__x' is not an identifier"),
    "an input's name is code": (lambda: placeholder(f"x={EVIL}"), "the input \"x=torch"),
    "an input's name is not ASCII": (lambda: placeholder("х"), "the input 'х' is not an"),
    "an input's default": (lambda: crafted("placeholder", "y", lambda x: (Loud("a"),)), "Loud"),
    "a node's name is code": (lambda: named_by_hand(f"y = {EVIL}; z"), "the node name \"y = torch"),
    "a node's name is no plain text": (lambda: named_by_hand(Loud("y")), "is not an identifier"),
    "a node that prints itself": (lambda: crafted(_repr_fn=lambda node: EVIL), "in its own way"),
    "a node of another graph": (foreign_node, "relu: reads a node that is not above it"),
    "a crafted __name__": (lambda: crafted(target=renamed_function()), r"the function \"relu\(torch"),
    "a function in disguise": (lambda: crafted(target=Disguised()), "the function 'relu' is not one"),
    "a lambda": (lambda: crafted(target=lambda x: RAN.append("called")), "<lambda>"),
    "a builtin": (lambda: crafted(target=eval), "'eval' is not one of torch's"),
    "exec": (lambda: crafted(target=exec), "'exec' is not one"),
    "import": (lambda: crafted(target=__import__), "'__import___1' is not an identifier"),
    "os.system": (lambda: crafted(target=os.system), "'system' is not one"),
    "torch.load": (lambda: crafted(target=torch.load), "'load' is not one"),
    "torch.save": (lambda: crafted(target=torch.save), "'save' is not one"),
    "torch.compile": (lambda: crafted(target=torch.compile), "'compile' is not one"),
    "torch.from_file": (lambda: crafted(target=torch.from_file), "'from_file' is not one"),
    "torch.ops.load_library": (lambda: crafted(target=torch.ops.load_library), "'load_library'"),
    "a dispatcher": (lambda: crafted(target=F.boolean_dispatch), "'boolean_dispatch'"),
    "a reducer": (lambda: crafted(target=torch.Tensor.__reduce_ex__), "'__reduce_ex__'"),
    "a hook": (lambda: crafted(target=torch.Tensor.register_hook), "'register_hook'"),
    "a function that is no function": (lambda: crafted(target=torch.Tensor.data.__get__), "__get__"),
    "getattr of globals": (lambda: crafted(target=getattr, args=lambda x: (x, "__globals__")), "__globals__"),
    "getattr with a default": (lambda: crafted(target=getattr, args=lambda x: (x, "T", 1)), "attribute None"),
    "getattr of a list": (lambda: crafted(target=getattr, args=lambda x: (x, ["T"])), "reads the attribute"),
    "getattr with a crafted name": (lambda: crafted(target=getattr, args=lambda x: (x, Loud("T"))), "reads the attribute"),
    "get_attr to globals": (lambda: crafted("get_attr", "forward.__globals__", lambda x: ()), "__globals__"),
    "get_attr to a module": (lambda: crafted("get_attr", "fc", lambda x: ()), "'fc' is no parameter"),
    "get_attr to text": (lambda: crafted("get_attr", "note", lambda x: ()), "'note' is no parameter"),
    "get_attr to a method": (lambda: crafted("get_attr", "fc.forward", lambda x: ()), "fc.forward"),
    "crafted text": (lambda: crafted(args=lambda x: (x, Loud("a"))), "a constant of type Loud"),
    "a crafted number": (lambda: crafted(args=lambda x: (x, LoudNumber(1))), "type LoudNumber"),
    "a crafted tuple": (lambda: crafted(_args=(LoudTuple((1,)),)), "type LoudTuple"),
    "a crafted named tuple": (lambda: crafted(args=lambda x: (x, Pair(1))), "type Pair"),
    "an object": (lambda: crafted(args=lambda x: (x, object())), "a constant of type object"),
    "a function as an argument": (lambda: crafted(args=lambda x: (x, print)), "builtin_function"),
    "a type as an argument": (lambda: crafted(args=lambda x: (x, os._Environ)), "constant of type"),
    "text inside a slice": (lambda: crafted(args=lambda x: (x, slice(Loud("a")))), "type Loud"),
    "text inside a list": (lambda: crafted(args=lambda x: (x, [[Loud("a")]])), "type Loud"),
    "a crafted key": (lambda: crafted(args=lambda x: (x, {Loud("a"): 1})), "a dict key of type Loud"),
    "a key of another type": (lambda: crafted(args=lambda x: (x, {1.5: 1})), "dict key of type float"),
    "its own code generator": (lambda: with_codegen(lambda g: g.set_codegen(OwnCode())), "with OwnCode"),
    "a transformer of the code": (lambda: with_codegen(lambda g: g.on_generate_code(lambda old: lambda code: [*code, EVIL])), "plain CodeGen"),
    "another function's name": (lambda: with_codegen(lambda g: setattr(g._codegen, "_func_name", f"f(x={EVIL}")), "plain CodeGen"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_a_crafted_graph_is_refused(name):
    make, message = GRAPHS[name]
    with pytest.raises(tg.GuardError, match=message):
        build(make(), body(), "Crafted")


def test_there_are_enough_of_them():
    assert len(GRAPHS) >= 50


def test_an_operation_that_no_graph_has():
    graph = crafted()
    next(n for n in graph.nodes if n.op == "call_function").op = "call_anything"
    with pytest.raises(tg.GuardError, match="relu: 'call_anything' is no operation of a graph"):
        guard(graph, body())


def test_annotations_and_meta_never_reach_the_source(monkeypatch):
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")
    graph = crafted(type=f"int = {EVIL}")
    for node in graph.nodes:
        node.meta["stack_trace"] = f"\n{EVIL}\n"
        node.meta["custom"] = Loud("a")
    network = build(graph, body(), "Crafted")
    assert "canary" not in network.code
    assert torch.equal(network(-torch.ones(2)), torch.zeros(2))


KEYS = ['a"],torch.canary("ran"),self["a', "a')(torch.canary('ran'))('", "__class__", "a b", "ü"]


@pytest.mark.parametrize("key", KEYS)
def test_a_model_with_a_crafted_module_name_is_refused(key):
    class Crafted(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict()
            self.parts._modules[key] = nn.Linear(4, 4)

        def forward(self, x):
            return self.parts._modules[key](x)

    with pytest.raises(tg.GuardError, match="is no plain name; rename the module"):
        tg.trace(Crafted(), (torch.ones(2, 4),))


def test_ordinary_graphs_pass():
    class Ordinary(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"a-b": nn.Linear(4, 4), "0": nn.ReLU()})

        def forward(self, x, *others, scale=1.0, **named):
            h = self.parts["0"](self.parts["a-b"](x))[:, 1:, None].to(torch.float64)
            return h.mT * scale + sum(others) + named["shift"]

    model, x = Ordinary(), torch.ones(2, 4)
    arguments = (x, torch.ones(1), torch.ones(1)), {"shift": torch.ones(1)}
    assert tg.verify(model, tg.trace(model, *arguments), *arguments) == ()


@pytest.mark.parametrize("name", ["*args", "**kwargs", "x_1"])
def test_star_placeholders_pass(name):
    graph = fx.Graph()
    graph.output(graph.create_node("placeholder", name, name="given"))
    assert build(graph, body(), "Star") is not None
