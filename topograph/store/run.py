"""`Run`: a run directory open for writing."""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from topograph.errors import StoreError
from topograph.rewrite import Revision
from topograph.spec import Entry, Growth, History, Policy
from topograph.store.entries import (
    NO_METRICS,
    finite,
    undo_entry,
    write_checkpoint,
    write_commit,
)
from topograph.store.journal import NAME, append_curve, append_entries, head_of, history_of
from topograph.store.lock import release_lock
from topograph.store.opening import make_run, open_run
from topograph.tracing import TracedModel

LARGEST_STEP = 2**63 - 1  # SQLite's integers


class Run:
    """A run directory open for writing: what a network was, entry by entry.

    Every entry's tensors are written and synced first; one SQLite transaction then makes the entry
    exist. A crash at any moment leaves the journal at the last finished entry, and what it left
    half-written is deleted when the run is opened again. Nothing else is ever deleted.

    A run belongs to one thread of one process. Close it, or use it as a context manager.

    Args:
        path: The run directory.
        lock: The lock's file descriptor.
        connection: The journal.

    Raises:
        StoreError: See `create` and `open`, which make runs.

    Example:
        >>> import tempfile, torch, topograph as tg
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 2)), (torch.zeros(2, 4),))
        >>> path = tempfile.mkdtemp() + "/a"
        >>> with tg.Run.create(path, traced, model="pkg.mod:make_model") as run:
        ...     run.checkpoint(traced).number
        1

    References:
        https://sqlite.org/wal.html; https://huggingface.co/docs/safetensors
    """

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._connection: sqlite3.Connection | None = connection
        self._process = os.getpid()

    @classmethod
    def create(
        cls,
        path: str | Path,
        traced: TracedModel,
        *,
        model: str,
        policy: Policy | None = None,
    ) -> Self:
        """Make a run directory whose entry 0 is a traced model.

        Args:
            path: A folder that holds no run; made if it is not there.
            traced: The base model.
            model: Where it comes from, e.g. ``pkg.mod:make_model``; shown, never run.
            policy: Kept as ``policy.json``.

        Returns:
            The run, open for writing.

        Raises:
            StoreError: The folder holds a run already, is a file, a symbolic link or read-only,
                or the model cannot be stored.
            LockedError: Another process is making a run there.

        Example:
            >>> import tempfile, torch, topograph as tg
            >>> traced = tg.trace(torch.nn.Sequential(torch.nn.ReLU()), (torch.zeros(2, 4),))
            >>> run = tg.Run.create(tempfile.mkdtemp() + "/a", traced, model="pkg.mod:make_model")
            >>> run.head.kind
            'base'
            >>> run.close()

        References:
            https://sqlite.org/atomiccommit.html
        """
        place = Path(path)
        return cls(place, *make_run(place, traced, model, policy))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory for writing and delete what a crash left half-written.

        Args:
            path: The run directory.

        Returns:
            The run.

        Raises:
            LockedError: Another process is writing to it; the message says which.
            CorruptError: The journal is damaged.
            VersionError: It was written by a newer topograph.
            StoreError: There is no run, or it cannot be written to.

        Example:
            >>> import topograph as tg
            >>> tg.Run.open("no/run")
            Traceback (most recent call last):
                ...
            topograph.errors.StoreError: no/run: the run directory does not exist; check the path

        References:
            https://man7.org/linux/man-pages/man2/flock.2.html
        """
        place = Path(path)
        return cls(place, *open_run(place))

    @property
    def history(self) -> History:
        """All entries and the measured curve."""
        return history_of(self._journal(), self.path / NAME)

    @property
    def head(self) -> Entry:
        """The last entry: what the network is now."""
        return head_of(self._journal(), self.path / NAME)

    def commit(
        self,
        revision: Revision,
        *,
        growth: Growth | None = None,
        metrics: Mapping[str, float] = NO_METRICS,
    ) -> Entry:
        """Add an applied plan, in one transaction.

        Where training has changed the tensors since the head, a ``checkpoint`` entry of
        `revision.before` comes first, so that an undo gives back the trained weights.

        Args:
            revision: What `apply` returned; its `before` is the network at the head.
            growth: Why it was applied.
            metrics: What was measured, by name.

        Returns:
            The ``apply`` entry.

        Raises:
            StoreError: `before` is not the topology of the head, or the disk cannot be written to;
                the run is then as it was.
            NonFiniteError: A metric is infinite or not a number.

        Example:
            >>> import tempfile, torch, topograph as tg
            >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
            >>> wider = tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))
            >>> plan = tg.plan(traced, [wider])
            >>> with tg.Run.create(tempfile.mkdtemp() + "/a", traced, model="pkg.mod:net") as run:
            ...     run.commit(tg.apply(traced, plan)).stack
            (1,)

        References:
            https://sqlite.org/atomiccommit.html
        """
        entries = write_commit(self.path, self.head, revision, growth, metrics)
        append_entries(self._journal(), self.path / NAME, entries)
        return entries[-1]

    def checkpoint(
        self, traced: TracedModel, *, metrics: Mapping[str, float] = NO_METRICS
    ) -> Entry:
        """Add the network at the head with the tensors it has now.

        Args:
            traced: The network; its topology is the head's.
            metrics: What was measured, by name.

        Returns:
            The ``checkpoint`` entry.

        Raises:
            StoreError: The topology is not the head's, or the disk cannot be written to.
            NonFiniteError: A metric is infinite or not a number.

        Example:
            >>> import tempfile, torch, topograph as tg
            >>> traced = tg.trace(torch.nn.Sequential(torch.nn.ReLU()), (torch.zeros(2, 4),))
            >>> with tg.Run.create(tempfile.mkdtemp() + "/a", traced, model="pkg.mod:net") as run:
            ...     run.checkpoint(traced, metrics={"loss": 0.5}).metrics
            {'loss': 0.5}

        References:
            https://huggingface.co/docs/safetensors
        """
        entry = write_checkpoint(self.path, self.head, traced, metrics)
        append_entries(self._journal(), self.path / NAME, [entry])
        return entry

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the run's curve.

        Args:
            step: Training step, from 0.
            metrics: What was measured, by name.

        Returns:
            Nothing.

        Raises:
            NonFiniteError: A metric is infinite or not a number; nothing is added then.
            StoreError: The step is not a whole number from 0, or the disk cannot be written to.

        Example:
            >>> import tempfile, torch, topograph as tg
            >>> traced = tg.trace(torch.nn.Sequential(torch.nn.ReLU()), (torch.zeros(2, 4),))
            >>> with tg.Run.create(tempfile.mkdtemp() + "/a", traced, model="pkg.mod:net") as run:
            ...     run.measure(10, {"val_loss": 0.25})
            ...     run.history.curve[0].value
            0.25

        References:
            https://sqlite.org/datatype3.html
        """
        if type(step) is not int or not 0 <= step <= LARGEST_STEP:
            raise StoreError(f"step: expected a whole number from 0, got {step!r}; count from 0")
        append_curve(self._journal(), self.path / NAME, step, finite(metrics))

    def undo(self, to: int | None = None) -> Entry:
        """Go back to an earlier entry by adding one that points at its folder.

        Nothing is deleted or rewritten, so an undo can be undone: go to an entry behind it.

        Args:
            to: The entry to go back to; None for the one just before the last applied plan.

        Returns:
            The ``undo`` entry, with the stack and folder of the target.

        Raises:
            StoreError: There is nothing to undo, or no such entry.
            CorruptError: The target's folder is damaged; the head stays where it was.

        Example:
            >>> import tempfile, torch, topograph as tg
            >>> traced = tg.trace(torch.nn.Sequential(torch.nn.ReLU()), (torch.zeros(2, 4),))
            >>> with tg.Run.create(tempfile.mkdtemp() + "/a", traced, model="pkg.mod:net") as run:
            ...     run.undo(to=0).kind
            'undo'

        References:
            https://martinfowler.com/eaaDev/EventSourcing.html
        """
        entry = undo_entry(self.path, self.history, to)
        append_entries(self._journal(), self.path / NAME, [entry])
        return entry

    def close(self) -> None:
        """Close the journal and give the lock back; a second time does nothing."""
        if self._connection is None or os.getpid() != self._process:
            return  # in a forked child the lock and the connection are the parent's
        connection, self._connection = self._connection, None
        try:
            connection.close()
        finally:
            release_lock(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _journal(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path}: this run is closed; use Run.open")
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.path}: opened by process {self._process}, used in its child {os.getpid()}; "
                "write from one process only"
            )
        return self._connection
