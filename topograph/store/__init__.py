"""What is kept: a run directory with a SQLite journal, staged revisions, and replay."""

from topograph.store.compare import compare
from topograph.store.journal import read_history
from topograph.store.reading import read_tensors, read_topology
from topograph.store.replay import replay
from topograph.store.run import Run
from topograph.store.undo import undo_run

__all__ = ["Run", "compare", "read_history", "read_tensors", "read_topology", "replay", "undo_run"]
