"""How a model changes: one file per mutation, and plan, apply, undo."""

from topograph.rewrite.apply import Revision, apply, set_step, undo
from topograph.rewrite.factories import register_block
from topograph.rewrite.plan import candidates, plan

__all__ = ["Revision", "apply", "candidates", "plan", "register_block", "set_step", "undo"]
