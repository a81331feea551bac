"""The front door of the command line: light, so that ``--help`` loads neither torch nor POT."""

import json
import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.text import Text

from topograph.cli.output import console, errors, write_text
from topograph.errors import SpecError, TopographError
from topograph.report import (
    diff_dot,
    diff_mermaid,
    diff_text,
    history_table,
    render_diff,
    render_history,
)
from topograph.spec import Policy, schema
from topograph.spec.schemas import SCHEMAS
from topograph.topology import Topology, diff

app = typer.Typer(
    help="Edit neural networks the way Terraform edits infrastructure.",
    epilog="Errors exit with 2 and say what to do next; nothing is changed then.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
policy_app = typer.Typer(help="Growth policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")

Model = Annotated[str, typer.Argument(help="Where the model comes from: pkg.mod:make_model")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="Shape of an input, e.g. 2,3,32,32 or 2,16:int64; repeat for more"),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="pkg.mod:probe, a function that returns batches (inputs, target)"),
]
RunFolder = Annotated[Path, typer.Argument(help="The run directory, e.g. runs/a")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines")]


class Format(StrEnum):
    """How a difference is written."""

    text = "text"
    json = "json"
    html = "html"
    dot = "dot"
    mermaid = "mermaid"


def torch_side(name: str) -> ModuleType:
    """Return a module of this room that needs torch, loaded on first use."""
    return import_module(f"topograph.cli.{name}")


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Where the run is kept")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Epochs to train")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and batches")] = 0,
) -> None:
    """Grow a small network on bundled digits; writes report.html into the run."""
    torch_side("demo").demo(run, epochs, seed)


@app.command()
def inspect(
    model: Model,
    shapes: Inputs = None,
    data: Data = None,
    html: Annotated[Path | None, typer.Option(help="Write the topology as one HTML file")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Write the topology as JSON")] = None,
    as_json: Json = False,
) -> None:
    """Print what a model looks like: nodes, shapes, axes, parameters, FLOPs."""
    torch_side("models").inspect(model, shapes or [], data, html, output, as_json)


@app.command()
def score(
    model: Model,
    data: Annotated[str, typer.Option(help="pkg.mod:probe, returns batches (inputs, target)")],
    loss: Annotated[str, typer.Option(help="cross_entropy, mse_loss, …, or pkg.mod:loss")],
    where: Annotated[
        str, typer.Option(help="all, after:relu, named:layer2.*, at:relu_1, between:a,b")
    ] = "all",
    block: Annotated[str, typer.Option(help="bottleneck, conv_bottleneck or linear")] = "bottleneck",
    units: Annotated[int, typer.Option(min=1, help="Width of the block's hidden layer")] = 16,
    top: Annotated[int, typer.Option(min=1, help="How many to print")] = 10,
    as_json: Json = False,
) -> None:
    """Score where a new layer would lower the loss most."""
    torch_side("models").score(model, data, loss, where, block, units, top, as_json)


@app.command()
def plan(
    model: Model,
    mutations: Annotated[Path, typer.Argument(help="JSON: one mutation, or a list of them")],
    output: Annotated[Path | None, typer.Option("-o", help="Write the plan as JSON")] = None,
    shapes: Inputs = None,
    data: Data = None,
    run: Annotated[Path | None, typer.Option(help="Plan on top of this run's last revision")] = None,
    as_json: Json = False,
) -> None:
    """Print what mutations would change. Exits with 0 for no change, 2 for changes."""
    changes = torch_side("models").plan(model, mutations, output, shapes or [], data, run, as_json)
    raise typer.Exit(2 if changes else 0)


@app.command()
def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(help="A plan written by `topograph plan -o`")],
    run: Annotated[Path, typer.Option(help="The run directory; made if it is not there")],
    shapes: Inputs = None,
    data: Data = None,
) -> None:
    """Carry out a saved plan and keep the revision in a run directory."""
    torch_side("models").apply(model, plan, run, shapes or [], data)


@app.command()
def grow(
    experiment: Annotated[str, typer.Argument(help="pkg.mod:experiment, returns an Experiment")],
    policy: Annotated[Path, typer.Option(help="The growth policy, JSON")],
    run: Annotated[Path, typer.Option(help="The run directory to make")],
) -> None:
    """Train an experiment and grow it as a policy says; writes report.html into the run."""
    torch_side("training").grow(experiment, policy, run)


@app.command("diff")
def diff_(
    before: Annotated[Path, typer.Argument(help="A topology as JSON")],
    after: Annotated[Path, typer.Argument(help="Another one")],
    form: Annotated[Format, typer.Option("--format", help="How to write it")] = Format.text,
    output: Annotated[Path | None, typer.Option("-o", help="Write to a file")] = None,
) -> None:
    """Compare two topologies. Exits with 0 if they are the same, 1 if not."""
    first, second = Topology.load(before), Topology.load(after)
    found = diff(first, second)
    match form:
        case Format.text:
            written = str(found)
        case Format.json:
            written = found.dump()
        case Format.html:
            written = render_diff(first, second)
        case Format.dot:
            written = diff_dot(first, second)
        case Format.mermaid:
            written = diff_mermaid(first, second)
    if output is not None:
        write_text(output, written)
    elif form is Format.text:
        console.print(diff_text(found))
    else:
        print(written)
    raise typer.Exit(1 if found else 0)


@app.command()
def history(run: RunFolder, as_json: Json = False) -> None:
    """Print what happened in a run."""
    found = torch_side("runs").read_history(run)
    if as_json:
        print(found.dump())
    else:
        console.print(history_table(found))


@app.command()
def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option("-o", help="Default: report.html in the run")] = None,
) -> None:
    """Write a run as one self-contained HTML file."""
    found, topologies = torch_side("runs").read_run(run)
    place = output or run / "report.html"
    write_text(place, render_history(found, topologies))
    console.print(f"wrote {place}", highlight=False)


@app.command()
def undo(
    run: RunFolder,
    to: Annotated[int | None, typer.Option(help="Number of the entry to go back to")] = None,
) -> None:
    """Go back to the entry before the last growth, or to any other; nothing is deleted."""
    entry = torch_side("runs").undo_run(run, to)
    console.print(
        f"entry {entry.number}: back at topology {entry.topology_sha256[:12]}, "
        f"weights of revisions/{entry.folder}",
        highlight=False,
    )


@app.command()
def replay(
    run: RunFolder,
    model: Annotated[str, typer.Option(help="pkg.mod:make_model, the base model's factory")],
    shapes: Inputs = None,
    data: Data = None,
    number: Annotated[int | None, typer.Option("--at", help="An entry; default the last")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Write the weights (safetensors)")] = None,
) -> None:
    """Build a run's network again from its base model, bit-equal."""
    torch_side("runs").replay_run(run, model, shapes or [], data, number, output)


@app.command()
def validate(policy: Annotated[Path, typer.Argument(help="A growth policy, JSON")]) -> None:
    """Check a policy; names the field that is wrong."""
    found = Policy.load(policy)
    kinds = ", ".join(sorted({candidate.kind for candidate in found.candidates}))
    console.print(
        f"{policy}: valid; trigger {found.trigger.kind}, candidates {kinds}, scorer {found.scorer}",
        highlight=False,
    )


@app.command("schema")
def schema_(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SCHEMAS)}")],
) -> None:
    """Print the JSON Schema of a document."""
    print(json.dumps(schema(name), indent=2, sort_keys=True))


@policy_app.command("init")
def policy_init(
    path: Annotated[Path, typer.Argument(help="Where to write it")] = Path("policy.json"),
) -> None:
    """Write a starter policy that grows on a plateau."""
    if path.exists():
        raise SpecError(f"{path}: already there; choose another name, or remove it first")
    starter = Path(__file__).with_name("starter_policy.json").read_text(encoding="utf-8")
    write_text(path, starter)
    console.print(f"wrote {path}; check it with: topograph validate {path}", highlight=False)


@app.command()
def doctor() -> None:
    """Print the versions that matter here, and what does not work."""
    raise typer.Exit(torch_side("doctor").doctor())


def main() -> None:
    """Run the command line; an error of this package is one message and exit code 2."""
    try:
        app()
    except TopographError as error:
        errors.print(Text(f"error: {error}", style="bold red" if errors.is_terminal else ""))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
