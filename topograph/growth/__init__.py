"""When it changes: triggers, selection, and the `Grower` that carries a policy out."""

from topograph.growth.grower import Grower

__all__ = ["Grower"]
