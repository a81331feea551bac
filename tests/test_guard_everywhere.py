"""The attacks of the guard's tests through trace, plan and apply: nothing runs, errors say what.

Documents and the command line: `test_guard_documents.py`. `eject`, which is to write a model as
source, does not exist yet; its attacks belong here with it.
"""

import re

import pytest
import torch
from torch import nn
from torch.overrides import handle_torch_function

import topograph as tg
from tests.attacks import BAD, EVIL, TOUCH, guards, known, no_file, nothing_ran, shown

__all__ = ["no_file", "nothing_ran"]  # the canaries, around every test

X = torch.ones(2, 4)
NAMES = [
    *guards.KEYS, f"a({EVIL})", f"a\n{EVIL}\n", f'a"\n{EVIL}#', f"a=({EVIL})", "__dict__", "а",
    "ａ", "ﬁ", "a;b", "a'", "a'" + TOUCH,
]  # fmt: skip
RAW = known("a raw Python error instead of a TopographError")
MANGLED = known("the error shows what torch.fx made of the name")
ASK = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=2))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        return self.out(torch.relu(self.fc(x)).contiguous() * self.scale)


def through(model, *args, **kwargs):
    """Trace, plan and apply; return the changed network, whose source holds no attack."""
    traced = tg.trace(model, args, kwargs)
    after = tg.apply(traced, tg.plan(traced, [ASK])).after
    assert "canary(" not in traced.module.code + after.module.code
    return after


# trace


class Holder(nn.Module):
    """Has a child or a tensor under any name, and uses it."""

    def __init__(self, store, name, used=True):
        super().__init__()
        self.fc, self.parts, self.used = nn.Linear(4, 4), nn.ModuleDict(), used
        home, store = (self.parts, "_modules") if store == "key" else (self, store)
        made = nn.Linear(4, 4) if store == "_modules" else nn.Parameter(torch.ones(4))
        self.place = home.__dict__.get(store) or getattr(home, store)
        self.place[name], self.name = made if store != "_buffers" else made.data, name

    def forward(self, x):
        h, held = torch.relu(self.fc(x)), self.place[self.name]
        if not self.used:
            return h
        return held(h) if isinstance(held, nn.Module) else h * held


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("store", ["key", "_modules", "_parameters", "_buffers"])
def test_trace_refuses_crafted_names(store, name):
    with pytest.raises(tg.GuardError, match="is no plain name; rename the module") as error:
        tg.trace(Holder(store, name), (X,))
    assert shown(name) in str(error.value)


@MANGLED
@pytest.mark.parametrize("store", ["_modules", "_parameters", "_buffers"])
def test_trace_names_a_dunder_attack(store):
    with pytest.raises(tg.GuardError) as error:
        tg.trace(Holder(store, TOUCH), (X,))
    assert TOUCH in str(error.value)


@pytest.mark.parametrize("store", ["key", "_modules", "_parameters", "_buffers"])
def test_a_crafted_name_that_nothing_reads_is_no_code(store):
    through(Holder(store, NAMES[0], used=False), X)


def names_it_or_passes(name, action):
    said = repr(name)
    try:
        action()
    except tg.TopographError as error:
        said = str(error)
    assert shown(name) in said


@pytest.mark.parametrize("name", ["class", "lambda", "None"])
@pytest.mark.parametrize("store", ["key", "_modules", "_parameters", "_buffers"])
def test_a_keyword_as_a_name(store, name):
    names_it_or_passes(name, lambda: through(Holder(store, name), X))


class First(nn.Sequential):
    def forward(self, **named):
        return torch.relu(self[0](next(iter(named.values()))))


@pytest.mark.parametrize("name", ["class", "torch", "getattr"])
def test_an_input_named_like_what_the_source_calls(name):
    names_it_or_passes(name, lambda: tg.trace(First(nn.Linear(4, 4)), (), {name: X}))


def harmless(name):
    def function(value):
        return torch.relu(value)

    function.__name__ = function.__qualname__ = name
    return function


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return handle_torch_function(self.function, (x,), x)


@pytest.mark.parametrize("given", [(X,), ()], ids=["recorded", "symbolic"])
@pytest.mark.parametrize("name", [f"relu({EVIL})", f"x\n{EVIL}", "relu", "__import__", "rеlu"])
def test_trace_refuses_crafted_functions(name, given):
    with pytest.raises(tg.GuardError) as error:
        tg.trace(Calls(harmless(name)), given)
    assert shown(name) in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        f"M({EVIL})",
        f"M:\n    {EVIL}\nclass N",
        "class",
        "Ｌinear",
        "Слой",
        TOUCH,
    ],
)
def test_class_names_never_become_code(name):
    layer = type(name, (nn.Linear,), {"__module__": "torch.nn.modules.linear"})
    network = type(name, (nn.Sequential,), {})(layer(4, 4), nn.Linear(4, 4), nn.ReLU())
    after = through(network, X)
    assert "touch" not in after.module.code
    assert all(node.name.isidentifier() for node in after.topology.nodes)


class Named(nn.Module):
    def forward(self, **named):
        return torch.relu(next(iter(named.values())))


@pytest.mark.parametrize("name", [*NAMES[:2], f"x={EVIL}", f"x\n{EVIL}", "х", "__x"])
def test_trace_refuses_crafted_inputs(name):
    with pytest.raises(tg.GuardError, match="is not an identifier; rename it") as error:
        tg.trace(Named(), (), {name: X})
    assert shown(name) in str(error.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["opaque", "transparent"])
def test_trace_refuses_paths_that_are_not_there(option, name):
    with pytest.raises(tg.TraceError, match="the model has no submodule") as error:
        tg.trace(Plain(), (X,), **{option: [name]})
    assert shown(name) in str(error.value)


class Ordinary(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"a-b": nn.Linear(4, 4), "0": nn.ReLU(), "1x": nn.Linear(4, 2)})

    def forward(self, x, *args, **kwargs):
        return self.parts["1x"](self.parts["0"](self.parts["a-b"](x)) + sum(args) + kwargs["by"])


def test_ordinary_models_pass():
    one = torch.ones(1)
    after = through(Ordinary(), X, one, one, by=one)
    assert after.module(X, one, one, by=one).shape == (2, 2)


# plan and apply: the graph, the request or the plan was changed behind our back


def first(graph, op):
    return next(node for node in graph.nodes if node.op == op)


def put(op, field, value):
    return lambda graph: setattr(first(graph, op), field, value)


def argument(value):
    return lambda graph: first(graph, "call_method").insert_arg(1, value)


TAMPERED = {
    "node name": (put("call_method", "name", guards.Loud("y")), EVIL),
    "node dunder": (put("call_method", "name", "__import__"), "__import__"),
    "method": (put("call_method", "target", f"relu(); {EVIL}; (x"), f"relu(); {EVIL}; (x"),
    "dunder method": (put("call_method", "target", "__reduce_ex__"), "__reduce_ex__"),
    "module": (put("call_module", "target", f"fc({EVIL})"), f"fc({EVIL})"),
    "module quote": (put("call_module", "target", f'fc"\n{EVIL}'), shown(f'fc"\n{EVIL}')),
    "module dunder": (put("call_module", "target", "fc.__class__"), "fc.__class__"),
    "no module": (put("call_module", "target", "fd"), "'fd'"),
    "crafted path": (put("call_module", "target", guards.Loud("fc")), EVIL),
    "function": (put("call_function", "target", guards.renamed_function()), f"relu({EVIL})"),
    "disguise": (put("call_function", "target", guards.Disguised()), "'relu' is not one"),
    "eval": (put("call_function", "target", eval), "'eval'"),
    "exec": (put("call_function", "target", exec), "'exec'"),
    "torch.load": (put("call_function", "target", torch.load), "'load'"),
    "globals": (put("get_attr", "target", "forward.__globals__"), "forward.__globals__"),
    "attribute": (put("get_attr", "target", f"scale; {EVIL}"), f"scale; {EVIL}"),
    "input": (put("placeholder", "target", f"x={EVIL}"), f"x={EVIL}"),
    "input letter": (put("placeholder", "target", "х"), "'х'"),
    "default": (put("placeholder", "args", (guards.Loud("a"),)), "x: a constant of type Loud"),
    "keyword": (put("call_function", "kwargs", {f"a={EVIL}, b": 1}), f"a={EVIL}, b"),
    "keyword dunder": (put("call_function", "kwargs", {"__x": 1}), "'__x'"),
    "text": (argument(guards.Loud("a")), "contiguous: a constant of type Loud"),
    "number": (argument(guards.LoudNumber(1)), "contiguous: a constant of type LoudNumber"),
    "tuple": (argument(guards.Pair(1)), "contiguous: a constant of type Pair"),
    "slice": (argument(slice(guards.Loud("a"))), "contiguous: a constant of type Loud"),
    "a key": (argument({guards.Loud("a"): 1}), "contiguous: a dict key of type Loud"),
    "codegen": (lambda graph: graph.set_codegen(guards.OwnCode()), "OwnCode"),
    "transformer": (lambda g: g.on_generate_code(lambda _: lambda c: [*c, EVIL]), "CodeGen"),
    "own name": (lambda g: setattr(g._codegen, "_func_name", f"f(x={EVIL}"), "CodeGen"),
    "operation": (put("call_function", "op", "call_anything"), "call_anything"),
    "output": (put("output", "args", (guards.LoudDict(a=1),)), "output"),
}  # fmt: skip
CASES = [pytest.param(n, marks=RAW) if n in ("operation", "output") else n for n in TAMPERED]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_graph_that_was_tampered_with(verb, name):
    tamper, named = TAMPERED[name]
    traced = tg.trace(Plain(), (X,))
    made = tg.plan(traced, [ASK])
    tamper(traced.module.graph)
    with pytest.raises(tg.TopographError, match=re.escape(named)):
        tg.apply(traced, made) if verb == "apply" else tg.plan(traced, [ASK])


@known("a copy of the graph cleans the name, so that the plan fits no more, for another reason")
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_node_that_was_renamed(verb):
    traced = tg.trace(Plain(), (X,))
    made = tg.plan(traced, [ASK])
    put("call_function", "name", f"y = {EVIL}; z")(traced.module.graph)
    with pytest.raises(tg.TopographError, match=re.escape(EVIL)):
        tg.apply(traced, made) if verb == "apply" else tg.plan(traced, [ASK])


def test_annotations_names_and_meta_that_a_copy_leaves_out(monkeypatch):
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")
    traced = tg.trace(Plain(), (X,))
    made = tg.plan(traced, [ASK])
    for node in traced.module.graph.nodes:
        node.type = f"int = {EVIL}"
        node.meta |= {"stack_trace": f"\n{EVIL}\n", "custom": guards.Loud("a")}
        node._repr_fn = lambda node: EVIL
    network = tg.apply(traced, made).after.module
    assert "canary" not in network.code + tg.apply(traced, tg.plan(traced, [ASK])).after.module.code
    assert network(X).shape == (2, 2)


@pytest.mark.parametrize("name", [*BAD, "", "__class__"])
@pytest.mark.parametrize("kind", ["at", "after", "named", "between", "remove"])
def test_plan_refuses_requests_made_past_their_checks(kind, name):
    kinds = {
        k.model_fields["kind"].default: k for k in (*(type(s) for s in PLACES), type(ASK.where))
    }
    where = kinds.get(kind, kinds["at"]).model_construct(
        node=name, op=name, pattern=name, source=name, target="out"
    )
    ask = ASK.model_copy(update={"where": where})
    if kind == "remove":
        ask = tg.RemoveLayer.model_construct(where=where)
    with pytest.raises(tg.SelectorError) as error:
        tg.plan(tg.trace(Plain(), (X,)), [ask])
    assert shown(name) in str(error.value)


PLACES = (tg.at("fc"), tg.named("fc"), tg.between("x", "fc"))
