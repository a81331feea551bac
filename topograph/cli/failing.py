"""How commands end: what the user can act on is one message on stderr, never a traceback."""

import os
import sys
from typing import Any

import typer

from topograph.cli.output import complain
from topograph.errors import TopographError

FAILED = 2
INTERRUPTED = 130  # what a shell expects after Ctrl-C
UsageError: Any = typer.BadParameter.__base__  # typer does not export it


def exit_code(app: typer.Typer) -> int:
    """Run the command that ``sys.argv`` names; return what the process should end with."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a ² still works
    try:
        code = app(standalone_mode=False, prog_name="topograph")
        sys.stdout.flush()  # a full disk is told here, not by the interpreter at its end
    except BrokenPipeError:
        _let_go_of_stdout()
        return 1
    except TopographError as error:
        return _failed(str(error))
    except UsageError as error:
        return _misused(error)
    except OSError as error:
        if error.errno is None:
            raise
        _let_go_of_stdout()
        place = f"{error.filename}: " if error.filename else ""
        return _failed(
            f"{place}{error.strerror}; check the path, the permissions and the space on the disk"
        )
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        complain("interrupted; what was finished is kept")
    return code or 0


def _let_go_of_stdout() -> None:
    """Point stdout at nothing if it takes no more, so that the interpreter can end in peace."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str) -> int:
    complain(message)
    return FAILED


def _misused(error: Any) -> int:
    """Say what is wrong with the words of a command; without any, its help was printed."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return FAILED
    command = error.ctx.command_path if error.ctx else "topograph"
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return _failed(f"{message[:1].lower()}{message[1:]} (see {command} --help)")
