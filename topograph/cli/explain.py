"""`explain`: the command; what it finds out is in `verdicts`, which needs torch."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from topograph.cli.options import Base, Data, Inputs, Json, Model


def explain(
    model: Model,
    mutations: Annotated[Path, typer.Argument(help="JSON file: one mutation, or a list")],
    shapes: Inputs = None,
    data: Data = None,
    run: Base = None,
    as_json: Json = False,
) -> None:
    """Print where mutations work, and why not elsewhere.

    For a selector that matches nothing: the nearest nodes, and which condition each fails. Exits
    with 0 if every mutation works somewhere, 1 if one works nowhere, 2 for errors.
    """
    verdicts = import_module("topograph.cli.verdicts")
    works = verdicts.explain(model, mutations, shapes or [], data, run, as_json)
    raise typer.Exit(0 if works else 1)
