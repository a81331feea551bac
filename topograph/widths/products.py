"""Products of values: sums over pairs of entries, by a matrix product, `einsum` or attention."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from topograph.widths.arguments import argument, first, locked, named
from topograph.widths.dims import Dim, lock, product
from topograph.widths.flow import Flow, Layout, Rule, join


def _matmul(flow: Flow, node: fx.Node) -> Layout:
    word = "mat2" if named(node) in ("bmm", "mm") else "other"
    right = argument(node, 1, word, node.kwargs.get("tensor2"))
    return _inner(flow, node, node.args[0] if node.args else node.kwargs.get("input"), right)


def _inner(flow: Flow, node: fx.Node, left: Any, right: Any) -> Layout:
    a, b = flow.dims(left), flow.dims(right)
    if not a or not b:
        return None
    join(flow, node, a[-1], b[-2] if len(b) > 1 else b[-1])
    tensor = flow.parameter(right)
    if tensor is not None and len(b) > 1:
        flow.role(tensor, tensor.ndim - 2, "reads")
        flow.role(tensor, tensor.ndim - 1, "makes")
    else:
        flow.meet(node, "inner", a[-1])
    batch = _batched(flow, node, a[:-2], b[:-2])
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _batched(flow: Flow, node: fx.Node, a: Sequence[Dim], b: Sequence[Dim]) -> list[Dim]:
    made: list[Dim] = list(a if len(a) >= len(b) else b)
    for index in range(1, min(len(a), len(b)) + 1):
        one, other = a[-index], b[-index]
        if one.size == other.size:
            join(flow, node, one, other)
        elif other.size == 1:
            one, other = other, one
        if one.size == 1 != other.size:
            lock(one, f"{node.name} repeats its one entry")
        made[-index] = other
    return made


def _addmm(flow: Flow, node: fx.Node) -> Layout:
    batched = "b" in named(node)
    names = ("batch1", "batch2") if batched else ("mat1", "mat2")
    made = _inner(flow, node, argument(node, 1, names[0]), argument(node, 2, names[1]))
    added = first(flow, node)
    if made is None or added is None or len(added) > len(made):
        return None
    for index, dim in enumerate(reversed(added), 1):
        if dim.size == made[-index].size:
            join(flow, node, made[-index], dim)
        else:
            lock(dim, f"{node.name} repeats its one entry")
    return made


def _einsum(flow: Flow, node: fx.Node) -> Layout:
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = list(operands[0])
    known = [flow.dims(operand) for operand in operands]
    if not isinstance(equation, str) or "->" not in equation:
        return None
    read, made = equation.replace(" ", "").split("->")
    written = [
        _letters(names, len(dims)) if dims is not None else None
        for names, dims in zip(read.split(","), known, strict=False)
    ]
    rank = max(len(dims) for dims in known if dims is not None) if any(known) else 0
    longest = max((sum(n.isdigit() for n in names) for names in written if names), default=0)
    result = _letters(made, len(made.replace("...", "")) + longest) if rank else None
    if result is None or len(written) != len(known):
        return None
    sizes: dict[str, Dim] = {}
    weighted: set[str] = set()
    for names, dims, operand in zip(written, known, operands, strict=True):
        if dims is None or names is None or len(names) != len(dims):
            return None
        tensor = flow.parameter(operand)
        for index, (name, dim) in enumerate(zip(names, dims, strict=True)):
            if tensor is not None:
                flow.role(tensor, index, "makes" if name in result else "reads")
                weighted.add(name)
            if name in sizes and sizes[name].size == dim.size:
                join(flow, node, sizes[name], dim)
            elif name not in sizes or sizes[name].size == 1:
                sizes[name] = dim
    for name, dim in sizes.items():
        if name not in result and name not in weighted:
            flow.meet(node, "inner", dim)
    return tuple(sizes[name] for name in result)


def _letters(names: str, rank: int) -> list[str] | None:
    """Return the names of an operand's axes; those of an ellipsis are numbers from the right."""
    if "..." not in names:
        return list(names)
    before, after = names.split("...", 1)
    between = rank - len(before) - len(after)
    return [*before, *map(str, range(between, 0, -1)), *after] if between >= 0 else None


def _attention(flow: Flow, node: fx.Node) -> Layout:
    query, key, value = (
        flow.dims(argument(node, i, n)) for i, n in enumerate(("query", "key", "value"))
    )
    mask = flow.dims(argument(node, 3, "attn_mask"))
    if query is None or key is None or value is None:
        return None
    join(flow, node, query[-1], key[-1])
    flow.meet(node, "inner", query[-1])
    join(flow, node, key[-2], value[-2])
    flow.meet(node, "other", key[-2])
    if node.kwargs.get("enable_gqa"):
        if len(query) < 3 or query[-3].size % key[-3].size:
            return None
        join(flow, node, key[-3], value[-3])
        ratio = query[-3].size // key[-3].size
        repeats = locked(ratio, "it is the number of queries for each key")
        join(flow, node, query[-3], product([key[-3], repeats]))
        batch = [*_batched(flow, node, query[:-3], key[:-3]), query[-3]]
    else:
        batch = _batched(flow, node, query[:-2], key[:-2])
        batch = _batched(flow, node, batch, value[:-2])
    made = (*batch, query[-2], value[-1])
    if mask is not None:
        scores = (*batch, query[-2], key[-2])
        for index, dim in enumerate(reversed(mask), 1):
            if index <= len(scores) and dim.size == scores[-index].size:
                join(flow, node, scores[-index], dim)
            else:
                lock(dim, f"{node.name} repeats its one entry")
    return made


def _experts(flow: Flow, node: fx.Node) -> Layout:
    return "sends each row to an expert of its own"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm), "einsum": _einsum,
    "scaleddotproductattention": _attention,
    **dict.fromkeys(("groupedmm", "groupedmmfallback"), _experts),
}  # fmt: skip
