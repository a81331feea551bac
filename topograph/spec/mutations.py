"""All mutations as one union; what each is stands in the files it imports from.

How each is carried out stands in `topograph.rewrite`, one file each.
"""

import json
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from topograph.errors import SpecError
from topograph.spec import extensions
from topograph.spec.extensions import Open
from topograph.spec.layers import InsertLayer, RemoveLayer, ReplaceLayer
from topograph.spec.tuning import AddAdapter, Freeze, Unfreeze, Untie
from topograph.spec.widths import NarrowLayer, WidenLayer
from topograph.spec.wiring import AddBranch, Disconnect, Rewire
from topograph.topology import Record
from topograph.topology.canonical import explain, parse_json, read_text, sha256

MOST_MUTATIONS = 10_000

AnyMutation = (
    InsertLayer | RemoveLayer | AddBranch | WidenLayer | NarrowLayer
    | Freeze | Unfreeze | Untie | AddAdapter | ReplaceLayer | Rewire | Disconnect
)  # fmt: skip
Mutation = Annotated[AnyMutation, Field(discriminator="kind"), Open(extensions.MUTATIONS)]
MUTATIONS: TypeAdapter[list[Mutation]] = TypeAdapter(
    Annotated[list[Mutation], Field(min_length=1, max_length=MOST_MUTATIONS)]
)


class Refusal(Record):
    """One place where a mutation cannot be carried out: why, and what would do.

    Args:
        node: The node at which it fails.
        reason: What does not fit, with expected and got.
        fix: The next step.
        satisfied: Whether nothing is to be done, since it is so already.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> print(Refusal(node="fc", reason="no channel axis", fix="choose another node"))
        fc: no channel axis; choose another node

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """

    node: str
    reason: str
    fix: str
    satisfied: bool = False

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.fix}"


def digest(mutation: Record) -> str:
    """Return 16 hexadecimal digits that identify a mutation by what it asks."""
    return sha256(mutation.model_dump(mode="json"))[:16]


def load_mutations(path: str) -> tuple[AnyMutation, ...]:
    """Read one mutation, a list of them, or ``{"mutations": [...]}`` from a JSON file."""
    document = parse_json(read_text(path), path)
    if isinstance(document, dict):
        document.pop("$schema", None)
    if isinstance(document, dict) and set(document) == {"mutations"}:
        document = document["mutations"]
    elif isinstance(document, dict):
        document = [document]
    try:
        return tuple(MUTATIONS.validate_json(json.dumps(document)))
    except ValidationError as error:
        raise SpecError(explain(error, path)) from None
