"""Where it would pay: scores of all candidate changes from one pass forward and backward."""

from topograph.sensitivity.batches import mean_loss
from topograph.sensitivity.score import scorable, score
from topograph.sensitivity.scored import Score

__all__ = ["Score", "mean_loss", "scorable", "score"]
