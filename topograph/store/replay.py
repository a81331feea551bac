"""`replay`: the network of an entry, from the base model and the journal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from topograph.errors import DriftError, StoreError
from topograph.rewrite import apply
from topograph.spec import Entry, History
from topograph.store.journal import entry_of, read_history
from topograph.store.revisions import (
    read_manifest,
    read_revision_tensors,
    read_revision_topology,
    record_of,
)
from topograph.store.tensors import load_state, pack
from topograph.topology import Topology, diff
from topograph.tracing import TracedModel, trace

MOST_LINES = 12


def replay(
    path: str | Path,
    model: nn.Module,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    number: int | None = None,
) -> TracedModel:
    r"""Return the network of an entry: trace the base, apply its plans in order, load its tensors.

    With the plans :math:`p_1, \dots, p_k` on the entry's stack the topology is
    :math:`p_k \circ \dots \circ p_1 (t_0)`; the fingerprints of the first and of the last one
    must be those of the journal. All files are checked before a tensor is changed.

    Args:
        path: The run directory.
        model: The base model, as it was built for entry 0; its values do not matter. The result
            shares its parameters, which are overwritten.
        example_inputs: Positional inputs for `trace`.
        example_kwargs: Keyword inputs for `trace`.
        number: The entry; None for the last one.

    Returns:
        The traced network; its persistent state is bit-equal to what was stored. Buffers that are
        not persistent are those of the base model.

    Raises:
        DriftError: The model is not the base model, or a plan now gives another topology.
        CorruptError: A file is missing, edited, or of another run.
        StoreError: There is no such run or entry, or the tensors do not fit the model.

    Example:
        >>> import tempfile, torch, topograph as tg
        >>> base, x = torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.ones(2, 4)
        >>> path = tempfile.mkdtemp() + "/a"
        >>> tg.Run.create(path, tg.trace(base, (x,)), model="pkg.mod:make_model").close()
        >>> again = tg.replay(path, torch.nn.Sequential(torch.nn.Linear(4, 2)), (x,))
        >>> torch.equal(again.module(x), base(x))
        True

    References:
        https://martinfowler.com/eaaDev/EventSourcing.html
    """
    place = Path(path)
    revisions = place / "revisions"
    history = read_history(place)
    entry = entry_of(history, number, place)
    tensors = read_revision_tensors(revisions, entry)
    traced = trace(model, example_inputs, example_kwargs)
    _require_base(place, history, traced.topology)
    for applied in entry.stack:
        plan = history.entries[applied].plan
        assert plan is not None  # read_history has checked it
        traced = apply(traced, plan).after
    _require_entry(revisions, entry, traced.topology)
    load_state(traced.module, tensors, f"{place}: entry {entry.number}")
    if record_of(pack(traced.module).content) != read_manifest(revisions, entry).model:
        raise StoreError(
            f"{place}: entry {entry.number} did not load bit by bit; does the model have hooks on "
            "its state dict? Remove them while replaying"
        )
    return traced


def _require_base(place: Path, history: History, found: Topology) -> None:
    base = history.entries[0]
    if found.fingerprint != base.topology_sha256:
        expected = read_revision_topology(place / "revisions", base)
        raise DriftError(
            f"{place}: entry 0 was made from {history.model}, "
            f"topology {expected.fingerprint[:12]}; "
            f"this model has {found.fingerprint[:12]}. Build the same base model and give the "
            f"same example inputs. From the run to this model:\n{_short_diff(expected, found)}"
        )


def _require_entry(revisions: Path, entry: Entry, found: Topology) -> None:
    if found.fingerprint != entry.topology_sha256:
        expected = read_revision_topology(revisions, entry)
        raise DriftError(
            f"{revisions.parent}: the plans of entry {entry.number} gave "
            f"{expected.fingerprint[:12]} then and {found.fingerprint[:12]} now; use the "
            f"versions of topograph and torch that wrote the run. "
            f"From the run to this model:\n{_short_diff(expected, found)}"
        )


def _short_diff(expected: Topology, found: Topology) -> str:
    lines = str(diff(expected, found)).splitlines()
    more = [f"... {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + more)
