"""`trace`: a module becomes a graph; the module stays as it was."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from topograph.errors import TopographError, TraceError
from topograph.topology import Topology
from topograph.tracing.describe import describe
from topograph.tracing.inputs import bind_inputs, named_inputs, own_inputs
from topograph.tracing.modes import differing_owners, merge_modes
from topograph.tracing.module import Network, build
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.record import CONSTANTS, Recorder, Unrecordable
from topograph.tracing.symbolic import trace_symbolically
from topograph.tracing.values import Values, find_values
from topograph.tracing.verify import compare

MOST_RESTARTS = 400


@dataclass(frozen=True)
class TracedModel:
    """A model as a graph that still trains: the result of `trace`, `apply` and `undo`.

    Args:
        module: An ordinary trainable module, a ``torch.fx.GraphModule`` on the original module
            tree: it has the same parameters (shared with the model), buffers and state keys.
        topology: What it looks like, without torch.
        inputs: The example inputs by the names of the model's inputs; empty if there were none.
        values: What every value looks like: shapes at two batch sizes, aliases, writes.
        opaque: Why a submodule stayed closed, by its path.
        notes: Limits of this trace that a user should know.

    Raises:
        TypeError: A field is missing; `trace` makes these.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8)), (torch.zeros(2, 4),))
        >>> traced.module(torch.zeros(5, 4)).shape
        torch.Size([5, 8])

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """

    module: Network
    topology: Topology
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    values: Values | None = field(default=None, repr=False)
    opaque: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.topology), *(f"note: {note}" for note in self.notes)])


def trace(
    model: nn.Module,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    opaque: Sequence[str] = (),
    transparent: Sequence[str] = (),
    fake: bool = False,
) -> TracedModel:
    """Return a model as a graph with the shape of every value; the model is left untouched.

    The model is run on the example inputs in train and in eval while its calls are written down;
    sizes stay symbolic, so that other batch sizes work. The record is compared with the model in
    both modes before it is returned. Without example inputs it is traced symbolically: then there
    are no shapes, and nothing can be scored or inserted.

    Args:
        model: Any module. Its parameters are shared with the result, not copied.
        example_inputs: Positional inputs; axis 0 of the first tensor is taken for the batch.
        example_kwargs: Keyword inputs.
        opaque: Paths of submodules to keep closed, each one node.
        transparent: Paths of submodules to open although they are layers of torch.
        fake: Skip the comparison with the model, which runs it four times more.

    Returns:
        The graph (`module`), its `topology`, and what could not be opened, with reasons.

    Raises:
        TraceError: The model's own forward fails, or cannot be written down; says where and why.
        GuardError: A module's or attribute's name must not reach generated code.

    Example:
        >>> import topograph as tg, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> [n.shape for n in tg.trace(model, (torch.zeros(2, 4),)).topology.nodes][:2]
        [('N', 4), ('N', 8)]

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace takes an nn.Module, got {type(model).__name__}; call its factory")
    compiled = getattr(model, "_orig_mod", None)  # torch.compile's wrapper
    if isinstance(compiled, nn.Module):
        model = compiled
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    for path in (*opaque, *transparent):
        if path not in paths:
            raise TraceError(f"the model has no submodule {path!r} to keep closed or open")
    closed = {path: "asked for" for path in opaque}
    opened = frozenset(transparent)
    if not example_inputs and not example_kwargs and _needs_inputs(model):
        return _symbolic(model, closed, opened)
    given = tuple(example_inputs)
    try:
        arguments = bind_inputs(model, given, example_kwargs or {})
    except TypeError as error:
        raise TraceError(
            f"the example inputs do not fit {type(model).__name__}.forward: {error}"
        ) from None
    with preserved(model):
        graph, closed = _record(model, arguments, closed, opened)
    constants = tuple(
        (position, name, value)
        for position, (name, value) in enumerate(named_inputs(arguments))
        if type(value) in CONSTANTS
    )
    network = build(graph, model, type(model).__name__, constants)
    inputs = dict(named_inputs(arguments))
    values = find_values(network, inputs)
    notes = [values.note] if values.note else []
    notes += ["torch.compile's wrapper was taken off; recompile wraps it again"] if compiled else []
    if not fake:
        compare(model, network, given, dict(example_kwargs or {}), inputs)
    notes += _hook_notes(model)
    topology = describe(network, values, closed)
    return TracedModel(network, topology, inputs, values, closed, tuple(notes))


def _needs_inputs(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.default is inspect.Parameter.empty for p in parameters)


def _symbolic(model: nn.Module, closed: dict[str, str], opened: frozenset[str]) -> TracedModel:
    graphs = []
    with preserved(model):
        for training in (True, False):
            set_mode(model, training)
            graphs.append(trace_symbolically(model, closed, opened))
    (train, train_owners), (evaluation, evaluation_owners) = graphs
    if differing_owners(train, train_owners, evaluation, evaluation_owners) or merge_modes(
        train, evaluation, train_owners
    ):
        raise TraceError(
            f"{type(model).__name__} computes differently in train and in eval; "
            "pass example_inputs=(…), so that both can be recorded"
        )
    network = build(train, model, type(model).__name__)
    note = "traced without example inputs: no shapes, and Python's control flow was not followed"
    return TracedModel(network, describe(network, None, closed), opaque=closed, notes=(note,))


def _record(
    model: nn.Module,
    arguments: inspect.BoundArguments,
    closed: dict[str, str],
    opened: frozenset[str],
) -> tuple[fx.Graph, dict[str, str]]:
    """Record in train and in eval; close what cannot be written down, and start again."""
    for _ in range(MOST_RESTARTS):
        try:
            train, train_owners = _one_recording(model, arguments, closed, opened, True)
            evaluation, evaluation_owners = _one_recording(model, arguments, closed, opened, False)
        except Unrecordable as error:
            if not error.path:
                raise _cannot(model, arguments, error) from error
            closed = closed | {error.path: error.reason}
            continue
        differing = differing_owners(train, train_owners, evaluation, evaluation_owners)
        if not differing:
            differing = merge_modes(train, evaluation, train_owners)
        if not differing:
            return train, closed
        if "" in differing:
            raise TraceError(
                f"{type(model).__name__}.forward itself computes differently in train and in eval; "
                "move the part that does into a submodule, which can then stay whole"
            )
        closed = closed | dict.fromkeys(differing, "computes differently in train and in eval")
    raise TraceError(
        f"{type(model).__name__}: more than {MOST_RESTARTS} submodules cannot be recorded"
    )


def _one_recording(
    model: nn.Module,
    arguments: inspect.BoundArguments,
    closed: Mapping[str, str],
    opened: frozenset[str],
    training: bool,
) -> tuple[fx.Graph, dict[str, str]]:
    with preserved(model):
        set_mode(model, training)
        recorder = Recorder(model, closed, opened)
        graph = recorder.run(arguments)
    return graph, recorder.owners


def _cannot(
    model: nn.Module, arguments: inspect.BoundArguments, error: Unrecordable
) -> TopographError:
    """Tell a model that fails by itself from one that only cannot be recorded."""
    name = type(model).__name__
    try:
        given = own_inputs(arguments)
        with preserved(model), torch.no_grad():
            model(*given.args, **given.kwargs)
    except Exception as own:
        return TraceError(
            f"{name} fails on the example inputs, also without topograph: "
            f"{type(own).__name__}: {own}"
        )
    return TraceError(
        f"{name}.forward itself {error.reason}; "
        "move that part into a submodule, which then stays whole"
    )


def _hook_notes(model: nn.Module) -> list[str]:
    return [
        f"hooks of {path or 'the model itself'} ran while recording and are not called again"
        for path, module in model.named_modules()
        if (module._forward_hooks or module._forward_pre_hooks) and next(module.children(), None)
    ]
