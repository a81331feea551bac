"""Mutations: what may be asked. How each is carried out stands in `topograph.rewrite`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from topograph.errors import SpecError
from topograph.spec.blocks import Block
from topograph.spec.selectors import NodeName, Selector
from topograph.topology import Record
from topograph.topology.canonical import explain, parse_json, read_text, sha256

MOST_MUTATIONS = 10_000


class InsertLayer(Record):
    """Insert a block on an edge, or after a node for all that read it; starts as the identity.

    Args:
        where: `after`, `named`, `at` and `all` mean the whole value; `between` means one use of it.
        block: What to insert.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> import topograph as tg
        >>> tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4)).kind
        'insert_layer'

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    kind: Literal["insert_layer"] = "insert_layer"
    where: Selector
    block: Block


class RemoveLayer(Record):
    """Remove a node whose value has the shape of its input: its readers read the input instead.

    Args:
        where: `named`, `after`, `at` or `all`; the nodes to remove.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> import topograph as tg
        >>> tg.RemoveLayer(where=tg.named("dropout*")).kind
        'remove_layer'

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """

    kind: Literal["remove_layer"] = "remove_layer"
    where: Selector


class AddBranch(Record):
    """Add a gated skip: ``target + gate * P(source)`` takes the place of the target's value.

    Args:
        source: Name of the node the branch starts from.
        target: Name of a later node that it joins.
        gate: Start of the learnable scalar gate; 0 keeps the function.
        projection: ``none`` where the two have one shape; ``linear`` for a learnable matrix
            (a 1 x 1 convolution on images) where only the channels differ.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or not finite.

    Example:
        >>> import topograph as tg
        >>> tg.AddBranch(source="relu", target="fc").gate
        0.0

    References:
        He et al., arXiv:1512.03385; Bachlechner et al., ReZero, arXiv:2003.04887.
    """

    kind: Literal["add_branch"] = "add_branch"
    source: NodeName
    target: NodeName
    gate: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    projection: Literal["none", "linear"] = "none"


Mutation = Annotated[InsertLayer | RemoveLayer | AddBranch, Field(discriminator="kind")]
MUTATIONS: TypeAdapter[list[Mutation]] = TypeAdapter(
    Annotated[list[Mutation], Field(min_length=1, max_length=MOST_MUTATIONS)]
)


class Refusal(Record):
    """One place where a mutation cannot be carried out: why, and what would do.

    Args:
        node: The node at which it fails.
        reason: What does not fit, with expected and got.
        fix: The next step.

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

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.fix}"


def digest(mutation: Record) -> str:
    """Return 16 hexadecimal digits that identify a mutation by what it asks."""
    return sha256(mutation.model_dump(mode="json"))[:16]


def load_mutations(path: str) -> tuple[InsertLayer | RemoveLayer | AddBranch, ...]:
    """Read one mutation, a list of them, or ``{"mutations": [...]}`` from a JSON file."""
    document = parse_json(read_text(path), path)
    if isinstance(document, dict):
        document.pop("$schema", None)
    if isinstance(document, dict) and set(document) == {"mutations"}:
        document = document["mutations"]
    elif isinstance(document, dict):
        document = [document]
    try:
        return tuple(MUTATIONS.validate_python(document, strict=True))
    except ValidationError as error:
        raise SpecError(explain(error, path)) from None
