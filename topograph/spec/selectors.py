"""Selectors: where in a topology a mutation is meant to happen."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from topograph.topology import Record

NodeName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Glob = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$")]
Operation = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+$")]


class After(Record):
    """The value of every node with this operation, e.g. ``relu``, ``conv2d``, ``add``."""

    kind: Literal["after"] = "after"
    op: Operation


class Named(Record):
    """The value of every node whose name, or whose module's path, matches this glob."""

    kind: Literal["named"] = "named"
    pattern: Glob


class Between(Record):
    """The uses of one node's value by another node; `slot` picks one of several."""

    kind: Literal["between"] = "between"
    source: NodeName
    target: NodeName
    slot: Annotated[int, Field(ge=0, le=4096)] | None = None


class Everywhere(Record):
    """The value of every node that a block can be attached to."""

    kind: Literal["all"] = "all"


class At(Record):
    """The value of exactly one node, for all that read it."""

    kind: Literal["at"] = "at"
    node: NodeName


Selector = Annotated[After | Named | Between | Everywhere | At, Field(discriminator="kind")]
SELECTOR: TypeAdapter[Selector] = TypeAdapter(Selector)


def after(op: str) -> After:
    """Select the values of all nodes with an operation.

    Args:
        op: The operation's name; case and underscores do not matter (``Conv2d`` is ``conv2d``).

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: The name has characters that no operation has.

    Example:
        >>> after(op="relu").op
        'relu'

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    return After(op=op)


def named(glob: str) -> Named:
    """Select the values of nodes by name or module path.

    Args:
        glob: A shell pattern such as ``layer2.*``; ``*`` also crosses dots.

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: The pattern has characters that no name has.

    Example:
        >>> named("layers.*").pattern
        'layers.*'

    References:
        https://docs.python.org/3/library/fnmatch.html
    """
    return Named(pattern=glob)


def between(source: str, target: str, slot: int | None = None) -> Between:
    """Select the edge from one node to another: only this use of the value, not the others.

    Args:
        source: Name of the node that makes the value.
        target: Name of the node that reads it.
        slot: Which of the target's value arguments, counted from 0; None for all of them.

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: A name is not a node's name.

    Example:
        >>> between("relu", "add", slot=1).slot
        1

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    return Between(source=source, target=target, slot=slot)


def all_() -> Everywhere:
    """Select the value of every node that a block can be attached to; `topograph.all`.

    Returns:
        The selector.

    Raises:
        Nothing.

    Example:
        >>> all_().kind
        'all'

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    return Everywhere()


def at(node: str) -> At:
    """Select the value of exactly one node, for all that read it.

    Args:
        node: The node's name, as `Topology` prints it.

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: The name is not a node's name.

    Example:
        >>> at("relu_1").node
        'relu_1'

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    return At(node=node)
