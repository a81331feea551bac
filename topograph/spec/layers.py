"""Mutations of single layers: insert, remove, replace."""

from typing import Literal

from topograph.spec.blocks import Block, Replacement
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


class ReplaceLayer(Record):
    """Put another layer in a layer's place; what reads it and what it reads stay.

    A module is replaced where it stands, for all its calls: the model keeps its class, its forward
    and its other paths. A function becomes a module or, for attention, other functions.

    Args:
        where: `named`, `after`, `instances_of`, `at` and so on; the nodes to replace.
        block: What by: `Activation`, `Norm`, `LowRank`, `Attention` or `Module`.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> import topograph as tg
        >>> tg.ReplaceLayer(where=tg.after("relu"), block=tg.Activation(name="gelu")).kind
        'replace_layer'

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module (``set_submodule``).
    """

    kind: Literal["replace_layer"] = "replace_layer"
    where: Selector
    block: Replacement
