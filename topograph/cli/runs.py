"""The verbs that work on a run directory: history, report, undo, replay."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from topograph.cli.loading import load_inputs, load_model
from topograph.cli.output import say, write_bytes
from topograph.spec import History
from topograph.store import read_history, read_topology, replay, undo_run
from topograph.topology import Topology

__all__ = ["read_history", "read_run", "replay_run", "undo_run", "weights"]


def read_run(run: Path) -> tuple[History, dict[int, Topology]]:
    """Return a run's history and the topology of every entry."""
    history = read_history(run)
    return history, {entry.number: read_topology(run, entry.number) for entry in history.entries}


def replay_run(
    run: Path,
    model: str,
    shapes: list[str],
    data: str | None,
    number: int | None,
    output: Path | None,
) -> None:
    """Build a run's network again; print what came of it, and write its weights if asked."""
    base = load_model(model)
    inputs, named = load_inputs(shapes, data)
    traced = replay(run, base, inputs, named, number=number)
    if output is not None:
        write_bytes(output, weights(traced.module))
    say(str(traced.topology))
    if output is not None:
        say(f"wrote {output}")


def weights(module: nn.Module) -> bytes:
    """Return a module's state as a safetensors file that ``load_state_dict`` takes."""
    state = module.state_dict()  # tied tensors are written twice: the format has no aliases
    return save({key: value.detach().clone().contiguous() for key, value in state.items()})
