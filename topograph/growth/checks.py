"""What is checked before a network grows: the policy, the optimizer, the probe batches."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from topograph.errors import MigrationError, RefusedError, SelectorError, ShapeError, SpecError
from topograph.growth.course import Gear
from topograph.growth.propose import offered
from topograph.sensitivity.batches import pairs
from topograph.spec import Policy, Refusal
from topograph.tracing import TracedModel
from topograph.training.held import held_by


def check_policy(traced: TracedModel, policy: Policy) -> None:
    """Raise unless some rule has a place where it can do something now.

    Raises:
        SpecError: It is no policy.
        SelectorError: No selector matches anything.
        RefusedError: The candidates can be scored nowhere.
    """
    if not isinstance(policy, Policy):
        raise SpecError(
            f"the policy is a {type(policy).__name__}; give a Policy, e.g. of Policy.load(path)"
        )
    found: list[Any] = []
    misses: list[SelectorError] = []
    for rule in policy.rules:
        try:
            found += offered(traced, rule)
        except SelectorError as error:
            misses.append(error)
    if len(misses) == len(policy.rules):
        raise misses[0]
    refusals = tuple(item for item in found if isinstance(item, Refusal))
    if len(refusals) == len(found):
        raise RefusedError("the policy's candidates can be scored nowhere in this model:", refusals)


def check_gear(traced: TracedModel, gear: Gear) -> None:
    """Raise unless the optimizer holds parameters of the model, and the rest keeps a state.

    Raises:
        MigrationError: One of them is something else.
    """
    optimizer = gear.optimizer
    if not isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise MigrationError(f"the optimizer is a {kind}; give one of torch.optim, made")
    for name, companion in gear.companions.items():
        if companion is not None and not hasattr(companion, "state_dict"):
            raise MigrationError(
                f"the {name} is a {type(companion).__name__}, which has no state_dict"
            )
    if not held_by(optimizer, dict(traced.module.named_parameters())):
        raise MigrationError(
            f"the {type(optimizer).__name__} holds none of the model's parameters; "
            "make it from model.parameters()"
        )


def check_batches(batches: Iterable[Any], reason: str) -> list[tuple[Any, Any]]:
    """Return probe batches as pairs of inputs and target.

    Raises:
        ShapeError: There are none, or one is no pair or has no samples.
    """
    probe = list(pairs(batches))
    if not probe:
        raise ShapeError(f"it is time to grow ({reason}), but step was given no batches")
    for index, (_, target) in enumerate(probe):
        if isinstance(target, Tensor) and not target.numel():
            raise ShapeError(f"probe batch {index} has no samples; leave it out")
    return probe


def read_once(batches: Any) -> Callable[[], list[Any]]:
    """Return a function that reads the probe batches when it is first called, for all rules.

    It raises ShapeError where they are nothing that can be read.
    """
    made: list[list[Any]] = []

    def read() -> list[Any]:
        if not made:
            given = batches() if callable(batches) else batches
            if not isinstance(given, Iterable):
                raise ShapeError(
                    f"batches is a {type(given).__name__}; give pairs (inputs, target)"
                )
            made.append(list(given))
        return made[0]

    return read
