r"""The tape: states and adjoints of many edges from one pass forward and one backward.

With the loss :math:`J` as it is differentiated, the adjoint of an edge that carries :math:`x` is
:math:`p = -\partial J / \partial x`. Each edge's pair is reduced to a statistic inside the
backward hook, so that adjoints are never stored.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from topograph.errors import NonFiniteError, ShapeError
from topograph.sensitivity.batches import Loss, arguments, pairs, through, value_of, widened
from topograph.sensitivity.over_ranks import Reduce, batch_count
from topograph.spec import At, Between, Place
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode

Listener = Callable[..., None]  # of state, adjoint, and what is heard beside them
Noise = Callable[[Loss, Any, Any], tuple[Tensor, Tensor]]  # of loss, output and target


@dataclass(frozen=True)
class Probe:
    """Who listens at a place, and the node whose state is heard there.

    Attributes:
        place: Where the adjoint is taken.
        state: The node whose value is the state; that of the place itself, but for a branch.
        listen: Called once in every backward pass of the loss with state and adjoint; None for one
            that only feels.
        feel: Called once in every backward pass of the noise, with state and what arrives.
        beside: Nodes above whose values, of whatever type, `listen` is given as well.
    """

    place: Place
    state: str
    listen: Listener | None
    feel: Listener | None = None
    beside: tuple[str, ...] = ()


def sweep(
    traced: TracedModel,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss,
    probes: Iterable[Probe],
    done: Callable[[float], None] | None = None,
    reduce: Reduce | None = None,
    noise: Noise | None = None,
    every: int = 1,
    first: int = 0,
) -> int:
    """Run every batch forward and backward in eval mode; probes hear states and adjoints.

    Args:
        traced: The model; its buffers, modes, gradients and random state stay as they are.
        batches: Pairs of inputs (a tensor, a tuple, or a dict by input name) and target.
        loss: From output and target to a scalar, a mean over the batch.
        probes: Who listens where.
        done: Called after every batch with its loss.
        reduce: Sums a tensor over all ranks of a distributed run, of which each has its batches.
        noise: Makes a tensor of the output and a gradient for it, to go backward a second time.
        every: In one of so many batches, from the first.
        first: The number that errors give the first batch.

    Returns:
        The number of batches, of all ranks together.

    Raises:
        NonFiniteError: A loss or an adjoint is infinite or not a number; names batch and node.
        ShapeError: A rank has no batches, one is no pair or does not go through the model or the
            loss, or the loss is no scalar that depends on the model.
        SpecError: The loss is no function.
    """
    tape, count = _Tape(traced, list(probes)), 0
    with preserved(traced.module), _without_parameter_gradients(traced.module), torch.enable_grad():
        set_mode(traced.module, training=False)
        for inputs, target in pairs(batches, first):
            again = None if count % every else noise
            value = _both_ways(tape, first + count, inputs, target, loss, again)
            count += 1
            if done is not None:
                done(value)
    return batch_count(count, reduce, next(traced.module.parameters(), None))


def _both_ways(
    tape: "_Tape", batch: int, inputs: Any, target: Any, loss: Loss, noise: Noise | None
) -> float:
    """Run one batch forward and backward, and return its loss; nothing of the run is kept."""
    with through(batch, "the model or the loss"):
        passes = 1 if noise is None else 2
        output = widened(tape.forward(batch, arguments(tape.traced, inputs), passes))
        value = value_of(loss, output, target)
    _check_loss(value, batch)
    try:  # backward to the leaves: not into the loss's own parameters
        value.backward(-torch.ones_like(value), noise is not None, inputs=tape.leaves)
        if noise is not None:
            tape.turn = 2
            made, gradient = noise(loss, output, widened(target))
            made.backward(gradient, inputs=tape.leaves)
    finally:
        tape.leaves.clear()
    return value.item()


class _Tape(fx.Interpreter):
    """Runs the graph and hangs a hook on every place that somebody listens at.

    Only the hooks keep the states, each until the last pass backward has come by.
    """

    def __init__(self, traced: TracedModel, probes: list[Probe]) -> None:
        super().__init__(traced.module, garbage_collect_values=True)
        self.traced = traced
        self._at: dict[str, list[Probe]] = {}
        self._on: dict[tuple[str, int], list[Probe]] = {}
        for probe in probes:
            if isinstance(probe.place, At):
                self._at.setdefault(probe.place.node, []).append(probe)
            else:
                self._on.setdefault((probe.place.target, probe.place.slot or 0), []).append(probe)
        self._kept = {probe.state for probe in probes if not isinstance(probe.place, Between)}
        self._beside = {name for probe in probes for name in probe.beside}
        self._states: dict[str, Tensor] = {}
        self._overwritten = _overwritten(traced)
        self.leaves: list[Tensor] = []
        self.batch, self.turn = 0, 1  # which batch, and which pass backward: 2 is that of the noise
        self._passes = 1

    def forward(self, batch: int, inputs: tuple[Any, ...], passes: int) -> Any:
        """Run a batch that goes backward so many times."""
        self.batch, self.turn, self._passes = batch, 1, passes
        try:
            return self.run(*inputs)
        finally:
            self.env.clear()
            self._states.clear()

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        given = super().placeholder(target, args, kwargs)
        return pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), given)  # it may be reused

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._beside:
            self._states[n.name] = self._as_now(value, n.name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        probes = self._at.get(n.name, [])
        if probes:
            value = self._own(value, n)
        if n.name in self._kept:
            self._states[n.name] = self._as_now(value, n.name)
        if probes:
            self._hang(value, probes, n.name)
        return value

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if not any(target == n.name for target, _ in self._on):
            return args, kwargs
        slot = -1

        def use(source: fx.Node) -> Any:
            nonlocal slot
            slot += 1
            value = self.env[source]
            probes = self._on.get((n.name, slot), [])
            if not probes:
                return value
            value = value.view_as(value) if value.requires_grad else self._leaf(value)
            state = value.detach()
            if source.name in self._overwritten:
                state, value = state.clone(), value.clone()
            self._hang(value, probes, f"{source.name} -> {n.name}", state)
            return value

        return map_arg((n.args, n.kwargs), use)

    def _own(self, value: Tensor, node: fx.Node) -> Tensor:
        """Give a value its own object and a place in the backward pass.

        A layer that hands back its input (Identity, dropout in eval) would otherwise share the
        hook, and with it the gradients of the input's other readers.
        """
        if not value.requires_grad:
            value = self._leaf(value)
            return value.clone() if node.name in self._overwritten else value  # leaves stay
        if any(value is self.env[source] for source in node.all_input_nodes):
            return value.view_as(value)
        return value

    def _as_now(self, value: Tensor, name: str) -> Tensor:
        """Return a value as it is now, also where its memory is written to later."""
        return value.detach().clone() if name in self._overwritten else value.detach()

    def _leaf(self, value: Tensor) -> Tensor:
        """Return a value as a place where the backward pass ends."""
        self.leaves.append(value.detach().requires_grad_())
        return self.leaves[-1]

    def _hang(
        self, value: Tensor, probes: list[Probe], where: str, state: Tensor | None = None
    ) -> None:
        states = [
            (
                probe,
                self._states[probe.state] if state is None else state,
                [self._states[name] for name in probe.beside],
            )
            for probe in probes
        ]

        def hook(gradient: Tensor) -> None:
            with torch.no_grad():
                if not torch.isfinite(gradient.sum()):
                    raise NonFiniteError(
                        f"the adjoint at {where} is not finite in batch {self.batch}; look at the "
                        "loss"
                    )
                for probe, heard, beside in states:
                    if self.turn == 1 and probe.listen is not None:
                        probe.listen(heard, gradient, *beside)
                    elif self.turn == 2 and probe.feel is not None:
                        probe.feel(heard, gradient)
            if self.turn == self._passes:
                states.clear()

        value.register_hook(hook)


def _overwritten(traced: TracedModel) -> frozenset[str]:
    """Return the nodes whose memory a later node writes to."""
    if traced.values is None:
        return frozenset()
    written: set[tuple[int, int]] = set()
    found = set()
    for name, value in reversed(list(traced.values.by_node.items())):
        if value.storages & written:
            found.add(name)
        written |= value.written
    return frozenset(found)


@contextmanager
def _without_parameter_gradients(module: nn.Module) -> Iterator[None]:
    """Let the backward pass go through activations only: no weight gradients, no ``.grad``."""
    asked = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def _check_loss(value: Tensor, batch: int) -> None:
    if not torch.isfinite(value):
        raise NonFiniteError(f"the loss of batch {batch} is {value.item()}; nothing was changed")
    if not value.requires_grad:
        raise ShapeError("the loss does not depend on any scored place; check the loss function")
