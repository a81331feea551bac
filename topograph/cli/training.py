"""`grow`: train an experiment and grow it as a policy says."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch import nn

from topograph.cli.joining import joined, speaks
from topograph.cli.loading import batches_of, call, guarded, kind_of
from topograph.cli.output import console, say, show, write_bytes, write_text
from topograph.cli.runs import read_run, weights
from topograph.errors import ShapeError, SpecError
from topograph.growth import Experiment, run_experiment
from topograph.growth.experiment import Progress as Step
from topograph.growth.significance import FEWEST
from topograph.report import diff_text, ranking_table, render_history
from topograph.spec import Policy, Significance
from topograph.training.parallel import How
from topograph.training.snapshot import random_state, set_random_state

HALVING = ("natural", "features")  # scorers that measure on one half what the other proposes


def grow(
    reference: str, policy: Path | None, run: Path, resume: bool, parallel: str | None = None
) -> None:
    """Train and grow what a function returns, on all ranks; leave the report in the run."""
    with joined(parallel) as how:
        _grow(reference, policy, run, resume, how)


def _grow(
    reference: str, policy: Path | None, run: Path, resume: bool, parallel: How | None
) -> None:
    if resume == (policy is not None):
        raise SpecError(
            "give --policy to start a run, or --resume to go on with one, which has its own policy"
        )
    rules = None if policy is None else Policy.load(policy)
    given = call(reference)
    experiment = _checked(given, reference)
    if rules is not None and parallel is None:
        _enough(f"{reference}: probe", given.probe, rules)
    steps = train(experiment, rules, run, resume, parallel)
    if not speaks():
        return
    last = steps[-1]
    before = read_run(run)[1][0].parameter_count
    say(
        f"{counted(len(steps), 'step')}, {counted(last.grower.growths, 'growth')}; parameters "
        f"{before:,} -> {last.grower.traced.topology.parameter_count:,}; {_metrics(last.metrics)}"
    )
    if not last.grower.growths:
        say(f"last decision: {last.grower.decision}")
    places(last, run)


def train(
    experiment: Experiment,
    policy: Policy | None,
    run: Path,
    resume: bool = False,
    parallel: How | None = None,
) -> list[Step]:
    """Run an experiment with a progress bar; show every growth; write report and final model.

    Returns:
        All steps.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"))
    steps: list[Step] = []
    bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("training", total=experiment.steps, shown="")
        for step in run_experiment(experiment, policy, run, resume=resume, parallel=parallel):
            steps.append(step)
            bar.update(task, completed=step.step, shown=_metrics(step.metrics))
            if step.revision is not None:
                _show_growth(step, experiment.steps)
    if not speaks():
        return steps
    history, topologies = read_run(run)
    write_text(run / "report.html", render_history(history, topologies))
    write_bytes(run / "model.safetensors", weights(steps[-1].grower.traced.module))
    return steps


def places(last: Step, run: Path) -> None:
    """Print where the time went, and where the run and its report are."""
    total = last.training_seconds + last.growth_seconds
    say(
        f"{last.training_seconds:.1f} s in training, {last.growth_seconds:.1f} s in growth "
        f"({last.growth_seconds / total:.1%})"
    )
    say(f"the run: {run}")
    say(f"the final model: {run / 'model.safetensors'}")
    say(f"the report: {run / 'report.html'}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless there is one of it."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _checked(experiment: object, reference: str) -> Experiment:
    """Return a user's experiment, whose functions say what they did wrong and where."""
    if not isinstance(experiment, Experiment):
        raise SpecError(
            f"{reference}() returns {kind_of(experiment)}; it must return a topograph.Experiment"
        )
    given, steps = experiment.example_inputs, experiment.steps
    if not isinstance(given, tuple | list):
        raise SpecError(f"{reference}(): example_inputs is {kind_of(given)}; give a tuple")
    if not isinstance(steps, int) or steps < 1:
        raise SpecError(f"{reference}(): steps is {steps!r}; give at least 1")
    validated = guarded(f"{reference}: validate", experiment.validate)
    probed = guarded(f"{reference}: probe", experiment.probe)

    def validate(network: nn.Module) -> Mapping[str, float]:
        metrics = validated(network)
        if not isinstance(metrics, Mapping):
            raise SpecError(
                f"{reference}: validate returns {kind_of(metrics)}; "
                "it must return metrics by name, e.g. {'val_loss': 0.5}"
            )
        return metrics

    return replace(
        experiment,
        loss=guarded(f"{reference}: loss", experiment.loss),
        train=guarded(f"{reference}: train", experiment.train),
        validate=validate,
        probe=lambda: batches_of(f"{reference}: probe", probed()),
    )


def _enough(name: str, probe: Callable[[], object], policy: Policy) -> None:
    """Raise ShapeError where rules need more probe batches than a list of them has.

    The dice are put back: the run goes as without this look. What is no list is left unread.
    """
    needs = [(FEWEST, "significance") for r in policy.rules if isinstance(r.trigger, Significance)]
    needs += [(2, rule.scorer) for rule in policy.rules if rule.scorer in HALVING]
    if not needs:
        return
    dice = random_state()
    made = guarded(name, probe)()
    set_random_state(dice)
    least, what = max(needs)
    if isinstance(made, list | tuple) and len(batches_of(name, made)) < least:
        raise ShapeError(f"{what} needs at least {least} probe batches; {name} gives {len(made)}")


def _metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _show_growth(step: Step, total: int) -> None:
    assert step.revision is not None
    assert step.grower.growth is not None
    show(Text(f"\nstep {step.step} of {total}: growth {step.grower.growths}", style="bold"))
    show(ranking_table(step.grower.growth))
    show(diff_text(step.revision.diff))
    say("")
