"""The front door of the command line: light, so that ``--help`` loads neither torch nor POT."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from topograph import __version__
from topograph.cli.difference import difference
from topograph.cli.eject import eject
from topograph.cli.explain import explain
from topograph.cli.failing import exit_code
from topograph.cli.idle import idle
from topograph.cli.options import Base, Block, Data, Inputs, Json, Model, RunFolder, Units, Where
from topograph.cli.output import say, show, write, write_text
from topograph.cli.policies import policy_app, validate
from topograph.cli.profile import profile
from topograph.cli.rank import rank
from topograph.errors import SpecError
from topograph.report import (
    history_table,
    render_history,
)
from topograph.spec.schemas import SCHEMAS, schema, text
from topograph.spec.scorers import USUAL

LOOK, CHANGE, GROW, DOCUMENTS = "Look", "Change", "Grow", "Documents"

app = typer.Typer(
    help="Edit neural networks the way Terraform edits infrastructure.",
    epilog="An error is one message on stderr and exit code 2; nothing is changed then.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(policy_app, name="policy", rich_help_panel=DOCUMENTS)


def torch_side(name: str) -> ModuleType:
    """Return a module of this room that needs torch, loaded on first use."""
    return import_module(f"topograph.cli.{name}")


def _version(asked: bool) -> None:
    if asked:
        say(f"topograph {__version__}")
        raise typer.Exit


@app.command(rich_help_panel=GROW)
def demo(
    run: Annotated[
        Path | None, typer.Option(help="Where the run is kept; default runs/demo, runs/demo-2, …")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Epochs to train")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and batches")] = 0,
) -> None:
    """Grow a small network on bundled digits and write a report."""
    torch_side("demo").demo(run, epochs, seed)


@app.command(rich_help_panel=LOOK)
def inspect(
    model: Model,
    shapes: Inputs = None,
    data: Data = None,
    html: Annotated[Path | None, typer.Option(help="Write the topology as one HTML file")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Write the topology as JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the topology as JSON")] = False,
    tree_json: Annotated[bool, typer.Option("--tree-json", help="Print the tree as JSON")] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Print a flat table of nodes instead")
    ] = False,
    depth: Annotated[int | None, typer.Option(min=1, help="Levels of the tree to print")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Print every block, also those alike")
    ] = False,
    spaces: Annotated[
        bool, typer.Option("--spaces", help="Print which widths must change together instead")
    ] = False,
) -> None:
    """Print a model's tree: submodules, calls, shapes, parameters, FLOPs.

    Blocks that are alike, such as layers.0 … layers.11, are one row.
    """
    options = tree_json, nodes, depth, every, spaces
    torch_side("models").inspect(model, shapes or [], data, html, output, as_json, *options)


@app.command(rich_help_panel=LOOK)
def score(
    model: Model,
    data: Annotated[str, typer.Option(help="pkg.mod:probe, returns batches (inputs, target)")],
    loss: Annotated[str, typer.Option(help="cross_entropy, mse_loss … or pkg.mod:loss")],
    where: Where = None,
    block: Block = None,
    units: Units = None,
    mutations: Annotated[
        Path | None, typer.Option(help="JSON file of other candidates than such a block")
    ] = None,
    scorer: Annotated[str, typer.Option(help="The rule that compares: natural, tiny …")] = USUAL,
    directions: Annotated[
        int, typer.Option(min=1, help="Along how many singular pairs its units start")
    ] = 1,
    top: Annotated[int, typer.Option(min=1, help="How many to print")] = 10,
    output: Annotated[Path | None, typer.Option("-o", help="Write them as mutations")] = None,
    run: Base = None,
    as_json: Json = False,
) -> None:
    """Score where a new layer, or another change, would lower the loss most."""
    options = where, block, units, mutations, scorer, directions, top, output, run, as_json
    torch_side("models").score(model, data, loss, *options)


app.command(rich_help_panel=LOOK)(rank)


@app.command(rich_help_panel=CHANGE)
def plan(
    model: Model,
    mutations: Annotated[Path, typer.Argument(help="JSON file: one mutation, or a list")],
    output: Annotated[Path | None, typer.Option("-o", help="Write the plan as JSON")] = None,
    shapes: Inputs = None,
    data: Data = None,
    run: Base = None,
    as_json: Json = False,
) -> None:
    """Print what mutations would change.

    Exits with 0 for no change, 2 for changes (and for errors, which print no plan).
    """
    changes = torch_side("models").plan(model, mutations, output, shapes or [], data, run, as_json)
    raise typer.Exit(2 if changes else 0)


app.command(rich_help_panel=CHANGE)(explain)


@app.command(rich_help_panel=CHANGE)
def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(help="A plan written by `topograph plan -o`")],
    run: Annotated[Path, typer.Option(help="The run directory; made if it is not there")],
    shapes: Inputs = None,
    data: Data = None,
) -> None:
    """Carry out a saved plan; keep the result in a run directory."""
    torch_side("models").apply(model, plan, run, shapes or [], data)


@app.command(rich_help_panel=GROW)
def grow(
    experiment: Annotated[str, typer.Argument(help="pkg.mod:experiment, returns an Experiment")],
    run: Annotated[Path, typer.Option(help="The run directory: to make, or to go on with")],
    policy: Annotated[
        Path | None, typer.Option(help="The growth policy, JSON; a resumed run has its own")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was killed or ended")
    ] = False,
    parallel: Annotated[
        str | None, typer.Option(help="Under torchrun: ddp (the default) or fsdp2")
    ] = None,
) -> None:
    """Train an experiment and grow it as a policy says.

    Keeps the policy, all revisions, the state of training and report.html in the run directory.
    Runs on several ranks as it is: torchrun --nproc-per-node 4 -m -- topograph grow ...
    """
    torch_side("training").grow(experiment, policy, run, resume, parallel)


app.command("diff", rich_help_panel=LOOK)(difference)


@app.command(rich_help_panel=GROW)
def history(
    run: RunFolder,
    as_json: Json = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on while another process writes to it")
    ] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks", min=0.05)] = 1.0,
) -> None:
    """Print what happened in a run.

    With --follow also what comes, until its writer has ended or Ctrl-C is pressed.
    """
    if follow:
        if as_json:
            raise SpecError("history: --json prints once, --follow goes on; take one of the two")
        torch_side("runs").follow_run(run, interval)
        return
    found = torch_side("runs").read_history(run)
    if as_json:
        write(found.dump())
    else:
        show(history_table(found))


@app.command(rich_help_panel=GROW)
def report(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("-o", help="Default: report.html in the run")
    ] = None,
) -> None:
    """Write a run as one HTML file that needs nothing else."""
    found, topologies = torch_side("runs").read_run(run)
    place = output or run / "report.html"
    write_text(place, render_history(found, topologies))
    say(f"wrote {place}")


@app.command(rich_help_panel=GROW)
def undo(
    run: RunFolder,
    to: Annotated[int | None, typer.Option(help="Number of the entry to go back to")] = None,
) -> None:
    """Go back to an earlier entry of a run; nothing is deleted.

    Without --to, to the entry before the last applied plan.
    """
    entry = torch_side("runs").undo_run(run, to)
    say(
        f"entry {entry.number}: back at topology {entry.topology_sha256[:12]}, "
        f"weights of revisions/{entry.folder}"
    )


@app.command(rich_help_panel=GROW)
def replay(
    run: RunFolder,
    model: Annotated[str, typer.Option(help="Factory of the base model, pkg.mod:make_model")],
    shapes: Inputs = None,
    data: Data = None,
    number: Annotated[
        int | None, typer.Option("--at", help="Number of an entry; default: the last")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="Write the weights as safetensors")
    ] = None,
) -> None:
    """Build a run's network again, bit-equal, from its base model."""
    torch_side("runs").replay_run(run, model, shapes or [], data, number, output)


app.command(rich_help_panel=GROW)(eject)


app.command(rich_help_panel=DOCUMENTS)(validate)


@app.command("schema", rich_help_panel=DOCUMENTS)
def schema_(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SCHEMAS)}")],
) -> None:
    """Print the JSON Schema of a document."""
    schema(name)  # says which there are
    write(text(name))


app.command(rich_help_panel=LOOK)(profile)


app.command(rich_help_panel=LOOK)(idle)


@app.command(rich_help_panel=LOOK)
def doctor() -> None:
    """Print the versions in use, and what does not work here."""
    raise typer.Exit(torch_side("doctor").doctor())


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Edit neural networks the way Terraform edits infrastructure."""


def main() -> None:
    """Run the command line; what the user can act on is one message and exit code 2."""
    sys.exit(exit_code(app))
