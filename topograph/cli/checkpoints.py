"""What `topograph diff` needs torch for: tensors of files and of runs."""

from topograph.cli.loading import load_inputs, load_model
from topograph.errors import SpecError
from topograph.store import read_topology, replay
from topograph.store.compare import compare, revision_of
from topograph.topology import Topology
from topograph.topology.tensors import CheckpointDiff
from topograph.tracing import TracedModel, trace


def compared(
    before: str,
    after: str,
    align: bool,
    model: str | None,
    shapes: list[str],
    data: str | None,
) -> CheckpointDiff | tuple[Topology, Topology]:
    """Return how two checkpoints differ; their topologies if these are not the same."""
    runs = [revision_of(side)[0].is_dir() for side in (before, after)]
    if all(runs):
        first, second = topology_of_run(before), topology_of_run(after)
        if first.fingerprint != second.fingerprint and align:
            raise SpecError(
                f"--align: {before} and {after} have different topologies, whose units cannot be "
                "matched; leave it out to see what is different"
            )
        if first.fingerprint != second.fingerprint:
            return first, second
    if not align:
        return compare(before, after)
    if model is None:
        raise SpecError(
            "--align: tensors do not say which units may change places; add --model "
            "pkg.mod:make_model and --input 2,3,32,32 or --data"
        )
    return compare(before, after, align=True, like=_guide(before, after, model, shapes, data))


def topology_of_run(side: str) -> Topology:
    """Return the topology of ``runs/a`` or ``runs/a@2``."""
    return read_topology(*revision_of(side))


def _guide(before: str, after: str, model: str, shapes: list[str], data: str | None) -> TracedModel:
    """Return the model as a run of the two has it, else as its factory makes it."""
    base, (inputs, named) = load_model(model), load_inputs(shapes, data)
    for side in (before, after):
        run, number = revision_of(side)
        if run.is_dir():
            return replay(run, base, inputs, named, number=number)
    return trace(base, inputs, named)
