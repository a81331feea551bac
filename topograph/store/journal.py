"""The journal: SQLite, one transaction per commit, read while another process writes."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from topograph.errors import CorruptError, SpecError, StoreError, VersionError
from topograph.spec import Entry, History, Measurement
from topograph.store.files import reported, require_folder, require_regular, sync_folder
from topograph.topology.canonical import canonical, explain

FORMAT = 1
NAME = "journal.sqlite"
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entries (number INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE curve (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL);
"""
RESTORE = "restore it from a copy of the run"
OUTSIDE = {  # the disk's fault, not the file's
    sqlite3.SQLITE_FULL: "free some space and try again; nothing was changed",
    sqlite3.SQLITE_IOERR: "check the disk and its free space, then try again; nothing was changed",
    sqlite3.SQLITE_READONLY: "choose a run directory that you may write to",
    sqlite3.SQLITE_CANTOPEN: "check that you may read and write the run directory",
    sqlite3.SQLITE_PERM: "check that you may read and write the run directory",
    sqlite3.SQLITE_BUSY: "another process keeps it busy; try again",
    sqlite3.SQLITE_NOMEM: "free some memory and try again",
}


def create_journal(run: Path, model: str, base: Entry) -> None:
    """Make a run's journal with its first entry; it is there in full or not at all.

    Protocol: written beside its place in SQLite's rollback mode, synced, renamed, folder synced.

    Args:
        run: The run directory, which has no journal.
        model: Where the base model comes from.
        base: Entry 0.

    Returns:
        Nothing.

    Raises:
        StoreError: The disk is full or cannot be written to.

    Example:
        >>> NAME
        'journal.sqlite'

    References:
        https://sqlite.org/atomiccommit.html
    """
    staging = run / f".staging-{NAME}"
    with reported(staging, "be written"):
        for leftover in (staging, run / f"{staging.name}-journal"):
            leftover.unlink(missing_ok=True)
        with translated(staging), closing(_connect(staging)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
            with transaction(connection):
                rows = [("format", str(FORMAT)), ("model", model)]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
                _insert(connection, [base])
        staging.rename(run / NAME)
        sync_folder(run)


def open_journal(run: Path) -> sqlite3.Connection:
    """Open a run's journal for writing, in WAL mode with every transaction synced.

    Raises:
        CorruptError: It is missing, not SQLite, damaged, or holds invalid entries.
        VersionError: It was written by a newer topograph.
        StoreError: It cannot be opened for writing.
    """
    path = _existing(run)
    with translated(path):
        connection = _connect(path, mode="rw")
        try:
            _require_format(connection, path)
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                found = " ".join(str(found).split())
                raise CorruptError(f"{path}: is damaged ({found}); {RESTORE}")
        except BaseException:
            connection.close()
            raise
    return connection


def append_entries(connection: sqlite3.Connection, path: Path, entries: Sequence[Entry]) -> None:
    """Add entries in one transaction: the moment at which a commit has happened."""
    with translated(path), transaction(connection):
        _insert(connection, entries)


def append_curve(
    connection: sqlite3.Connection, path: Path, step: int, metrics: Mapping[str, float]
) -> None:
    """Add one step's metrics to the curve in one transaction."""
    rows = [(step, name, value) for name, value in metrics.items()]
    with translated(path), transaction(connection):
        connection.executemany("INSERT INTO curve VALUES (?, ?, ?)", rows)


def read_history(path: str | Path) -> History:
    """Read a run's journal: all entries and the measured curve.

    Takes no lock and changes nothing; sees one consistent state also while another process writes.

    Args:
        path: The run directory.

    Returns:
        The history, oldest entry first.

    Raises:
        StoreError: There is no such run, or it cannot be read.
        CorruptError: The journal is not SQLite, is cut short, or holds an invalid entry.
        VersionError: It was written by a newer topograph.

    Example:
        >>> read_history("no/such/run")
        Traceback (most recent call last):
            ...
        topograph.errors.StoreError: no/such/run: the run directory does not exist; check the path

    References:
        https://sqlite.org/wal.html
    """
    journal = _existing(Path(path))
    # a folder that cannot be written to has no place for SQLite's index of a write-ahead log
    log = journal.with_name(NAME + "-wal")
    finished = not log.exists() or log.stat().st_size == 0
    frozen = finished and not os.access(journal.parent, os.W_OK)
    with (
        translated(journal),
        closing(_connect(journal, mode="ro", immutable=int(frozen))) as connection,
    ):
        return history_of(connection, journal)


def history_of(connection: sqlite3.Connection, path: Path) -> History:
    """Return the validated history behind a connection, from one snapshot."""
    with translated(path):
        connection.execute("BEGIN")
        try:
            _require_format(connection, path)
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            model: Any = meta.get("model")  # None is refused by History
            rows = connection.execute("SELECT number, document FROM entries ORDER BY number")
            entries = tuple(_entry(path, number, document) for number, document in rows)
            curve = connection.execute("SELECT step, name, value FROM curve ORDER BY rowid")
            points = curve.fetchall()
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    _require_chain(entries, path)
    try:
        measured = tuple(Measurement(step=s, name=n, value=v) for s, n, v in points)
        return History(model=model, entries=entries, curve=measured)
    except ValidationError as error:
        raise CorruptError(f"{explain(error, str(path))}; {RESTORE}") from None


def head_of(connection: sqlite3.Connection, path: Path) -> Entry:
    """Return the last entry, without reading the others."""
    with translated(path):
        query = "SELECT number, document FROM entries ORDER BY number DESC LIMIT 1"
        return _entry(path, *connection.execute(query).fetchone())


def entry_of(history: History, number: int | None, run: Path) -> Entry:
    """Return an entry by its number, the head for None."""
    if number is None:
        return history.entries[-1]
    if type(number) is not int or not 0 <= number < len(history.entries):
        raise StoreError(
            f"{run}: there is no entry {number!r}, it has 0 to {len(history.entries) - 1}; "
            "`topograph history` lists them"
        )
    return history.entries[number]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: the disk's fault or the file's, with the next step."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise StoreError(f"{path}: {error}; open the run where it is used") from None
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        step = OUTSIDE.get(code & 0xFF)
        if step is None or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            message = f"{path}: is not a journal or is damaged ({error}); {RESTORE}"
            raise CorruptError(message) from None
        raise StoreError(f"{path}: {error}; {step}") from None


def _connect(path: Path, **options: object) -> sqlite3.Connection:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    address = path.absolute().as_uri() + (f"?{query}" if query else "")
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)


def _existing(run: Path) -> Path:
    require_folder(run, what="the run directory")
    path = run / NAME
    for name in (NAME, NAME + "-wal", NAME + "-shm"):
        require_regular(run / name)
    if not path.exists():
        raise StoreError(f"{run}: holds no journal; check the path, or make a run in it")
    return path


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    rows = [(entry.number, canonical(entry.model_dump(mode="json"))) for entry in entries]
    connection.executemany("INSERT INTO entries VALUES (?, ?)", rows)


def _require_format(connection: sqlite3.Connection, path: Path) -> None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    found = str(row[0]) if row else "none"
    if not (found.isascii() and found.isdigit() and len(found) < 10 and int(found) >= 1):
        raise CorruptError(f"{path}: expected a format number, got {found[:40]!r}; {RESTORE}")
    if int(found) > FORMAT:
        raise VersionError(
            f"{path}: written by a newer topograph (format {int(found)}; "
            f"this one reads {FORMAT}); upgrade"
        )


def _entry(path: Path, number: int, document: object) -> Entry:
    source = f"{path}: entry {number}"
    if not isinstance(document, str):
        raise CorruptError(f"{source}: expected text, got {type(document).__name__}; {RESTORE}")
    try:
        entry = Entry.parse(document, source=source)
    except SpecError as error:
        raise CorruptError(f"{error}; {RESTORE}") from None
    if entry.number != number:
        raise CorruptError(f"{source}: calls itself entry {entry.number}; {RESTORE}")
    return entry


def _require_chain(entries: Sequence[Entry], path: Path) -> None:
    """Entries count from 0, the first is the base, and stacks hold earlier applied plans."""
    if not entries:
        raise CorruptError(f"{path}: holds no entries; {RESTORE}")
    applied: set[int] = set()
    for expected, entry in enumerate(entries):
        if entry.number != expected or (entry.kind == "base") != (expected == 0):
            raise CorruptError(
                f"{path}: expected entry {expected}, got {entry.kind} {entry.number}; {RESTORE}"
            )
        if entry.kind == "apply" and entry.plan is not None:
            applied.add(entry.number)
        if not applied.issuperset(entry.stack):
            raise CorruptError(
                f"{path}: entry {expected} stands on {list(entry.stack)}, "
                f"of which not all are applied plans; {RESTORE}"
            )
