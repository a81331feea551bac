"""Mutations of the edges between layers: branches."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.selectors import NodeName
from topograph.topology import Record


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
