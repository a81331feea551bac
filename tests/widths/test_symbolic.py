"""Spaces against torch's symbolic shapes: what `ShapeEnv` proves equal must be made of one space.

Every axis of every parameter gets a size of its own, and the graph runs on fake tensors. torch
then collects equations between sizes. With the spaces, each size is a polynomial: a sum for a
stack, a product for a product, one variable for each free space, a number for a locked one. Two
things must hold:

1. every equation of torch is an identity of these polynomials (no coupling is missed);
2. torch is left with as many free sizes as there are free spaces (none is invented).

The two may differ, and only so:

- Spaces know indices, sizes do not: three blocks of one size in a fused projection share a space,
  while torch sees one size that is divided by three.
- A number in the code, as in ``view(batch, 5, 2, 4)``, fixes a size for torch. Spaces leave it
  free, since an edit writes the number anew. Such sizes are counted as free here as well.
- A grouped convolution only asks that its channels divide; a space says that channel i of a
  depthwise one reads channel i, so that the two sizes are one.
- An axis that nothing else reads (the model's outputs) is free in both.
"""

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from tests import nets, zoo
from tests.often import often
from tests.widths.laws import traced
from tests.widths.test_renaming import Calls, row
from tests.widths.test_rows import ROWS as MODELS
from topograph.widths.dims import Dim, factors, found, sections
from topograph.widths.spaces import widths


class Symbolic(fx.Interpreter):
    """Run a graph with its tensors exchanged, and layers as functions of their tensors alone."""

    def __init__(self, network, tensors):
        super().__init__(network)
        self.tensors = tensors

    def get_attr(self, target, args, kwargs):
        return (
            self.tensors[target]
            if target in self.tensors
            else super().get_attr(target, args, kwargs)
        )

    def call_module(self, target, args, kwargs):
        layer = self.fetch_attr(target)
        own = {
            name: self.tensors.get(f"{target}.{name}")
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        x, weight, bias = args[0], own["weight"], own["bias"]
        match layer:
            case nn.Linear():
                return F.linear(x, weight, bias)
            case nn.Embedding():
                return F.embedding(x, weight)
            case nn.LayerNorm():
                return F.layer_norm(x, tuple(weight.shape), weight, bias)
            case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
                return F.batch_norm(x, own["running_mean"], own["running_var"], weight, bias)
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                call = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
                groups = x.shape[1] if layer.groups > 1 else 1
                return call(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups)
        assert not list(layer.parameters()), type(layer)
        return layer(*args, **kwargs)


def equations(made, inputs, kwargs):
    """Return the symbol of every parameter axis, and all equations that torch has found."""
    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    tensors, symbols = {}, {}
    network = made.module
    for path, tensor in (*network.named_parameters(), *network.named_buffers()):
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * tensor.ndim)
        source = ConstantSource("t_" + path.replace(".", "_"))
        tensors[path] = mode.from_tensor(tensor.detach(), symbolic_context=context, source=source)
        for axis, size in enumerate(tensors[path].shape):
            symbols[path, axis] = size.node.expr if isinstance(size, torch.SymInt) else None
    for named in (network.named_parameters, network.named_buffers):  # tied ones by all their paths
        first = {id(t): path for path, t in named()}
        for path, tensor in named(remove_duplicate=False):
            tensors[path] = tensors[first[id(tensor)]]
    names = [node.target for node in network.graph.nodes if node.op == "placeholder"]
    given = dict(zip(names, inputs, strict=False)) | (kwargs or {})
    fakes = [
        mode.from_tensor(given[n], static_shapes=True) if isinstance(given.get(n), torch.Tensor)
        else given.get(n)
        for n in names
    ]  # fmt: skip
    with mode, torch.no_grad():
        Symbolic(network, tensors).run(*fakes)
    found_so = [guard.expr for guard in environment.guards if isinstance(guard.expr, sympy.Eq)]
    return symbols, found_so, environment


def polynomial(dim, variables):
    dim = found(dim)
    if dim.form == "stack":
        return sum(polynomial(part, variables) for part in sections(dim))
    if dim.form == "product":
        return sympy.prod([polynomial(part, variables) for part in factors(dim)])
    if dim.lock is not None or dim.size == 1:
        return sympy.Integer(dim.size)
    return variables.setdefault(id(dim), sympy.Symbol(f"w{len(variables)}", positive=True))


NAMES = ("mlp residual resnet conv1d conv3d densenet gated tied twice keywords dropout").split()
EXAMPLES = {e.name: (e.model, e.inputs, e.kwargs) for e in zoo.ZOO if e.name in NAMES}
EXAMPLES |= {
    f"net {name}": (build, (torch.zeros(2, *shape),), {})
    for name, (build, shape) in nets.SHAPES.items()
}
EXAMPLES |= {
    f"row {name}": (MODELS[name][0], (row(2, 5, 6).float(),), {})
    for name in (
        "residual", "one module twice", "weight used as its own transposed", "halves that gate",
        "einsum", "largest places", "gathered places",
    )
}  # fmt: skip


def joined(m, x):
    y = torch.cat([m.a(x), m.b(x)], -1)
    return m.c(y) + m.d(torch.cat([y, m.a(x)], -1))


SLOW = {
    "conv1d",
    "conv3d",
    "resnet",
    "densenet",
    "keywords",
    "dropout",
}  # others show the same couplings
SLOW |= {name for name in EXAMPLES if name.startswith("net ")} - {"net residual", "net vit"}
EXAMPLES["concatenations"] = (
    lambda: Calls(
        joined, a=nn.Linear(6, 3), b=nn.Linear(6, 5), c=nn.Linear(8, 2), d=nn.Linear(11, 2)
    ),
    (row(2, 6).float(),),
    {},
)


@pytest.mark.parametrize("name", often(EXAMPLES, {*EXAMPLES} - SLOW))
def test_torch_finds_the_same_couplings(name):
    build, inputs, kwargs = EXAMPLES[name]
    made = traced(build(), *inputs, **kwargs)
    symbols, guards, environment = equations(made, inputs, kwargs)
    known = widths(made)
    extra = compared(known, symbols, guards, environment)
    assert extra == 0


def compared(known, symbols, guards, environment):
    """Check torch's equations, and return how many more free sizes than spaces it has."""
    variables: dict[int, sympy.Symbol] = {}
    values = {}
    for path, tensor in known.tensors.items():
        for axis, dim in enumerate(known.flow.tensors[id(tensor)]):
            symbol = symbols[path, axis]
            if symbol is not None and symbol.is_Symbol:
                values[symbol] = polynomial(dim, variables)
    by_code = set()
    for guard in guards:
        left, right = guard.lhs.subs(values), guard.rhs.subs(values)
        difference = sympy.expand(left - right)
        if difference.free_symbols and (guard.lhs.is_Integer or guard.rhs.is_Integer):
            by_code |= difference.free_symbols  # a number in the code: an edit writes it anew
            continue
        assert difference == 0 or difference.free_symbols <= by_code, f"{guard}: {left} is {right}"
    free = {
        symbol
        for size, value in values.items()
        if value.free_symbols - by_code
        for symbol in environment.simplify(size).free_symbols
    }
    return len(free) - len(set(variables.values()) - by_code)


def test_a_depthwise_convolution_is_one_space_where_torch_sees_two_sizes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    inputs = (row(2, 3, 8, 8).float(),)
    made = traced(model, *inputs)
    assert compared(widths(made), *equations(made, inputs, {})) == 1


def test_a_coupling_that_is_missed_is_seen():
    """Cut the tie between two layers of a chain: torch's equation is no identity any more."""
    made = traced(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), torch.zeros(2, 6))
    found_so = equations(made, (torch.zeros(2, 6),), {})
    known = widths(made)
    second = known.tensors["1.weight"]
    known.flow.tensors[id(second)] = (known.flow.tensors[id(second)][0], Dim(8))
    with pytest.raises(AssertionError, match=r"Eq\(s\d+, s\d+\): w0 is w"):
        compared(known, *found_so)


def test_equations_of_a_sum_and_a_concatenation_are_found_at_all():
    """The oracle can fail: it sees the coupling of a residual, and a sum of sizes."""
    build, inputs, kwargs = EXAMPLES["concatenations"]
    made = traced(build(), *inputs, **kwargs)
    symbols, guards, environment = equations(made, inputs, kwargs)
    a, b, c, d = (
        symbols[f"{name}.weight", axis] for name, axis in zip("abcd", (0, 0, 1, 1), strict=True)
    )
    assert environment.simplify(a + b - c) == 0
    assert environment.simplify(2 * a + b - d) == 0
    assert any("+" in str(guard) for guard in guards)
