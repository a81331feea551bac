"""Recurrent layers: gates are blocks of the hidden width, one behind the other."""

from typing import Any

from torch import fx, nn

from topograph.widths.arguments import first, locked
from topograph.widths.dims import Dim, product
from topograph.widths.flow import Flow, Layout, join


def recurrent_layer(flow: Flow, node: fx.Node, module: nn.RNNBase) -> Layout:
    """Follow an LSTM, a GRU or an RNN: one hidden width for all its layers and directions."""
    x = first(flow, node)
    if module.proj_size or not x or isinstance(flow.seen(node), dict):
        return "projects its hidden state" if module.proj_size else None
    hidden = Dim(module.hidden_size)
    ways = 2 if module.bidirectional else 1
    wide = product([locked(ways, f"{node.name} reads in {ways} directions"), hidden])
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse")[:ways]:
            _cell(flow, node, module, f"_l{layer}{suffix}", wide if layer else x[-1], hidden)
    path = str(node.target)
    flow.attribute(path, "input_size", x[-1])
    flow.attribute(path, "hidden_size", hidden)
    _states(flow, node, hidden)
    seen = flow.seen(node)
    if not isinstance(seen, tuple) or len(seen) != 2:
        return None
    state = [_state(part, hidden, node) for part in seen[1]] if isinstance(seen[1], tuple) else None
    return [(*x[:-1], wide), state or _state(seen[1], hidden, node)]


def cell_layer(flow: Flow, node: fx.Node, module: Any) -> Layout:
    """Follow one step of an LSTM, a GRU or an RNN."""
    x = first(flow, node)
    if not x:
        return None
    hidden = Dim(module.hidden_size)
    _cell(flow, node, module, "", x[-1], hidden)
    path = str(node.target)
    flow.attribute(path, "input_size", x[-1])
    flow.attribute(path, "hidden_size", hidden)
    _states(flow, node, hidden)
    made = (*x[:-1], hidden)
    return [made, made] if isinstance(flow.seen(node), tuple) else made


def _cell(flow: Flow, node: fx.Node, module: Any, suffix: str, read: Dim, hidden: Dim) -> None:
    kind = type(module).__name__.removesuffix("Cell")
    gates = (
        module.weight_hh.shape[0] if not suffix else getattr(module, f"weight_hh{suffix}").shape[0]
    )
    count = gates // module.hidden_size
    made = product([locked(count, f"a {kind} has {count} gates"), hidden])
    for name, axes in (
        ("weight_ih", (made, read)), ("weight_hh", (made, hidden)),
        ("bias_ih", (made,)), ("bias_hh", (made,)),
    ):  # fmt: skip
        tensor = getattr(module, name + suffix, None)
        if tensor is None:
            continue
        for index, (own, dim) in enumerate(zip(flow.tensor(tensor), axes, strict=True)):
            join(flow, node, own, dim)
            flow.role(tensor, index, "reads" if index else "makes")


def _states(flow: Flow, node: fx.Node, hidden: Dim) -> None:
    """Join the states that a call is given with the hidden width."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("hx")
    for part in given if isinstance(given, tuple | list) else (given,):
        dims = flow.dims(part)
        if dims:
            join(flow, node, dims[-1], hidden)


def _state(seen: Any, hidden: Dim, node: fx.Node) -> Layout:
    return (*(locked(size, f"{node.name} has as many states") for size in seen.shape[:-1]), hidden)
