"""Undo in a run directory, without a model."""

from pathlib import Path

from topograph.spec import Entry
from topograph.store.run import Run


def undo_run(path: str | Path, to: int | None = None) -> Entry:
    """Undo in a run directory, without a model: open, `Run.undo`, close.

    Args:
        path: The run directory.
        to: The entry to go back to; None for the one just before the last applied plan.

    Returns:
        The ``undo`` entry. No tensor is changed; `replay` gives the model of that entry.

    Raises:
        StoreError: There is no run, nothing to undo, or no such entry.

    Example:
        >>> undo_run("no/such/run")
        Traceback (most recent call last):
            ...
        topograph.errors.StoreError: no/such/run: the run directory does not exist; check the path

    References:
        https://martinfowler.com/eaaDev/EventSourcing.html
    """
    with Run.open(path) as run:
        return run.undo(to)
