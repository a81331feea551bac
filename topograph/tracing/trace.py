"""`trace`: a module becomes a graph; the module stays as it was."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from topograph.errors import TraceError
from topograph.topology import Topology
from topograph.tracing.describe import describe
from topograph.tracing.frames import Frame
from topograph.tracing.functions import CONSTANTS
from topograph.tracing.hosting import hosted
from topograph.tracing.inputs import inputs_of
from topograph.tracing.modes import Merge, differing_owners, merge_modes
from topograph.tracing.module import Calling, Network, build, taken
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.recording import record
from topograph.tracing.symbolic import trace_symbolically
from topograph.tracing.values import Values
from topograph.tracing.verify import compare
from topograph.tracing.wrappers import unwrapped


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
        model: The module tree with its classes; the original model where nothing was edited.
        frames: What went into and came out of every submodule that was called once.
        hosts: Paths of the submodules that run a graph of their own; empty for the root.

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
    model: nn.Module | None = field(default=None, repr=False)
    frames: Mapping[str, Frame] = field(default_factory=dict, repr=False)
    hosts: frozenset[str] = frozenset()

    @cached_property
    def kept(self) -> nn.Module:
        """The model as a module of its own class, with the edited submodules' graphs inside.

        Where an edit needs the root's own forward, or where the calls of submodules are not known,
        it is `module`, a ``torch.fx.GraphModule``.
        """
        if self.model is None or "" in self.hosts:
            return self.module
        if not self.hosts:
            return self.model
        scopes = {node.name: node.scope for node in self.topology.nodes}
        return hosted(self.module.graph, scopes, self.frames, self.model, self.hosts)

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
        fake: Record on fake tensors, which have shapes and no numbers: for models too big to run.
            Nothing is compared then.

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
    model, wrapped = unwrapped(model)
    _free_names(model)
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
        arguments = inputs_of(model, given, example_kwargs or {})
    except TypeError as error:
        raise TraceError(
            f"the example inputs do not fit {type(model).__name__}.forward: {error}"
        ) from None
    recording = record(model, arguments, closed, opened, fake)
    constants = tuple(
        (position, name, value)
        for position, (name, value) in enumerate(arguments.named())
        if type(value) in CONSTANTS
    )
    network = build(
        recording.graph, model, type(model).__name__, Calling(constants, recording.mould)
    )
    if not fake:
        compare(model, network, recording)
    topology = describe(network, recording.values, recording.closed, recording.owners)
    notes = (*wrapped, *recording.notes, *_hook_notes(model))
    inputs = dict(arguments.named())
    return TracedModel(
        module=network,
        topology=topology,
        inputs=inputs,
        values=recording.values,
        opaque=recording.closed,
        notes=notes,
        model=model,
        frames=recording.frames,
    )


def _free_names(model: nn.Module) -> None:
    for name, what in taken(model).items():
        raise TraceError(
            f"{type(model).__name__}.{name}: a {what} at the top of a model cannot be called "
            f"{name!r}: the recorded network, a torch.fx.GraphModule, has an attribute of that "
            f"name; rename the {what}"
        )


def _needs_inputs(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.default is inspect.Parameter.empty for p in parameters)


def _symbolic(model: nn.Module, closed: dict[str, str], opened: frozenset[str]) -> TracedModel:
    graphs = []
    with preserved(model):
        for training in (True, False):
            set_mode(model, training)
            graphs.append(trace_symbolically(model, closed, opened))
    train, evaluation = graphs
    merge = Merge(train, evaluation, 0, fixed=True)
    if differing_owners(train, evaluation) or merge_modes(merge, lambda: train):
        raise TraceError(
            f"{type(model).__name__} computes differently in train and in eval; "
            "pass example_inputs=(…), so that both can be recorded"
        )
    network = build(train.graph, model, type(model).__name__)
    note = "traced without example inputs: no shapes, and Python's control flow was not followed"
    topology = describe(network, None, closed, train.owners)
    return TracedModel(network, topology, opaque=closed, notes=(note,))


def _hook_notes(model: nn.Module) -> list[str]:
    return [
        f"hooks of {path or 'the model itself'} ran while recording and are not called again"
        for path, module in model.named_modules()
        if (module._forward_hooks or module._forward_pre_hooks) and next(module.children(), None)
    ]
