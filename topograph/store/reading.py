"""Read what a run directory keeps, without a lock and without a model."""

from pathlib import Path

from torch import Tensor

from topograph.store.journal import entry_of, read_history
from topograph.store.revisions import read_revision_tensors, read_revision_topology
from topograph.topology import Topology


def read_topology(path: str | Path, number: int | None = None) -> Topology:
    """Return what the network looked like at an entry.

    Args:
        path: The run directory.
        number: The entry; None for the last one.

    Returns:
        The topology; its file is the one that the manifest and the journal name.

    Raises:
        CorruptError: A file is missing, edited, or of another run.
        StoreError: There is no such run or entry.

    Example:
        >>> import tempfile, torch, topograph as tg
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.ReLU()), (torch.zeros(2, 4),))
        >>> path = tempfile.mkdtemp() + "/a"
        >>> tg.Run.create(path, traced, model="pkg.mod:make_model").close()
        >>> read_topology(path) == traced.topology
        True

    References:
        https://sqlite.org/wal.html
    """
    place = Path(path)
    entry = entry_of(read_history(place), number, place)
    return read_revision_topology(place / "revisions", entry)


def read_tensors(path: str | Path, number: int | None = None) -> dict[str, Tensor]:
    """Return the state dict of the network at an entry.

    Args:
        path: The run directory.
        number: The entry; None for the last one.

    Returns:
        All persistent tensors on the CPU, in the state dict's order; tied keys share one tensor.

    Raises:
        CorruptError: A file is missing, edited, or of another run.
        StoreError: There is no such run or entry.

    Example:
        >>> import tempfile, torch, topograph as tg
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 2)), (torch.zeros(2, 4),))
        >>> path = tempfile.mkdtemp() + "/a"
        >>> tg.Run.create(path, traced, model="pkg.mod:make_model").close()
        >>> list(read_tensors(path, 0))
        ['0.weight', '0.bias']

    References:
        https://huggingface.co/docs/safetensors
    """
    place = Path(path)
    entry = entry_of(read_history(place), number, place)
    return read_revision_tensors(place / "revisions", entry)
