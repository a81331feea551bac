"""`Policy`: when, where and how far a network grows, as a JSON document."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec import extensions
from topograph.spec.mutations import Mutation
from topograph.topology import Record

MetricName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$", max_length=128)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
AnyScorer = Literal["topological_derivative"]
Scorer = Annotated[AnyScorer, extensions.Open(extensions.SCORERS)]


class Plateau(Record):
    """Grow when a metric has not improved by `min_delta` for `patience` steps.

    After a growth the metric starts anew and `cooldown` steps pass before it is watched again.

    Args:
        metric: Name of the metric, as given to `Grower.step`.
        patience: Steps without an improvement after which to grow.
        min_delta: Least change that counts as an improvement.
        mode: Whether less (``min``) or more (``max``) of the metric is better.
        cooldown: Steps after a growth in which the metric is not watched.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Plateau(metric="val_loss", patience=5).min_delta
        0.001

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau
    """

    kind: Literal["plateau"] = "plateau"
    metric: MetricName = "val_loss"
    patience: Steps = 3
    min_delta: Annotated[float, Field(ge=0)] = 1e-3
    mode: Literal["min", "max"] = "min"
    cooldown: Count = 0


class Every(Record):
    """Grow every `steps` calls of `Grower.step`, the first time after that many.

    Args:
        steps: Calls from one growth to the next.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Every(steps=5).kind
        'every'

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.StepLR
    """

    kind: Literal["every"] = "every"
    steps: Steps


class Selection(Record):
    """Which scored candidates grow: the best `k` whose score is above `minimum`.

    Args:
        k: Most candidates that grow at once.
        minimum: The score above which a candidate may grow.
        per: Cost by which each score is divided before ranking.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Selection(k=2, per="parameter").minimum
        0.0

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    k: Annotated[int, Field(ge=1, le=1024)] = 1
    minimum: Annotated[float, Field(ge=0)] = 0.0
    per: Literal["nothing", "parameter", "flop"] = "nothing"


class LineSearch(Record):
    """Halve the start's step from `largest` until the loss falls by a tenth of the prediction.

    If no step does, the layer starts as the identity.

    Args:
        largest: The first step that is tried, along the unit direction.
        halvings: Most times that it is halved.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> LineSearch(largest=0.5).halvings
        10

    References:
        Armijo, Pacific J. Math. 16 (1966), doi:10.2140/pjm.1966.16.1.
    """

    kind: Literal["line_search"] = "line_search"
    largest: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    halvings: Annotated[int, Field(ge=0, le=40)] = 10


class Fixed(Record):
    """Start with this step along the unit direction; 0 keeps the function.

    Args:
        size: The step.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Fixed(size=0.1).kind
        'fixed'

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    kind: Literal["fixed"] = "fixed"
    size: Annotated[float, Field(ge=0, le=1e3)] = 0.0


class Budget(Record):
    """How far the network may grow in all; None means no limit.

    Args:
        parameters: Most parameters the network may have.
        flops: Most floating-point operations a sample may take.
        revisions: Most growths.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Budget(parameters=1_000_000).flops is None
        True

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
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
    scorer: Scorer = "topological_derivative"
    selection: Selection = Selection()
    step: Annotated[LineSearch | Fixed, Field(discriminator="kind")] = LineSearch()
    budget: Budget = Budget()
