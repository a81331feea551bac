"""Dimensions that must be equal, as a union-find whose members may be made of others.

A dimension is an *atom*, a *product* of dimensions (heads times head size, channels times pixels;
the first varies slowest), or a *stack* of dimensions one behind the other (a concatenation). To
unify two dimensions means that index i of the one and index i of the other are one unit: atoms are
split until both sides have the same structure. Atoms that remain are the channel spaces.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal

PIECES = 2048  # how finely dimensions are cut before they are locked instead


class Dim:
    """One axis of a value; read its fields through `found`."""

    __slots__ = ("form", "lock", "parent", "parts", "size")

    def __init__(
        self,
        size: int,
        form: Literal["atom", "product", "stack"] = "atom",
        parts: tuple["Dim", ...] = (),
    ) -> None:
        self.size = size
        self.form = form
        self.parts = parts
        self.parent: Dim | None = None
        self.lock: str | None = None

    def __repr__(self) -> str:
        dim = found(self)
        parts = {"atom": [], "product": factors(dim), "stack": sections(dim)}[dim.form]
        inner = {"atom": "", "product": "*", "stack": "+"}[dim.form].join(map(repr, parts))
        return f"({inner})" if inner else f"{dim.size}"


def found(dim: Dim) -> Dim:
    """Return the representative of all dimensions that were unified with this one."""
    root = dim
    while root.parent is not None:
        root = root.parent
    while dim.parent is not None:
        dim.parent, dim = root, dim.parent
    return root


def product(dims: Iterable[Dim]) -> Dim:
    """Return the dimension that runs over all combinations, the last varying fastest."""
    parts = [part for dim in dims for part in factors(dim)]
    size = 1
    for part in parts:
        size *= part.size
    return parts[0] if len(parts) == 1 else Dim(size, "product", tuple(parts)) if parts else Dim(1)


def stack(dims: Iterable[Dim]) -> Dim:
    """Return the dimension that runs over some dimensions one behind the other."""
    parts = [part for dim in dims for part in sections(dim)]
    if len(parts) < 2:
        return parts[0] if parts else Dim(0)
    return Dim(sum(part.size for part in parts), "stack", tuple(parts))


def factors(dim: Dim) -> list[Dim]:
    """Return the factors of a product, down to atoms and stacks; none for a dimension of one."""
    return [part for part in _flat(dim, "product") if part.size != 1]


def sections(dim: Dim) -> list[Dim]:
    """Return the parts of a stack, down to atoms and products."""
    return [part for part in _flat(dim, "stack") if part.size]


def leaves(dim: Dim) -> list[Dim]:
    """Return the atoms that a dimension is made of, repeated ones too."""
    return _flat(dim, "product", "stack")


def _flat(dim: Dim, *forms: str) -> list[Dim]:
    """Return the parts of a dimension in order, none of them of the given forms."""
    parts: list[Dim] = []
    ahead = [dim]
    while ahead:  # a loop, since stacks may be nested deeply
        part = found(ahead.pop())
        if part.form in forms:
            ahead.extend(reversed(part.parts))
        else:
            parts.append(part)
    return parts


def lock(dim: Dim, reason: str) -> None:
    """Forbid to change a dimension; the first reason stays."""
    for leaf in leaves(dim):
        leaf.lock = leaf.lock or reason


def unify(first: Dim, second: Dim, reason: str = "its parts do not line up") -> bool:
    """Make two dimensions one; lock both where that cannot be.

    Two that are locked in all their parts stay as they are: nothing will ever change them.
    """
    first, second = found(first), found(second)
    if first is second or first.size == second.size == 0:
        return True
    if first.size == second.size and _merge(first, second, reason):
        return True
    lock(first, reason)
    lock(second, reason)
    return False


def _merge(first: Dim, second: Dim, reason: str) -> bool:
    """Unify two dimensions of one size. What is unified inside is smaller, so this ends."""
    if first.form == "atom":
        _join(first, second)
    elif second.form == "atom":
        _join(second, first)
    elif all(leaf.lock is not None for leaf in (*leaves(first), *leaves(second))):
        return True
    elif first.form == second.form == "product":
        pairs = match(factors(first), factors(second))
        if pairs is None or not all([unify(a, b, reason) for a, b in pairs]):
            return False
        first.parent = second
    else:
        whole, parts = (first, second) if first.form == "product" else (second, first)
        border = 0
        for part in sections(parts) if whole.form == "product" else ():
            border += part.size
            if not cut(whole, border):
                return False
        if not _aligned(whole, parts, reason):
            return False
        whole.parent = parts
    return True


def _join(atom: Dim, other: Dim) -> None:
    """Let an atom be what another dimension is."""
    if atom.lock is not None:
        lock(other, atom.lock)
    atom.parent = other


def match(first: Sequence[Dim], second: Sequence[Dim]) -> list[tuple[Dim, Dim]] | None:
    """Split two lists of factors of one product until they agree in pairs of equal size.

    None where a border of the one lies inside a factor of the other that cannot be split there.
    """
    left, right = list(first)[::-1], list(second)[::-1]
    pairs: list[tuple[Dim, Dim]] = []
    while left and right:
        a, b = found(left.pop()), found(right.pop())
        if a.form == "product" or b.form == "product":  # split since it was listed
            left += factors(a)[::-1]
            right += factors(b)[::-1]
            continue
        if a.size == b.size:
            pairs.append((a, b))
        elif a.size > b.size and _split(a, b.size):
            left += factors(a)[::-1]
            right.append(b)
        elif a.size < b.size and _split(b, a.size):
            left.append(a)
            right += factors(b)[::-1]
        else:
            return None
    return pairs if not left and not right else None


def _split(dim: Dim, outer: int) -> bool:
    """Split a dimension into a product whose first factor has a size; whether that could be."""
    if dim.size % outer:
        return False
    if dim.form == "atom":
        _become(dim, "product", [Dim(outer), Dim(dim.size // outer)])
        return True
    return _split_rows(dim, dim.size // outer)


def _split_rows(dim: Dim, inner: int) -> bool:
    """Split a stack into a product whose last factor has a size: all its parts are rows of it.

    A row that several parts share stands alone; between such rows, parts are many rows each.
    """
    while missing := _row_borders(dim, inner):
        if len(sections(dim)) > PIECES or not all([cut(dim, at) for at in missing]):
            return False
    counts: list[Dim] = []
    rows: list[Dim] = []
    run: list[Dim] = []
    for part in sections(dim):
        run.append(part)
        size = sum(piece.size for piece in run)
        if size % inner:
            continue
        count, row, whole = Dim(size // inner), Dim(inner), stack(run)
        run = []
        pairs = match(factors(whole), factors(product([count, row])))
        if pairs is None or not all([unify(a, b) for a, b in pairs]):
            return False
        counts.append(count)
        rows.append(row)
    if not all([unify(rows[0], row) for row in rows[1:]]):
        return False
    dim.form, dim.parts = "product", (stack(counts), rows[0])
    return True


def _row_borders(dim: Dim, inner: int) -> list[int]:
    """Return where a stack must be cut so that each part is whole rows, or lies inside one."""
    borders = list(accumulate(part.size for part in sections(dim)))
    wanted = {at for b in borders for at in (b // inner * inner, -(-b // inner) * inner)}
    return sorted(wanted - {0, *borders})


def _become(dim: Dim, form: Literal["product", "stack"], parts: list[Dim]) -> None:
    """Let an atom be made of new parts, which inherit its lock."""
    reason, dim.lock = dim.lock, None
    dim.form, dim.parts = form, tuple(parts)
    if reason is not None:
        lock(dim, reason)


def _aligned(first: Dim, second: Dim, reason: str) -> bool:
    """Unify two stacks part by part, splitting atoms where their borders differ."""
    left, right = sections(first)[::-1], sections(second)[::-1]
    most = PIECES + len(left) + len(right)
    while left and right:
        most -= 1
        if not most:
            return False
        a, b = found(left.pop()), found(right.pop())
        if a.form == "stack" or b.form == "stack":  # split since it was listed
            left += sections(a)[::-1]
            right += sections(b)[::-1]
            continue
        if a.size == b.size:
            if not unify(a, b, reason):
                return False
        elif a.size > b.size and cut(a, b.size):
            left += sections(a)[::-1]
            right.append(b)
        elif a.size < b.size and cut(b, a.size):
            left.append(a)
            right += sections(b)[::-1]
        else:
            return False
    return not left and not right


def cut(dim: Dim, at: int) -> bool:
    """Make a dimension a stack with a border at an index; whether that could be."""
    dim = found(dim)
    if not 0 < at < dim.size:
        return at in (0, dim.size)
    if dim.form == "atom":
        _become(dim, "stack", [Dim(at), Dim(dim.size - at)])
        return True
    if dim.form == "product":
        first, *rest = factors(dim)
        inner = product(rest)
        if at % inner.size or not cut(first, at // inner.size):
            return False
        dim.form, dim.parts = "stack", tuple(product([part, inner]) for part in sections(first))
        return True
    begin = 0
    for part in sections(dim):
        if begin < at < begin + part.size:
            return cut(part, at - begin)
        begin += part.size
    return True


def between(dim: Dim, start: int, stop: int) -> Dim | None:
    """Return the part of a dimension from one index to another, split there."""
    if not (cut(dim, start) and cut(dim, stop)):
        return None
    begin, inside = 0, []
    for part in sections(dim):
        if start <= begin and begin + part.size <= stop:
            inside.append(part)
        begin += part.size
    return stack(inside)
