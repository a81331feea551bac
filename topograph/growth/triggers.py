"""Triggers: when it is time to grow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from topograph.errors import NonFiniteError, SpecError
from topograph.spec import Every, Plateau


@dataclass(frozen=True)
class Watch:
    """What a trigger remembers between steps.

    Attributes:
        steps: Steps seen in all.
        best: Best value of the watched metric since the last growth; None before the first.
        stale: Steps without improvement.
        resting: Steps of cooldown that are left.
    """

    steps: int = 0
    best: float | None = None
    stale: int = 0
    resting: int = 0


def advance(
    trigger: Plateau | Every, watch: Watch, metrics: Mapping[str, float]
) -> tuple[Watch, str | None]:
    """Return what to remember after one more step, and why it is time to grow, if it is.

    Raises:
        SpecError: The watched metric was not given.
        NonFiniteError: It is infinite or not a number.
    """
    watch = replace(watch, steps=watch.steps + 1)
    if isinstance(trigger, Every):
        due = watch.steps % trigger.steps == 0
        return watch, f"step {watch.steps} of every {trigger.steps}" if due else None
    value = metrics.get(trigger.metric)
    if value is None:
        given = ", ".join(metrics) or "none"
        raise SpecError(f"the policy watches {trigger.metric!r}, but step was given {given}")
    check_metrics({trigger.metric: value})
    if watch.resting:
        return replace(watch, resting=watch.resting - 1), None
    gain = _gain(trigger, watch.best, value)
    if gain is None or gain > trigger.min_delta:
        return replace(watch, best=value, stale=0), None
    watch = replace(watch, stale=watch.stale + 1)
    if watch.stale < trigger.patience:
        return watch, None
    reason = (
        f"{trigger.metric} has not improved on {watch.best:.4g} by {trigger.min_delta:g} "
        f"for {watch.stale} steps"
    )
    return watch, reason


def after_growth(trigger: Plateau | Every, watch: Watch) -> Watch:
    """Return what to remember after a growth: the metric starts anew, after the cooldown."""
    resting = trigger.cooldown if isinstance(trigger, Plateau) else 0
    return Watch(steps=watch.steps, resting=resting)


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raise unless every metric is a finite number."""
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"the metric {name!r} is a {type(value).__name__}; give a float")
        if value != value or value in (float("inf"), float("-inf")):
            raise NonFiniteError(f"the metric {name!r} is {value}; nothing was changed")


def _gain(trigger: Plateau, best: float | None, value: float) -> float | None:
    if best is None:
        return None
    return best - value if trigger.mode == "min" else value - best
