"""`Policy`: when, where and how far a network grows, as a JSON document."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.mutations import Mutation
from topograph.topology import Record

MetricName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$", max_length=128)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Steps = Annotated[int, Field(ge=1, le=10**9)]


class Plateau(Record):
    """Grow when a metric has not improved by `min_delta` for `patience` steps.

    After a growth the metric starts anew and `cooldown` steps pass before it is watched again.
    """

    kind: Literal["plateau"] = "plateau"
    metric: MetricName = "val_loss"
    patience: Steps = 3
    min_delta: Annotated[float, Field(ge=0)] = 1e-3
    mode: Literal["min", "max"] = "min"
    cooldown: Count = 0


class Every(Record):
    """Grow every `steps` calls of `Grower.step`, the first time after that many."""

    kind: Literal["every"] = "every"
    steps: Steps


class Selection(Record):
    """Which scored candidates grow: the best `k` whose score is above `minimum`.

    `per` divides each score by its cost before ranking.
    """

    k: Annotated[int, Field(ge=1, le=1024)] = 1
    minimum: Annotated[float, Field(ge=0)] = 0.0
    per: Literal["nothing", "parameter", "flop"] = "nothing"


class LineSearch(Record):
    """Halve the start's step from `largest` until the loss falls by a tenth of the prediction.

    If no step does, the layer starts as the identity.
    """

    kind: Literal["line_search"] = "line_search"
    largest: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    halvings: Annotated[int, Field(ge=0, le=40)] = 10


class Fixed(Record):
    """Start with this step along the unit direction; 0 keeps the function."""

    kind: Literal["fixed"] = "fixed"
    size: Annotated[float, Field(ge=0, le=1e3)] = 0.0


class Budget(Record):
    """How far the network may grow in all; None means no limit.

    Args:
        parameters: Most parameters the network may have.
        flops: Most floating-point operations a sample may take.
        revisions: Most growths.
    """

    parameters: Count | None = None
    flops: Count | None = None
    revisions: Count | None = None


class Policy(Record):
    """When, where and how far to grow.

    Args:
        trigger: When: `Plateau` or `Every`.
        candidates: What may be done; selectors stand for all their places.
        scorer: How candidates are compared.
        selection: Which of them are carried out.
        step: How large the new layer's start is.
        budget: Where growth ends.

    Raises:
        SpecError: On `load` and `parse`, with the path of the wrong field.

    Example:
        >>> import topograph as tg
        >>> tg.Policy.parse('''{"trigger": {"kind": "every", "steps": 5}, "candidates": [
        ...     {"kind": "insert_layer", "where": {"kind": "after", "op": "relu"},
        ...      "block": {"kind": "bottleneck", "units": 8}}]}''').trigger.steps
        5

    References:
        https://json-schema.org; the schema is ``schemas/policy.schema.json``.
    """

    format: Literal["topograph.policy/1"] = "topograph.policy/1"
    trigger: Annotated[Plateau | Every, Field(discriminator="kind")]
    candidates: Annotated[tuple[Mutation, ...], Field(min_length=1, max_length=1024)]
    scorer: Literal["topological_derivative"] = "topological_derivative"
    selection: Selection = Selection()
    step: Annotated[LineSearch | Fixed, Field(discriminator="kind")] = LineSearch()
    budget: Budget = Budget()
