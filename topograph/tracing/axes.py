"""Which axis of a value is the batch, the channels, the tokens, the space.

Worked out from the operations that make a value, then from those that read it; an axis about which
neither is certain stays ``unknown``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from topograph.topology.model import Axis, Dimension

Axes = tuple[Axis, ...]
Shape = tuple[Dimension, ...]

ELEMENTWISE = frozenset(
    (
        "relu relu6 leakyrelu prelu rrelu elu selu celu gelu silu mish tanh sigmoid "
        "hardswish hardsigmoid hardtanh hardshrink softshrink tanhshrink softplus softsign "
        "logsigmoid threshold softmax logsoftmax dropout dropout1d dropout2d dropout3d "
        "alphadropout featurealphadropout droppath stochasticdepth identity add sub mul "
        "truediv div floordiv iadd isub imul itruediv pow neg abs exp log sqrt rsqrt square "
        "clamp sin cos where maskedfill contiguous clone detach to float half double "
        "bfloat16 typeas lerp addcmul maximum minimum erf normalize roll flip batchnorm "
        "layernorm groupnorm instancenorm rmsnorm localresponsenorm expand viewas "
    ).split()
)
KEEPS_RANK = frozenset(
    (
        "maxpool1d maxpool2d maxpool3d avgpool1d avgpool2d avgpool3d adaptiveavgpool1d "
        "adaptiveavgpool2d adaptiveavgpool3d adaptivemaxpool1d adaptivemaxpool2d "
        "adaptivemaxpool3d lppool1d lppool2d interpolate upsample pad zeropad2d "
        "reflectionpad1d reflectionpad2d replicationpad2d constantpad1d constantpad2d "
    ).split()
)
CONVOLUTIONS = {f"conv{t}{n}d": n for n in (1, 2, 3) for t in ("", "transpose")}
CHANNELS_FIRST = frozenset(
    [
        "batchnorm1d",
        "batchnorm2d",
        "batchnorm3d",
        "syncbatchnorm",
        "groupnorm",
        "instancenorm1d",
        "instancenorm2d",
        "instancenorm3d",
    ]
)
CHANNELS_LAST = frozenset(("linear", "layernorm", "rmsnorm", "bilinear"))


def find_axes(
    nodes: Sequence[fx.Node],
    operations: Mapping[str, str],
    shapes: Mapping[str, Shape | None],
    known: Mapping[str, Axes] | None = None,
) -> dict[str, Axes]:
    """Return the axes of every node's value, by node name.

    Args:
        nodes: In topological order.
        operations: Each node's operation, lower case without underscores.
        shapes: Each value's shape, with "N" for the batch; None where it is no tensor.
        known: Axes that were found before, for some of the nodes.
    """
    before = known or {}
    found: dict[str, Axes] = {n.name: _blank(shapes.get(n.name)) for n in nodes}
    for name in found.keys() & before.keys():
        if len(before[name]) == len(found[name]):
            found[name] = before[name]
    for _ in range(2):
        for node in nodes:
            made = _made(node, operations[node.name], found, shapes)
            found[node.name] = _agree(found[node.name], made)
        for node in reversed(nodes):
            _read(node, operations[node.name], found, shapes)
    return found


def _blank(shape: Shape | None) -> Axes:
    """Only the batch is certain from sizes alone, and only where one axis is exactly it."""
    if shape is None:
        return ()
    once = sum(size == "N" for size in shape) == 1
    return tuple("batch" if once and size == "N" else "unknown" for size in shape)


def _agree(known: Axes, proposed: Axes | None) -> Axes:
    if proposed is None or len(proposed) != len(known):
        return known
    return tuple(p if k == "unknown" else k for k, p in zip(known, proposed, strict=True))


def _last(rank: int, middle: Axes = ()) -> Axes:
    """Batch first, channel last; three axes are tokens in between, more only what is known."""
    if rank < 2:
        return ("channel",) if rank else ()
    known = middle[1:-1] if len(middle) == rank else _unknown(rank - 2)
    if rank == 3 and known == _unknown(1):
        return ("unknown", "tokens", "channel")
    return ("unknown", *known, "channel")


def _unknown(rank: int) -> Axes:
    return tuple("unknown" for _ in range(rank))


def _first(rank: int, spatial: int) -> Axes | None:
    if rank != spatial + 2:
        return None
    channel: Axes = ("unknown", "channel")
    space: Axes = tuple("space" for _ in range(spatial))
    return channel + space


def _made(
    node: fx.Node, op: str, found: Mapping[str, Axes], shapes: Mapping[str, Shape | None]
) -> Axes | None:
    """Return the axes that an operation gives its value, where that is known."""
    shape = shapes.get(node.name)
    if shape is None:
        return None
    sources = [s for s in node.all_input_nodes if shapes.get(s.name) is not None]
    given = found[sources[0].name] if sources else ()
    if op in CONVOLUTIONS:
        return _first(len(shape), CONVOLUTIONS[op])
    if op in CHANNELS_FIRST:
        return _first(len(shape), len(shape) - 2)
    if op in CHANNELS_LAST:
        return _last(len(shape), given)
    if op == "embedding" and len(shape) == 3:
        return _last(3)
    if op in ELEMENTWISE:
        return _joined([(found[s.name], shapes[s.name]) for s in sources], shape)
    if op == "cat":
        same = [found[s.name] for s in sources if len(found[s.name]) == len(shape)]
        known = [axes for axes in same if "unknown" not in axes]
        return next(iter(known or same), None)
    if op in KEEPS_RANK:
        return given
    rule = RULES.get(op)
    if rule is None or not sources:
        return None
    source_shape = shapes[sources[0].name]
    return rule(node, given, source_shape, shape) if source_shape is not None else None


def _joined(given: Sequence[tuple[Axes, Shape | None]], shape: Shape) -> Axes:
    """Return the axes of values that are broadcast together; unknown where they disagree."""
    axes: list[Axis] = []
    for index, size in enumerate(shape):
        votes = {
            known[index]
            for known, theirs in given
            if theirs is not None and len(theirs) == len(shape) and theirs[index] == size
        } - {"unknown"}
        axes.append(votes.pop() if len(votes) == 1 else "unknown")
    return tuple(axes)


def _read(
    node: fx.Node, op: str, found: dict[str, Axes], shapes: Mapping[str, Shape | None]
) -> None:
    """Complete the axes of what an operation reads, where it demands them."""
    for slot, source in enumerate(node.all_input_nodes):
        shape = shapes.get(source.name)
        if shape is None or source.op == "get_attr":
            continue
        rank, demanded = len(shape), None
        if op in CONVOLUTIONS and slot == 0:
            demanded = _first(rank, CONVOLUTIONS[op])
        elif op in CHANNELS_FIRST and slot == 0 and rank > 2:
            demanded = _first(rank, rank - 2)
        elif op in CHANNELS_LAST and slot == 0:
            demanded = _last(rank, found[source.name])
        elif op in ELEMENTWISE and shape == shapes.get(node.name):
            demanded = found[node.name]
        found[source.name] = _agree(found[source.name], demanded)


def _argument(node: fx.Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _permuted(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    order = node.args[1:]
    if len(order) == 1 and isinstance(order[0], tuple | list):
        order = tuple(order[0])
    if sorted(o % len(given) for o in order if isinstance(o, int)) != list(range(len(given))):
        return None
    return tuple(given[o] for o in order)  # type: ignore[index]


def _transposed(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    first, second = _argument(node, 1, "dim0", None), _argument(node, 2, "dim1", None)
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    axes = list(given)
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def _reduced(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    dims = _argument(node, 1, "dim", None)
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or len(before) == len(after):
        return given if len(before) == len(after) else None
    gone = {d % len(given) for d in dims if isinstance(d, int)}
    return tuple(axis for index, axis in enumerate(given) if index not in gone)


def _indexed(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    index = node.args[1]
    parts = list(index) if isinstance(index, tuple | list) else [index]
    if any(not (isinstance(p, int | slice) or p is None or p is Ellipsis) for p in parts):
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        fill = len(given) - sum(isinstance(p, int | slice) for p in parts)
        parts[at : at + 1] = [slice(None)] * fill
    axes: list[Axis] = []
    rest = list(given)
    for part in parts:
        if part is None:
            axes.append("unknown")
        elif rest:
            axis = rest.pop(0)
            axes += [axis] if isinstance(part, slice) else []
    return tuple(axes + rest)


def _regrouped(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    """Match the axes of a reshape by sizes: kept, merged, or split (then unknown)."""
    axes: list[Axis] = []
    old, new = 0, 0
    while new < len(after):
        taken, made = [old], [new]
        if old >= len(before):
            return None
        while _size(before, taken) != _size(after, made):
            left, right = _size(before, taken), _size(after, made)
            if left is None or right is None:
                return None
            if left < right:
                taken.append(taken[-1] + 1)
            else:
                made.append(made[-1] + 1)
            if taken[-1] >= len(before) or made[-1] >= len(after):
                return None
        axes += [_merged([given[i] for i in taken])] if len(made) == 1 else ["unknown"] * len(made)
        old, new = taken[-1] + 1, made[-1] + 1
    return tuple(axes)


def _size(shape: Shape, indices: list[int]) -> int | None:
    """Return the product of sizes, the batch standing for a large prime."""
    product = 1
    for index in indices:
        size = shape[index]
        if size == "?":
            return None
        product *= size if isinstance(size, int) else 1_000_003 * int(size[:-1] or 1)
    return product


def _merged(axes: list[Axis]) -> Axis:
    if len(set(axes)) == 1 and len(axes) == 1:
        return axes[0]
    if "batch" in axes or "unknown" in axes:
        return "unknown"
    return "channel" if "channel" in axes else "tokens"


def _unsqueezed(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    dim = _argument(node, 1, "dim", None)
    if not isinstance(dim, int):
        return None
    at = dim % (len(given) + 1)
    return (*given[:at], "unknown", *given[at:])


def _squeezed(node: fx.Node, given: Axes, before: Shape, after: Shape) -> Axes | None:
    dim = _argument(node, 1, "dim", None)
    gone = (
        {dim % len(given)} if isinstance(dim, int) else {i for i, s in enumerate(before) if s == 1}
    )
    return tuple(axis for index, axis in enumerate(given) if index not in gone)


RULES: dict[str, Callable[[fx.Node, Axes, Shape, Shape], Axes | None]] = {
    "permute": _permuted, "transpose": _transposed, "swapaxes": _transposed,
    "swapdims": _transposed, "mean": _reduced, "sum": _reduced, "amax": _reduced,
    "amin": _reduced, "getitem": _indexed, "flatten": _regrouped, "reshape": _regrouped,
    "view": _regrouped, "unflatten": _regrouped, "unsqueeze": _unsqueezed, "squeeze": _squeezed,
}  # fmt: skip
