"""Two recordings become one graph: in eval at the example's batch, in train at one row more."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from topograph.errors import TraceError
from topograph.tracing.frames import Frame
from topograph.tracing.inputs import Inputs, batch_size
from topograph.tracing.ledger import Unrecordable
from topograph.tracing.modes import Merge, differing_owners, merge_modes
from topograph.tracing.preserve import preserved, seed, set_mode
from topograph.tracing.record import Recorder
from topograph.tracing.seen import NOTHING
from topograph.tracing.structure import Mould
from topograph.tracing.values import Values, known_values, paired

MOST_RESTARTS = 400


@dataclass(frozen=True)
class Recording:
    """What a model does, as one graph for both modes.

    Attributes:
        graph: The graph.
        values: What every node's value looks like.
        owners: For each node, the path of the module whose forward made the call.
        frames: For each submodule that was called once, what went in and came out.
        mould: How to make the model's output from the graph's.
        closed: Why submodules stayed whole, by path.
        outputs: What the model returned in both passes, and with which inputs.
        pretended: Whether the model was told that a compiler looks on.
        counted: Whether the model counts its calls in an attribute, or throws Python's dice.
        notes: What a user should know.
    """

    graph: fx.Graph
    values: Values
    owners: dict[str, str]
    frames: dict[str, Frame]
    mould: Mould
    closed: dict[str, str]
    outputs: tuple[tuple[bool, Inputs, Any], ...]
    pretended: bool
    counted: bool
    notes: tuple[str, ...]


@dataclass
class _How:
    """What is tried: it changes until a recording succeeds."""

    closed: dict[str, str]
    opened: frozenset[str]
    fake: bool
    pretend: bool = False
    insist: bool = False


def record(
    model: nn.Module,
    arguments: Inputs,
    closed: Mapping[str, str],
    opened: frozenset[str],
    fake: bool,
) -> Recording:
    """Record a model in both modes; close what cannot be written down, and start again.

    Raises:
        TraceError: The model fails by itself, or its own forward cannot be written down.
    """
    how = _How(dict(closed), opened, fake)
    batch = batch_size((arguments.args, arguments.kwargs))
    larger = arguments.with_rows(batch + 1)
    for _ in range(MOST_RESTARTS):
        try:
            evaluation = _once(model, arguments, how, training=False)
            train, given, why_fixed = _train(model, arguments, larger, how)
        except Unrecordable as error:
            _react(model, arguments, error, how)
            continue
        differing = differing_owners(train.ledger, evaluation.ledger)
        if "" in differing and given is not arguments:  # the rows may be why
            given, train = arguments, _once(model, arguments, how, training=True)
            why_fixed = "the model's own forward takes other steps for other rows"
            differing = differing_owners(train.ledger, evaluation.ledger)
        fixed = given is arguments
        if not differing:
            pairs = list(zip(evaluation.ledger.graph.nodes, train.ledger.graph.nodes, strict=True))
            differing = merge_modes(
                Merge(train.ledger, evaluation.ledger, batch, fixed),
                lambda: _once(model, arguments, how, training=True).ledger,
            )
        if not differing:
            outputs = ((False, arguments, evaluation.output), (True, given, train.output))
            values = _values(evaluation, train, pairs, (batch, batch if fixed else batch + 1))
            return _finished(evaluation, train, how, values, outputs, why_fixed)
        if "" in differing:
            raise TraceError(
                f"{type(model).__name__}.forward itself computes differently in train and in eval; "
                "move the part that does into a submodule, which can then stay whole"
            )
        reason = "computes differently in train and in eval"
        reason += "" if given is arguments else " (or with another number of rows)"
        how.closed |= dict.fromkeys(differing, reason)
    raise TraceError(
        f"{type(model).__name__}: more than {MOST_RESTARTS} submodules cannot be recorded"
    )


def _train(
    model: nn.Module,
    arguments: Inputs,
    larger: Inputs,
    how: _How,
) -> tuple[Recorder, Inputs, str]:
    """Record in train with one row more, or with the same rows where the model takes no others."""
    if how.insist:
        reason = "its own forward reads values, which other rows change"
        return _once(model, arguments, how, training=True), arguments, reason
    try:
        return _once(model, larger, how, training=True), larger, ""
    except Unrecordable as error:
        if not error.own:
            raise
        why = error.reason.splitlines()[0]
    return _once(model, arguments, how, training=True), arguments, why


def _once(model: nn.Module, arguments: Inputs, how: _How, training: bool) -> Recorder:
    with (
        preserved(model),
        FakeTensorMode(allow_non_fake_inputs=True) if how.fake else nullcontext(),
    ):
        set_mode(model, training)
        seed()
        recorder = Recorder(model, how.closed, how.opened, pretend=how.pretend, insist=how.insist)
        before = _counters(model)
        recorder.run(arguments)
        recorder.counted = before != _counters(model) or recorder.drew
    return recorder


def _counters(model: nn.Module) -> list[Any]:
    """Return the numbers that modules keep as plain attributes."""
    return [
        value
        for module in model.modules()
        for value in module.__dict__.values()
        if type(value) in (int, float)
    ]


def _react(model: nn.Module, arguments: Inputs, error: Unrecordable, how: _How) -> None:
    """Change how the next recording is made, or raise why there can be none."""
    if error.own:
        _fails_by_itself(model, arguments, error)
    path = error.path
    while path in how.closed:  # what is closed already fails in the hands of its caller
        path = path.rpartition(".")[0]
    if not how.pretend:
        how.pretend = True  # most checks of values are left out where a compiler looks on
    elif path:
        how.closed |= {path: error.reason}
    elif not how.insist:
        how.insist = True
    else:
        raise TraceError(
            f"{type(model).__name__}.forward itself {error.reason}; "
            "move that part into a submodule, which then stays whole"
        ) from error


def _fails_by_itself(model: nn.Module, arguments: Inputs, error: Unrecordable) -> None:
    """Raise if the model fails on the example inputs also without being recorded."""
    for training in (False, True):
        given = arguments.copied()
        with preserved(model), torch.no_grad():
            set_mode(model, training)
            try:
                model(*given.args, **given.kwargs)
            except Exception as own:
                where = f", in {error.path}" if error.path else ""
                raise TraceError(
                    f"{type(model).__name__} fails on the example inputs, also without topograph"
                    f"{where}: {type(own).__name__}: {own}"
                ) from own


def _values(
    evaluation: Recorder,
    train: Recorder,
    pairs: list[tuple[fx.Node, fx.Node]],
    batches: tuple[int, int],
) -> Values:
    """Return what was seen in both passes, by the names of the merged graph's nodes."""
    first = {ours.name: evaluation.ledger.results[twin.name] for twin, ours in pairs}
    second = {ours.name: train.ledger.results[ours.name] for _, ours in pairs}
    for node in train.ledger.graph.nodes:  # what the merge added has no tensors
        first.setdefault(node.name, NOTHING)
        second.setdefault(node.name, NOTHING)
    return known_values(paired(first, second, batches), batches)


def _finished(
    evaluation: Recorder,
    train: Recorder,
    how: _How,
    values: Values,
    outputs: Any,
    why_fixed: str,
) -> Recording:
    frames = {p: calls[0].named() for p, calls in train.frames.items() if len(calls) == 1}
    notes = dict.fromkeys((*evaluation.notes, *train.notes))
    if why_fixed:
        notes[f"the batch size is fixed at {values.batches[0]}: {why_fixed}"] = None
    return Recording(
        graph=train.ledger.graph,
        values=values,
        owners=train.ledger.owners,
        frames=frames,
        mould=train.mould,
        closed=how.closed,
        outputs=outputs,
        pretended=how.pretend,
        counted=evaluation.counted or train.counted,
        notes=tuple(notes),
    )
