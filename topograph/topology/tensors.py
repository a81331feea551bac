"""`CheckpointDiff`: which tensors of two checkpoints differ, and by how much."""

from typing import Literal

from topograph.topology.canonical import Record

Kind = Literal["added", "removed", "changed", "resized"]

TENSOR_SIGN: dict[Kind, str] = {"added": "+", "removed": "-", "changed": "~", "resized": "*"}


class TensorChange(Record):
    """One tensor that differs between two checkpoints.

    Args:
        path: Key in the state dict.
        change: ``changed`` values, ``resized`` where the shapes differ, ``added``, ``removed``.
        before: Shape and dtype before, ``none`` where it was not there.
        after: Shape and dtype after.
        relative: ``||after - before|| / ||before||`` in the Frobenius norm; None where that is
            not a finite number.
        largest: Largest ``|after - before|`` of an entry; None likewise.
        cosine: Cosine of the angle between the two; None where one of them is zero.
        entries: How many entries differ.
        of: How many there are.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> print(TensorChange(path="w", change="added", before="none", after="[2] float32"))
        + w  [2] float32

    References:
        Golub, Van Loan: Matrix Computations (the Frobenius norm).
    """

    path: str
    change: Kind
    before: str
    after: str
    relative: float | None = None
    largest: float | None = None
    cosine: float | None = None
    entries: int = 0
    of: int = 0

    @property
    def title(self) -> str:
        """The sign, the path, and the shape and dtype or how they differ."""
        if self.change == "added" or self.before == self.after:
            shown = self.after
        else:
            shown = self.before if self.change == "removed" else f"{self.before} -> {self.after}"
        return f"{TENSOR_SIGN[self.change]} {self.path}  {shown}"

    def __str__(self) -> str:
        if not self.of:
            return self.title
        return (
            f"{self.title}  relative {number(self.relative)}, largest {number(self.largest)}, "
            f"cosine {number(self.cosine)}, {self.entries:,} of {self.of:,} entries"
        )


class UnitMatch(Record):
    """One channel space whose units were matched, and how many of them stand elsewhere.

    Args:
        space: Its name.
        size: Number of units.
        moved: How many were found at another place.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> UnitMatch(space="fc1", size=8, moved=2).moved
        2

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, arXiv:2209.04836.
    """

    space: str
    size: int
    moved: int


class CheckpointDiff(Record):
    """The difference of two checkpoints, largest relative change first; falsy if there is none.

    Args:
        tensors: One record per tensor that differs; those in one checkpoint only come first.
        same: How many tensors are equal.
        units: With ``align``: the channel spaces whose units were found in another order. What a
            permutation explains is no difference.

    Raises:
        SpecError: On `load` and `parse`, with the path of the wrong field.

    Example:
        >>> print(CheckpointDiff(same=3))
        no changes in 3 tensors

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, arXiv:2209.04836.
    """

    format: Literal["topograph.tensors/1"] = "topograph.tensors/1"
    tensors: tuple[TensorChange, ...] = ()
    same: int = 0
    units: tuple[UnitMatch, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tensors)

    def __str__(self) -> str:
        return "\n".join((*map(str, self.tensors), *self.totals))

    @property
    def totals(self) -> tuple[str, ...]:
        """The last lines: how many tensors differ, and which units were matched elsewhere."""
        total = len(self.tensors) + self.same
        if self.tensors:
            lines = [f"{len(self.tensors)} of {total} tensors differ"]
        else:
            lines = [f"no changes in {total} tensors"]
        lines += [f"{u.space}: {u.moved} of {u.size} units matched elsewhere" for u in self.units]
        return tuple(lines)


def number(value: float | None) -> str:
    """Return a number in four significant digits, a cosine near one too."""
    if value is None:
        return "none"
    return f"1-{1 - value:.2g}" if 0.999 < value < 1 else f"{value:.4g}"
