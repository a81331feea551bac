"""Mutations of single layers: insert, remove."""

from typing import Literal

from topograph.spec.blocks import Block
from topograph.spec.selectors import Selector
from topograph.topology import Record


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
