"""`Experiment`: a training run that a policy can grow, as one value."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from topograph.errors import SpecError
from topograph.growth.fleet import APART
from topograph.growth.grower import Grower
from topograph.rewrite import Revision
from topograph.sensitivity.batches import Loss
from topograph.spec import Policy
from topograph.training.parallel import How


@dataclass(frozen=True)
class Experiment:
    """All that a training run needs, made by a function that ``topograph grow`` can call.

    Args:
        model: The network.
        example_inputs: Positional inputs for tracing.
        loss: From output and target to a scalar, a mean over the batch.
        optimizer: Holds the model's parameters.
        train: Trains a model for one step of the policy, usually an epoch.
        validate: Returns a model's metrics by name.
        probe: Makes the batches that candidates are scored on.
        steps: How often to train and validate.
        scheduler: Stepped after every training step, if there is one; one that watches a metric
            is given the first that `validate` returns.
        source: Where the model comes from, e.g. ``pkg.mod:make_model``.
        ema: An average that `train` keeps up to date, if there is one.
        scaler: The ``GradScaler`` that `train` uses, if there is one.
        carry: What else a resumed run must have as it was, by name; see `Grower`.

    Raises:
        TypeError: A field is missing.

    Example:
        >>> import topograph as tg
        >>> [f for f in tg.Experiment.__dataclass_fields__][:2]
        ['model', 'example_inputs']

    References:
        https://docs.pytorch.org/tutorials/beginner/introyt/trainingyt.html
    """

    model: nn.Module
    example_inputs: Sequence[Any]
    loss: Loss
    optimizer: torch.optim.Optimizer
    train: Callable[[nn.Module, torch.optim.Optimizer], object]
    validate: Callable[[nn.Module], Mapping[str, float]]
    probe: Callable[[], Sequence[tuple[Any, Any]]]
    steps: int
    scheduler: Any = field(default=None)
    source: str | None = None
    ema: Any = field(default=None)
    scaler: Any = field(default=None)
    carry: Mapping[str, Any] = field(default_factory=dict)


class Progress(NamedTuple):
    """Where an experiment is after one step.

    Attributes:
        step: Counts from 1.
        metrics: What was validated.
        revision: The growth that followed, if any.
        grower: Has the network as it is now.
        training_seconds: Spent in training and validation so far, also before a resume.
        growth_seconds: Spent in growth so far, also before a resume.
    """

    step: int
    metrics: Mapping[str, float]
    revision: Revision | None
    grower: Grower
    training_seconds: float
    growth_seconds: float


def run_experiment(
    experiment: Experiment,
    policy: Policy | None,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    parallel: How | None = None,
) -> Iterator[Progress]:
    """Train, validate and grow, one step at a time.

    Args:
        experiment: What to train.
        policy: When, where and how far to grow; a resumed run has its own.
        run: Directory for the journal; None keeps nothing.
        resume: Go on with the run that is there.
        parallel: How the model is spread over the ranks of ``torch.distributed``; see `Grower`.

    Yields:
        Where it is after each step. The journal is closed, with the last weights, at the end.
    """
    if not isinstance(experiment, Experiment):
        raise SpecError(
            f"the experiment's function must return a topograph.Experiment, "
            f"got {type(experiment).__name__}"
        )
    if experiment.steps < 1:
        raise SpecError(f"the experiment has {experiment.steps} steps; give at least 1")
    with _grower(experiment, policy, run, resume, parallel) as grower:
        fleet = grower.fleet
        if grower.steps >= experiment.steps:
            raise SpecError(
                f"{run}: has all {experiment.steps} steps of the experiment; give it more to go on"
            )
        training = grower.seconds[0] - grower.seconds[1]
        for step in range(grower.steps + 1, experiment.steps + 1):
            began = time.perf_counter()
            with fleet.ranks.together("training", timeout=APART):
                experiment.train(grower.model, experiment.optimizer)
                measured = dict(experiment.validate(grower.model))
            (metrics,) = fleet.told(measured)
            _step(experiment.scheduler, metrics)
            trained = time.perf_counter()
            revision = grower.step(metrics, batches=experiment.probe)
            training += trained - began
            growth = grower.seconds[1]  # keeping the state is not growing
            yield Progress(step, metrics, revision, grower, training, growth)
        spent = {"training_seconds": training, "growth_seconds": growth}
        grower.close({**metrics, **spent, "step": float(step)})


def _grower(
    experiment: Experiment,
    policy: Policy | None,
    run: str | Path | None,
    resume: bool,
    parallel: How | None,
) -> Grower:
    given: dict[str, Any] = {
        name: getattr(experiment, name)
        for name in ("example_inputs", "loss", "optimizer", "scheduler", "ema", "scaler", "carry")
    }
    given["parallel"] = parallel
    if resume:
        if run is None:
            raise SpecError("resume needs the run directory to go on with")
        return Grower.resume(run, experiment.model, **given)
    if policy is None:
        raise SpecError("a new run needs a policy")
    return Grower(experiment.model, policy, run=run, source=experiment.source, **given)


def _step(scheduler: Any, metrics: Mapping[str, float]) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(next(iter(metrics.values())))
    elif scheduler is not None:
        scheduler.step()
