"""Networks and a run as a real growth leaves them, built by hand without torch."""

import math
from types import SimpleNamespace

from topograph.spec import (
    AddBranch,
    Bottleneck,
    Change,
    Check,
    Effects,
    Entry,
    Growth,
    History,
    InsertLayer,
    Linear,
    Measurement,
    Plan,
    Ranked,
    Refusal,
)
from topograph.spec.mutations import digest
from topograph.spec.selectors import after, at, between, named
from topograph.topology import Node, Parameter, Topology, diff

HOSTILE = (
    '"><script>alert(1)</script>]]> \\" [x](y) {z} `q` \'s\n'
    "# %%{init}%% &lt; é漢字 [red]\u202e\x1b[31m\x00"
)
UNITS = 16


class Builder:
    """Adds nodes one after another and keeps what they read."""

    def __init__(self, name, width=64):
        self.name, self.width = name, width
        self.nodes, self.parameters = [], []

    def add(self, name, op, inputs=(), *, detail="", out=None, kind="function", target=None):
        shape = ("N", out or self.width)
        self.nodes.append(
            Node(name=name, kind=kind, op=op, target=target or op, detail=detail,
                 inputs=tuple(inputs), shape=shape, dtype="float32", axes=("batch", "channel"),
                 parameters=self._used(target), flops=self._flops(op, shape, target))
        )  # fmt: skip
        return name

    def linear(self, name, source, into, out, path):
        self.parameters += [
            Parameter(path=f"{path}.weight", shape=(out, into), dtype="float32", trainable=True),
            Parameter(path=f"{path}.bias", shape=(out,), dtype="float32", trainable=True),
        ]
        detail = f"{into}, {out}"
        return self.add(
            name, "linear", [source], detail=detail, out=out, kind="module", target=path
        )

    def _used(self, path):
        return tuple(p.path for p in self.parameters if p.path.rpartition(".")[0] == path)

    def _flops(self, op, shape, path):
        if op != "linear":
            return 0 if op in ("input", "output") else shape[1]
        weight = next(p for p in self.parameters if p.path == f"{path}.weight")
        return 2 * weight.count

    def topology(self):
        return Topology(name=self.name, nodes=tuple(self.nodes), parameters=tuple(self.parameters))


def bottleneck(net, name, source):
    hidden = net.linear(f"{name}_down", source, net.width, UNITS, f"grown.{name}.down")
    hidden = net.add(f"{name}_gelu", "gelu", [hidden], out=UNITS, detail="approximate='none'")
    hidden = net.linear(f"{name}_up", hidden, UNITS, net.width, f"grown.{name}.up")
    return net.add(f"{name}_add", "add", [source, hidden])


def residual(growths=()):
    """Return a residual MLP on 8 x 8 digits, grown behind the named nodes."""
    net = Builder("ResidualMLP")

    def value(name):
        return bottleneck(net, f"{name}_grown", name) if name in growths else name

    x = net.add("x", "input", kind="input")
    h = net.linear("stem", net.add("flatten", "flatten", [x], detail="1"), 64, 64, "stem")
    h = value(net.add("relu", "relu", [h]))
    for block in range(3):
        path = f"blocks.{block}"
        inner = net.add(f"blocks_{block}_norm", "layernorm", [h], detail="(64,), eps=1e-05")
        inner = net.linear(f"blocks_{block}_fc1", inner, 64, 64, f"{path}.fc1")
        inner = value(net.add(f"blocks_{block}_act", "relu", [inner]))
        inner = net.linear(f"blocks_{block}_fc2", inner, 64, 64, f"{path}.fc2")
        h = value(net.add(f"blocks_{block}_add", "add", [h, inner]))
    head = net.linear("head", h, 64, 10, "head")
    net.add("output", "output", [head], kind="output", out=10)
    return net.topology()


def chain(blocks=37):
    """Return a chain of about four nodes a block with a skip in each and some far longer ones."""
    net = Builder("DeepResidualConvolutionalEncoder")
    h = stem = net.add("input_1", "input", kind="input")
    gate = net.add("shared_gate", "parameter", kind="parameter")
    for block in range(blocks):
        a = net.linear(f"encoder_stages_{block // 8}_{block}_conv", h, 64, 64, f"b{block}.conv")
        a = net.add(f"relu_{block}", "relu", [a], detail="inplace=True")
        inputs = [a, stem] if block % 12 == 11 else [a, gate] if block % 9 == 4 else [a]
        a = net.add(f"mul_{block}", "mul", inputs)
        h = net.add(f"add_{block}", "add", [a, h] if block % 7 else [a, a])
        stem = h if block == 15 else stem
    net.add("output", "output", [h], kind="output")
    return net.topology()


def attention():
    """Return four heads in parallel, to draw a wide graph."""
    net = Builder("Attention", width=32)
    x = net.add("tokens", "input", kind="input")
    heads = []
    for head in range(4):
        q, k, v = (net.linear(f"{n}_{head}", x, 32, 8, f"{n}.{head}") for n in ("q", "k", "v"))
        k = net.add(f"transpose_{head}", "transpose", [k], detail="-2, -1", out=8)
        weights = net.add(
            f"softmax_{head}", "softmax", [net.add(f"matmul_{head}", "matmul", [q, k])]
        )
        heads.append(net.add(f"mix_{head}", "matmul", [weights, v], out=8))
    h = net.add("cat", "cat", heads, detail="dim=-1")
    h = net.add("add", "add", [x, net.linear("proj", h, 32, 32, "proj")])
    net.add("output", "output", [h, x], kind="output")
    return net.topology()


def hostile():
    """Return a graph whose names and details try to leave their labels."""
    first = Node(name=HOSTILE, kind="input", op="input", target=HOSTILE, detail=HOSTILE)
    second = Node(name="end", kind="function", op="<b>&amp;", target="t", detail='a\\',
                  inputs=(HOSTILE, HOSTILE), opaque=HOSTILE, shape=("N", "<?>"))  # fmt: skip
    return Topology(name=HOSTILE, nodes=(first, second))


def ranked(mutation, value, *, chosen=False, predicted=None, parameters=2_128):
    step = 0.5
    return Ranked(
        mutation=mutation, value=value, order=2, parameters=parameters, flops=4_096, chosen=chosen,
        predicted=-value * step**2 if predicted is None else predicted,
    )  # fmt: skip


def planned(before, after_, mutation, name):
    change = diff(before, after_)
    return Plan(
        base_sha256=before.fingerprint,
        after_sha256=after_.fingerprint,
        changes=(Change(mutation=mutation, requested=digest(mutation), name=name),),
        diff=change,
        effects=Effects(
            parameters_before=before.parameter_count, parameters_after=after_.parameter_count,
            flops_before=before.flops, flops_after=after_.flops,
        ),
        checks=(
            Check(name="outputs in eval mode", passed=True, found="largest difference 0.0"),
            Check(name="gradients", passed=True, found="largest difference 2.4e-07 of 3.1e-02"),
        ),
        refusals=(
            Refusal(node="head", reason="the value is read by the output alone",
                    fix="choose a node inside the network"),
        ),
    )  # fmt: skip


def a_run():
    """Return a history of two growths, its topologies, and 40 steps of two metrics."""
    nets = [residual(), residual(("blocks_1_act",)), residual(("blocks_1_act", "blocks_2_add"))]
    block = Bottleneck(units=UNITS)
    wanted = [
        InsertLayer(where=at("blocks_1_act"), block=block),
        InsertLayer(where=at("blocks_2_add"), block=block),
    ]
    others = [
        InsertLayer(where=between("blocks_0_add", "blocks_1_norm", 0), block=block),
        InsertLayer(where=at("relu"), block=Linear()),
        AddBranch(source="relu", target="blocks_2_add"),
        InsertLayer(
            where=at("blocks_0_act"), block=Bottleneck(units=8, activation="tanh", norm=True)
        ),
        InsertLayer(where=after("gelu"), block=block),
        InsertLayer(where=named("blocks.2.*"), block=block),
    ]
    growths = []
    for index, (loss, drop) in enumerate(((0.6134, 0.0312), (0.3127, 0.0107))):
        scores = [0.0912, 0.0541, 0.0388, 0.0127, 0.0031, -0.0044]
        scores = [round(s / (1 + 2 * index), 5) for s in scores]
        ranking = (
            *(ranked(m, s) for m, s in zip(others, scores, strict=True)),
            ranked(wanted[index], [0.1385, 0.0479][index], chosen=True),
        )
        growths.append(
            Growth(reason="val_loss has not improved by 0.001 for 3 steps", step=0.5,
                   loss_before=loss, loss_after=loss - drop, predicted=-[0.034625, 0.011975][index],
                   ranking=ranking, seconds=[1.84, 2.07][index])
        )  # fmt: skip
    curve = []
    for index in range(40):
        step = index * 25
        level = 2.3 * math.exp(-index / 4) + 0.55 * (index < 14) + 0.24 * (14 <= index < 27)
        loss = level + 0.05 + 0.012 * math.sin(index * 1.7)
        curve.append(Measurement(step=step, name="val_loss", value=loss))
        curve.append(Measurement(step=step, name="train_loss", value=loss * 0.82))
        curve.append(Measurement(step=step, name="val_accuracy", value=1 - 0.33 * min(loss, 2.6)))

    def entry(number, kind, stack, net, metrics, plan=None, growth=None):
        sha = net.fingerprint
        return Entry(number=number, kind=kind, created=f"2025-03-0{number + 1}T09:1{number}:00Z",
                     stack=stack, folder=f"{number:06}-{sha[:12]}", topology_sha256=sha,
                     manifest_sha256=sha[::-1], plan=plan, growth=growth,
                     metrics=metrics)  # fmt: skip

    names = ["blocks_1_act_grown", "blocks_2_add_grown"]
    plans = [planned(nets[i], nets[i + 1], wanted[i], names[i]) for i in range(2)]
    history = History(
        model="digits.experiment:make_model",
        entries=(
            entry(0, "base", (), nets[0],
                  {"step": 0.0, "val_loss": 2.41, "val_accuracy": 0.1013, "training_seconds": 0.0}),
            entry(1, "apply", (1,), nets[1], {"step": 350.0}, plans[0], growths[0]),
            entry(2, "apply", (1, 2), nets[2], {"step": 675.0}, plans[1], growths[1]),
            entry(3, "checkpoint", (1, 2), nets[2],
                  {"step": 975.0, "val_loss": 0.0573, "val_accuracy": 0.9811,
                   "training_seconds": 187.4, "growth_seconds": 3.91}),
        ),
        curve=tuple(curve),
    )  # fmt: skip
    return SimpleNamespace(history=history, topologies=dict(enumerate(nets)), nets=nets)
