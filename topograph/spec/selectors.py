"""Selectors: where in a topology a mutation is meant to happen."""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from topograph.spec.forms import LISTED
from topograph.topology import Record

NodeName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Glob = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$")]
Operation = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+$")]
MOST_PARTS = 32
DEEPEST = 8


class Combinable(Record):
    """A selector as a set of places: ``a & b`` in both, ``a | b`` in either, ``~a`` not in it."""

    def __and__(self, other: "Selector") -> "And":
        both = [s.parts if isinstance(s, And) else (s,) for s in (self, other)]
        return And(parts=(*both[0], *both[1]))

    def __or__(self, other: "Selector") -> "Or":
        both = [s.parts if isinstance(s, Or) else (s,) for s in (self, other)]
        return Or(parts=(*both[0], *both[1]))

    def __invert__(self) -> "Selector":
        return self.part if isinstance(self, Not) else Not(part=self)  # type: ignore[arg-type]


class After(Combinable):
    """The value of every node with this operation, e.g. ``relu``, ``conv2d``, ``add``."""

    kind: Literal["after"] = "after"
    op: Operation


class Named(Combinable):
    """The value of every node whose name, or whose module's path, matches this glob."""

    kind: Literal["named"] = "named"
    pattern: Glob


class Between(Combinable):
    """The uses of one node's value by another node; `slot` picks one of several."""

    kind: Literal["between"] = "between"
    source: NodeName
    target: NodeName
    slot: Annotated[int, Field(ge=0, le=4096)] | None = None


class Everywhere(Combinable):
    """The value of every node that a block can be attached to."""

    kind: Literal["all"] = "all"


class At(Combinable):
    """The value of exactly one node, for all that read it."""

    kind: Literal["at"] = "at"
    node: NodeName


class Before(Combinable):
    """Every use of a value by a node with this operation: the edges that lead into it."""

    kind: Literal["before"] = "before"
    op: Operation


class InstancesOf(Combinable):
    """The value of every node that calls a module whose class has this name."""

    kind: Literal["instances_of"] = "instances_of"
    type_name: Operation


class Combination(Combinable):
    """A selector made of others; bounded, since it comes from files."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        found, depth, level = 0, 0, list(inside(self))
        while level:
            found, depth = found + len(level), depth + 1
            level = [part for selector in level for part in inside(selector)]
        if depth > DEEPEST or found > MOST_PARTS:
            raise ValueError(
                f"a selector has at most {MOST_PARTS} parts in {DEEPEST} levels, not {found} in "
                f"{depth}; use a glob, or several mutations"
            )
        return self


class And(Combination):
    """The places that are in all parts; with only negations among them, of all nodes' values."""

    kind: Literal["and"] = "and"
    parts: Annotated[tuple["Selector", ...], Field(min_length=2, max_length=MOST_PARTS), LISTED]


class Or(Combination):
    """The places that are in at least one part."""

    kind: Literal["or"] = "or"
    parts: Annotated[tuple["Selector", ...], Field(min_length=2, max_length=MOST_PARTS), LISTED]


class Not(Combination):
    """The values of all nodes but those in the part."""

    kind: Literal["not"] = "not"
    part: "Selector"


Selector = Annotated[
    After | Before | Named | InstancesOf | Between | Everywhere | At | And | Or | Not,
    Field(discriminator="kind"),
]
for _record in (And, Or, Not):
    _record.model_rebuild()
SELECTOR: TypeAdapter[Selector] = TypeAdapter(Selector)


def inside(selector: Record) -> tuple[Selector, ...]:
    """Return the selectors that a selector is made of."""
    match selector:
        case And(parts=parts) | Or(parts=parts):
            return parts
        case Not(part=part):
            return (part,)
    return ()


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


def before(op: str) -> Before:
    """Select the edges into all nodes with an operation: each value that such a node reads.

    Args:
        op: The operation's name; case and underscores do not matter (``Conv2d`` is ``conv2d``).

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: The name has characters that no operation has.

    Example:
        >>> before(op="linear").kind
        'before'

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    return Before(op=op)


def instances_of(type_name: str) -> InstancesOf:
    """Select the values of all nodes that call a module of a class; selectors combine.

    A function of the same name is not meant: ``instances_of("ReLU")`` leaves ``F.relu`` out.

    Args:
        type_name: The name of the class, without its module; subclasses have other names.

    Returns:
        The selector.

    Raises:
        pydantic.ValidationError: The name has characters that no class has.

    Example:
        >>> (instances_of("BatchNorm2d") & ~named("stem.*")).kind
        'and'

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Module
    """
    return InstancesOf(type_name=type_name)


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
