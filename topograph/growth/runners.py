"""Networks that are trained in turn with one optimizer, each going on from where it stopped."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from topograph.growth.course import Gear
from topograph.rewrite import Revision
from topograph.sensitivity import mean_loss
from topograph.sensitivity.batches import Loss, arguments
from topograph.tracing import TracedModel
from topograph.training import migrate
from topograph.training.gradients import LEFT, restore_gradients
from topograph.training.held import members
from topograph.training.ranks import Ranks
from topograph.training.snapshot import (
    copied,
    random_state,
    restore,
    set_random_state,
    snapshot,
)


class Stop(NamedTuple):
    """Where a training stopped: copies of what the optimizer, the pace and the dice go on from."""

    training: dict[str, Any]
    pace: dict[str, Any] | None
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Track:
    """What networks are trained with, one after another.

    Attributes:
        traced: The network as it is, whose parameters the optimizer holds.
        batches: Trained on in turn, and measured on.
        loss: From output and target to a scalar.
        gear: The optimizer trains them all; the scheduler and averages wait.
        ranks: The processes that train together: each has its own batches, gradients are means.
    """

    traced: TracedModel
    batches: Sequence[tuple[Any, Any]]
    loss: Loss
    gear: Gear
    ranks: Ranks


@dataclass
class Runner:
    """A network in training.

    Attributes:
        network: The network.
        revision: What made it; None for the network as it is.
        steps: Optimizer steps so far.
        loss: Measured after them, infinite if training diverged.
        stop: Where it goes on from; None before it has begun.
    """

    network: TracedModel
    revision: Revision | None = None
    steps: int = 0
    loss: float = math.inf
    stop: Stop | None = None


@contextmanager
def put_back(track: Track) -> Iterator[Stop]:
    """Give where the network as it is stands; afterwards its gradients are there again."""
    begin, left = stop(track.traced.module, track.gear), LEFT.get(track.gear.optimizer)
    held = {*track.traced.module.parameters(), *members(track.gear.optimizer)}
    gradients = [(parameter, parameter.grad) for parameter in held]
    try:
        for parameter in held:
            parameter.grad = None
        yield begin
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        restore_gradients(track.gear.optimizer, left)


@contextmanager
def running(track: Track, runner: Runner, begin: Stop) -> Iterator[None]:
    """Let the optimizer train a network from where it stopped, then the one as it is again."""
    base, module = track.traced.module, runner.network.module
    if runner.stop is not None:
        go_on(runner.stop, module, track.gear, held=base)
    elif runner.revision is not None:
        migrate(runner.revision, optimizer=track.gear.optimizer)
    try:
        if runner.stop is None:
            _to_train(module, _left_in_eval(base))
            if track.gear.pace is not None:
                track.gear.pace.remap(dict(module.named_parameters()))
        yield
    finally:
        go_on(begin, base, track.gear, held=module)


def train(track: Track, runner: Runner, steps: int) -> int:
    """Train for some more steps, or until the loss is not finite; measure.

    Returns:
        How many steps there were.
    """
    traced, optimizer, done = runner.network, track.gear.optimizer, 0
    while done < steps:
        inputs, target = track.batches[runner.steps % len(track.batches)]
        optimizer.zero_grad()
        value = track.loss(traced.module(*arguments(traced, inputs)), target)
        if track.ranks.sum(torch.isfinite(value).logical_not().long()):
            runner.loss = math.inf
            return done
        value.backward()
        _average(traced.module, track.ranks)
        optimizer.step()
        runner.steps, done = runner.steps + 1, done + 1
    optimizer.zero_grad()
    after = mean_loss(traced, track.batches, track.loss, track.ranks.reduce)
    runner.loss = after if math.isfinite(after) else math.inf
    return done


def stop(module: nn.Module, gear: Gear) -> Stop:
    """Return where the training of a network stands."""
    pace = gear.pace.state() if gear.pace is not None else None
    return Stop(copied(snapshot(module, gear.optimizer)), pace, random_state())


def go_on(where: Stop, module: nn.Module, gear: Gear, *, held: nn.Module) -> None:
    """Go on from where a network stopped, without gradients.

    Args:
        where: From `stop`, of this network.
        module: The network.
        gear: Its optimizer gets the network's parameters.
        held: The network whose parameters it holds now.
    """
    restore(where.training, module, gear.optimizer, held=held)
    if gear.pace is not None and where.pace is not None:
        gear.pace.load(where.pace, dict(module.named_parameters()))
    set_random_state(where.numbers)
    for parameter in {*module.parameters(), *members(gear.optimizer)}:
        parameter.grad = None


def _left_in_eval(module: nn.Module) -> set[str]:
    """Return the layers that are in eval by themselves, such as a frozen norm: not all of them."""
    modes = {path: m.training for path, m in module.named_modules() if not list(m.children())}
    return {path for path, trains in modes.items() if not trains} if any(modes.values()) else set()


def _to_train(module: nn.Module, but: set[str]) -> None:
    """Put all but some layers in train mode."""
    module.train()
    for path in but & {path for path, _ in module.named_modules()}:
        module.get_submodule(path).eval()


def _average(module: nn.Module, ranks: Ranks) -> None:
    """Make every gradient its mean over the ranks."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if ranks.size == 1 or not gradients:
        return
    summed = ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = summed.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.reshape(gradient.shape) / ranks.size)
