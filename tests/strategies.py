"""Hypothesis strategies for documents, shared by all tests."""

import hypothesis.strategies as st

from tests.policy_strategies import metric_names
from tests.policy_strategies import policies as policies
from tests.random_models import random_models as random_models
from tests.request_strategies import (
    NODE_NAMES,
    mutations,
    node_names,
    tuples_of,
)
from topograph.spec import (
    Change,
    Check,
    Decision,
    Effects,
    Entry,
    Growth,
    History,
    Measurement,
    Plan,
    Ranked,
    Refusal,
)
from topograph.topology import Node, Parameter, Topology, diff

PATHS = ("fc.weight", "fc.bias", "norm.running_mean", "gate", "op", "detail", "shape")
DTYPES = ("float32", "bfloat16", "int64")
AXES = ("batch", "channel", "tokens", "space", "unknown")
KINDS = ("input", "module", "function", "method", "parameter", "output")

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**15)
words = st.text(max_size=12)
sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)
digests = st.text("0123456789abcdef", min_size=16, max_size=16)


def node_fields(earlier: tuple[str, ...]) -> dict[str, st.SearchStrategy]:
    """Return a strategy for each field of a node that may read the `earlier` ones."""
    return {
        "name": node_names,
        "kind": st.sampled_from(KINDS),
        "op": st.sampled_from(("linear", "relu", "conv2d", "add", "input", "output")),
        "target": st.sampled_from(("fc", "layers.0.fc", "torch.relu", "operator.add")),
        "scope": st.sampled_from(("", "layers.0", "head")),
        "detail": st.sampled_from(("", "16, 32", "kernel_size=(3, 3)")),
        "inputs": tuples_of(st.sampled_from(earlier), max_size=3) if earlier else st.just(()),
        "shape": st.none() | tuples_of(st.integers(1, 99) | st.sampled_from(("N", "16N", "?"))),
        "dtype": st.none() | st.sampled_from(DTYPES),
        "axes": tuples_of(st.sampled_from(AXES), max_size=4),
        "parameters": tuples_of(st.sampled_from(PATHS), max_size=3).map(
            lambda paths: tuple(dict.fromkeys(paths))
        ),
        "flops": st.integers(0, 10**12),
        "opaque": st.none() | st.sampled_from(("a loop over experts", "a branch on data")),
    }


parameter_fields = {
    "path": st.sampled_from(PATHS),
    "shape": tuples_of(st.integers(1, 99), max_size=4),
    "dtype": st.sampled_from(DTYPES),
}


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    """Draw a parameter or a buffer; a buffer is never trained."""
    state = draw(st.sampled_from(((True, False), (False, False), (False, True))))
    fields = {name: draw(values) for name, values in parameter_fields.items()}
    return Parameter(**fields, trainable=state[0], buffer=state[1])


@st.composite
def topologies(draw: st.DrawFn, *, min_nodes: int = 0, max_nodes: int = 6) -> Topology:
    """Draw a valid topology; names and paths come from small pools, so that pairs share some."""
    names = draw(
        st.lists(st.sampled_from(NODE_NAMES), unique=True, min_size=min_nodes, max_size=max_nodes)
    )
    nodes = []
    for index, name in enumerate(names):
        fields = node_fields(tuple(names[:index]))
        nodes.append(
            Node(**{field: draw(values) for field, values in fields.items()} | {"name": name})
        )
    return Topology(
        name=draw(words),
        nodes=tuple(nodes),
        parameters=tuple(draw(st.lists(parameters(), unique_by=lambda p: p.path, max_size=5))),
        applied=tuple(draw(st.lists(digests, max_size=2))),
    )


@st.composite
def relatives(draw: st.DrawFn, *, min_nodes: int = 0) -> tuple[Topology, Topology]:
    """Draw a topology and another: drawn anew, or the first with a node or parameters changed."""
    before = draw(topologies(min_nodes=min_nodes))
    if not before.nodes or draw(st.booleans()):
        return before, draw(topologies(min_nodes=min_nodes))
    index = draw(st.integers(0, len(before.nodes) - 1))
    earlier = tuple(node.name for node in before.nodes[:index])
    fields = node_fields(earlier)
    field = draw(st.sampled_from([name for name in fields if name != "name"]))
    node = before.nodes[index].model_copy(update={field: draw(fields[field])})
    nodes = (*before.nodes[:index], node, *before.nodes[index + 1 :])
    kept = tuple(p for p in before.parameters if draw(st.booleans()))
    return before, before.model_copy(update={"nodes": nodes, "parameters": kept})


refusals = st.builds(Refusal, node=node_names, reason=words, fix=words)
checks = st.builds(Check, name=words, passed=st.booleans(), found=words)
effects = st.builds(
    Effects,
    parameters_before=counts,
    parameters_after=counts,
    flops_before=counts,
    flops_after=counts,
)
plans = st.builds(
    Plan,
    base_sha256=sha256s,
    after_sha256=sha256s,
    changes=tuples_of(
        st.builds(
            Change,
            mutation=mutations,
            requested=digests,
            name=st.none() | st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
        ),
        max_size=2,
    ),
    diff=relatives().map(lambda pair: diff(*pair)),
    effects=effects,
    checks=tuples_of(checks, max_size=2),
    refusals=tuples_of(refusals, max_size=2),
    already_applied=tuples_of(digests, max_size=2),
)
ranked = st.builds(
    Ranked,
    mutation=mutations,
    value=finite,
    order=st.sampled_from((1, 2)),
    predicted=finite,
    parameters=counts,
    flops=counts,
    chosen=st.booleans(),
    raced=st.none() | finite,
    error=st.none() | finite,
)
growths = st.builds(
    Growth,
    reason=words,
    step=finite,
    loss_before=finite,
    loss_after=finite,
    predicted=finite,
    ranking=tuples_of(ranked, max_size=2),
    seconds=finite,
    rule=st.none() | words,
)
entries = st.builds(
    Entry,
    number=counts,
    kind=st.sampled_from(("base", "apply", "undo", "checkpoint")),
    created=words,
    stack=tuples_of(counts, max_size=3),
    folder=st.from_regex(r"[0-9]{6}-[0-9a-f]{12}", fullmatch=True),
    topology_sha256=sha256s,
    manifest_sha256=sha256s,
    plan=st.none() | plans,
    growth=st.none() | growths,
    metrics=st.dictionaries(metric_names, finite, max_size=2),
)
decisions = st.builds(
    Decision,
    step=counts,
    rule=st.none() | words,
    outcome=st.sampled_from(("waiting", "nothing", "budget", "trial", "grew", "undone")),
    reason=words,
)
histories = st.builds(
    History,
    model=words,
    entries=tuples_of(entries, max_size=2),
    curve=tuples_of(st.builds(Measurement, step=counts, name=words, value=finite), max_size=2),
    decisions=tuples_of(decisions, max_size=2),
)
