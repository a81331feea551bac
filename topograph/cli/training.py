"""`grow`: train an experiment and grow it as a policy says."""

from pathlib import Path

from rich.console import Group
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from topograph.cli.loading import call
from topograph.cli.output import console, write_text
from topograph.cli.runs import read_run
from topograph.growth import Experiment, run_experiment
from topograph.growth.experiment import Progress as Step
from topograph.report import diff_text, ranking_table, render_history
from topograph.spec import Policy


def grow(experiment: str, policy: Path, run: Path) -> None:
    """Train and grow what a function returns; leave the report in the run."""
    rules = Policy.load(policy)
    train(call(experiment), rules, run)


def train(experiment: Experiment, policy: Policy, run: Path) -> list[Step]:
    """Run an experiment with a progress bar; show every growth; write the report.

    Returns:
        All steps.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"))
    steps: list[Step] = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("training", total=getattr(experiment, "steps", None), shown="")
        for step in run_experiment(experiment, policy, run):
            steps.append(step)
            bar.update(task, advance=1, shown=_metrics(step))
            if step.revision is not None:
                bar.console.print(_growth(step))
    history, topologies = read_run(run)
    write_text(run / "report.html", render_history(history, topologies))
    return steps


def _metrics(step: Step) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in step.metrics.items())


def _growth(step: Step) -> Group:
    assert step.revision is not None
    return Group(
        Text(f"\nstep {step.step}: {step.grower.decision}", style="bold"),
        ranking_table(step.grower.growth),
        diff_text(step.revision.diff),
        Text(""),
    )
