"""How an edit of spaces moves the entries of every dimension that is made of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from topograph.widths.dims import Dim, factors, found, leaves, sections

NEW = -1  # an entry that was not there before


@dataclass(frozen=True)
class Index:
    """For each entry afterwards: which one it was, and its share where entries were copied.

    Attributes:
        old: Positions before, -1 for new entries.
        share: By how much weights that read an entry are multiplied; sums to 1 over its copies.
    """

    old: Tensor
    share: Tensor

    @property
    def size(self) -> int:
        """Number of entries afterwards."""
        return int(self.old.numel())

    def unshared(self) -> "Index":
        """Return the index of a tensor whose entries are copied whole."""
        return Index(self.old, torch.ones_like(self.share))

    def backwards(self, size: int) -> "Index":
        """Return the index that leads back to so many entries, each from its first copy."""
        old = torch.full((size,), NEW)
        positions = torch.arange(self.size).flip(0)
        source = self.old.flip(0)
        old[source[source != NEW]] = positions[source != NEW]
        return Index(old, torch.ones(size, dtype=torch.float64))

    def behind(self, earlier: "Index") -> "Index":
        """Return the index of two edits, one after the other."""
        source = self.old.clamp(min=0)
        old = torch.where(self.old == NEW, NEW, earlier.old[source])
        return Index(old, self.share * earlier.share[source])


def kept(size: int) -> Index:
    """Return the index that leaves all entries where they are."""
    return Index(torch.arange(size), torch.ones(size, dtype=torch.float64))


class Indices:
    """The index of every dimension under an edit of some spaces.

    Args:
        edits: For each changed space, by the identity of its dimension, its index.
    """

    def __init__(self, edits: Mapping[int, Index]) -> None:
        self._edits = edits
        self._known: dict[int, Index | None] = {}

    def of(self, dim: Dim) -> Index | None:
        """Return a dimension's index; None where it stays as it is."""
        dim = found(dim)
        if dim.form == "atom":
            return self._edits.get(id(dim))
        if id(dim) not in self._known:
            inside = factors(dim) if dim.form == "product" else sections(dim)
            parts = [self.of(part) for part in inside]
            made = None
            if any(part is not None for part in parts):
                sizes = [part.size for part in inside]
                full = [p or kept(s) for p, s in zip(parts, sizes, strict=True)]
                made = _product(full, sizes) if dim.form == "product" else _stack(full, sizes)
            self._known[id(dim)] = made
        return self._known[id(dim)]

    def size(self, dim: Dim) -> int:
        """Return a dimension's size afterwards."""
        index = self.of(dim)
        return found(dim).size if index is None else index.size


def _product(parts: list[Index], sizes: list[int]) -> Index:
    old, share = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.float64)
    for part, size in zip(parts, sizes, strict=True):
        new = (old[:, None] == NEW) | (part.old[None] == NEW)
        old = (old[:, None] * size + part.old[None]).masked_fill(new, NEW).flatten()
        share = (share[:, None] * part.share[None]).flatten()
    return Index(old, share)


def _stack(parts: list[Index], sizes: list[int]) -> Index:
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    moved = [p.old + (p.old != NEW) * o for p, o in zip(parts, offsets, strict=True)]
    return Index(torch.cat(moved), torch.cat([part.share for part in parts]))


def units_of(dim: Dim, space: Dim) -> Tensor:
    """Return for each entry of a dimension the unit of a space that it goes with, or -1."""
    dim = found(dim)
    if dim is space:
        return torch.arange(dim.size)
    if dim.form == "atom":
        return torch.full((dim.size,), NEW)
    if dim.form == "stack":
        return torch.cat([units_of(part, space) for part in sections(dim)])
    parts = [units_of(part, space) for part in factors(dim)]
    units = torch.full((1,), NEW)
    for part in parts:
        units = torch.maximum(units[:, None], part[None]).flatten()
    return units


def chosen(dim: Dim, to: int, allowed: frozenset[int]) -> dict[int, tuple[Dim, int]]:
    """Return which spaces to resize so that a dimension has at least a size, and to what.

    A product changes the outermost factor that divides, else the one that overshoots least; the
    parts of a stack change in proportion.

    Args:
        dim: The dimension.
        to: Its wanted size.
        allowed: Identities of the spaces that may change.
    """
    dim = found(dim)
    if dim.form == "atom":
        return {id(dim): (dim, to)} if id(dim) in allowed and dim.size != to else {}
    if dim.form == "stack":
        return _chosen_parts(dim, to, allowed)
    choices = []
    for part in factors(dim):
        rest = dim.size // part.size
        want = max(1, math.ceil(to / rest))
        edits = chosen(part, want, allowed)
        if edits:
            choices.append((abs(resized(part, edits) * rest - to), edits))
    return min(choices, key=lambda choice: choice[0])[1] if choices else {}


def _chosen_parts(dim: Dim, to: int, allowed: frozenset[int]) -> dict[int, tuple[Dim, int]]:
    free = [part for part in sections(dim) if _may_change(part, allowed)]
    fixed = dim.size - sum(part.size for part in free)
    edits: dict[int, tuple[Dim, int]] = {}
    for part in free:
        want = max(1, math.ceil((to - fixed) * part.size / (dim.size - fixed)))
        if resized(part, edits) == found(part).size:
            edits |= chosen(part, want, allowed)
    return edits


def _may_change(dim: Dim, allowed: frozenset[int]) -> bool:
    return any(id(leaf) in allowed for leaf in leaves(dim))


def resized(dim: Dim, edits: Mapping[int, tuple[Dim, int]]) -> int:
    """Return a dimension's size when some spaces have others."""
    dim = found(dim)
    if dim.form == "atom":
        return edits[id(dim)][1] if id(dim) in edits else dim.size
    if dim.form == "stack":
        return sum(resized(part, edits) for part in sections(dim))
    return math.prod(resized(part, edits) for part in factors(dim))
