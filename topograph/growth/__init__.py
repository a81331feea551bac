"""When it changes: triggers, selection, and the `Grower` that carries a policy out."""

from topograph.growth.experiment import Experiment, Progress, run_experiment
from topograph.growth.grower import Grower

__all__ = ["Experiment", "Grower", "Progress", "run_experiment"]
