"""What may be asked of this plugin, as strict records; without torch."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.selectors import Selector
from topograph.topology import Record


class ScaleLayer(Record):
    """Multiply a node's value by a learnable factor that starts at 1.

    Args:
        where: The nodes whose values are scaled, each by a factor of its own.
    """

    kind: Literal["scale_layer"] = "scale_layer"
    where: Selector


class Gated(Record):
    """Two matrices around a gated linear unit, added to the value; starts as the identity.

    Args:
        units: Width of the hidden layer, 1 to 4,096.
    """

    kind: Literal["gated"] = "gated"
    units: Annotated[int, Field(ge=1, le=4096)]
