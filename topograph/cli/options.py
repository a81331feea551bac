"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Factory of the model, pkg.mod:make_model")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="Shape of an input: 2,3,32,32 or 2,16:int64; repeatable"),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="pkg.mod:probe, returns batches (inputs, target)"),
]
RunFolder = Annotated[Path, typer.Argument(help="The run directory, e.g. runs/a")]
Base = Annotated[
    Path | None, typer.Option(help="Start from this run's last entry, not from the base model")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text")]

Where = Annotated[
    str | None,
    typer.Option(
        help="all, after:relu, named:layer2.*, at:relu_1, between:a,b", show_default="all"
    ),
]
Block = Annotated[
    str | None,
    typer.Option(
        help="bottleneck, conv_bottleneck, linear, self_attention", show_default="bottleneck"
    ),
]
Units = Annotated[
    int | None, typer.Option(min=1, help="Width of its hidden layer", show_default="16")
]


class Format(StrEnum):
    """How a difference is written."""

    text = "text"
    json = "json"
    html = "html"
    dot = "dot"
    mermaid = "mermaid"
