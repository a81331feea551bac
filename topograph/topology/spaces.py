"""`Space`: an index set that several tensors share, such as the channels of a residual stream."""

from typing import Literal

from topograph.topology.canonical import Record


class Member(Record):
    """One axis of one tensor that runs over a space, perhaps with others: heads times head size.

    Args:
        path: Key in the model's ``state_dict``.
        axis: Which axis.
        role: Whether the tensor ``makes`` the units, ``reads`` them or ``scales`` them.
    """

    path: str
    axis: int
    role: Literal["makes", "reads", "scales"]


class Space(Record):
    """A channel space: units that can only be added or removed in all its members at once.

    Args:
        name: Path of the first layer that makes its units; ``#1``, ``#2`` where that layer's
            output is made of several spaces.
        size: Number of units.
        members: The axes of parameters and buffers that run over it.
        output: Whether the model's output runs over it.
        mixed: Nodes that mix all its units without weights: norms, means, inner products.
        lock: Why it cannot change, if so.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> Space(name="fc1", size=8, members=()).lock is None
        True

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, arXiv:2301.12900.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    output: bool = False
    mixed: tuple[str, ...] = ()
    lock: str | None = None

    def __str__(self) -> str:
        makers = [m.path for m in self.members if m.role == "makes"]
        readers = [m.path for m in self.members if m.role == "reads"]
        line = f"{self.name}: {self.size} units, made by {len(makers)}, read by {len(readers)}"
        line += ", in the output" if self.output else ""
        return f"{line}; locked: {self.lock}" if self.lock else line
