"""Where commands write: the terminal, and files that are replaced whole."""

from pathlib import Path

from rich.console import Console

from topograph.errors import SpecError

console = Console(soft_wrap=False)
errors = Console(stderr=True, highlight=False)


def write_text(path: Path, text: str) -> None:
    """Write a file, by way of a neighbour, so that a failure leaves the old one.

    Raises:
        SpecError: The place cannot be written; says why.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SpecError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
