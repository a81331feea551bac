"""Trainable again: the optimizer and its companions follow a change; the graph is compiled."""

from topograph.training.migrate import Migration, migrate
from topograph.training.recompile import recompile

__all__ = ["Migration", "migrate", "recompile"]
