"""How a model changes: one file per mutation, and plan, apply, undo."""

from topograph.rewrite.apply import Revision, apply, set_step, undo
from topograph.rewrite.plan import candidates, plan

__all__ = ["Revision", "apply", "candidates", "plan", "set_step", "undo"]
