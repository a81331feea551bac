"""The values of many nodes, from one pass over a set of inputs."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from topograph.errors import NonFiniteError, SelectorError, ShapeError
from topograph.tracing import TracedModel
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.short import is_short

MAPS = ("batch", "channel", "space", "space")  # axes of a value that is made of maps
SMALLEST = 3  # pixels a side; a smaller map has no inside that a hole could be
Heard = Callable[[str, Tensor], None]  # a node's name, its value for one batch


def visit(
    traced: TracedModel, inputs: Tensor, nodes: Collection[str], heard: Heard, *, batch: int = 64
) -> None:
    """Run inputs through a network in eval mode and hand over the values of some nodes.

    Values are handed over batch by batch, in the order of the graph, and not kept: what is not
    copied inside `heard` is gone afterwards. Buffers, modes and random state stay as they are.

    Args:
        traced: The network.
        inputs: ``[N, ...]``, its one input.
        nodes: Names of nodes whose values are tensors with the batch in front.
        heard: Called with a node's name and its value ``[batch, ...]``.
        batch: Samples to run at a time.

    Raises:
        SelectorError: A node does not exist.
        ShapeError: There are no inputs, they do not fit, or a value is no tensor.
        NonFiniteError: A value is infinite or not a number; names the node.
    """
    known = traced.topology.by_name
    unknown = [name for name in nodes if name not in known]
    if unknown:
        raise SelectorError(
            f"there is no node {unknown[0]!r}; `topograph inspect --nodes` lists them"
        )
    if not len(inputs):
        raise ShapeError("there are no inputs to look at; give at least one")
    with preserved(traced.module), torch.no_grad():
        set_mode(traced.module, training=False)
        for part in inputs.split(batch):
            try:
                Ear(traced, nodes, heard).run(part)
            except (RuntimeError, LookupError) as error:
                if is_short(error):
                    raise
                raise ShapeError(
                    f"the model does not run on inputs {list(part.shape)} {part.dtype}: {error}"
                ) from None


def collected(traced: TracedModel, inputs: Tensor, nodes: Collection[str]) -> dict[str, Tensor]:
    """Return the values of some nodes for all inputs, on the CPU.

    Args:
        traced: The network.
        inputs: ``[N, ...]``, its one input.
        nodes: Names of nodes whose values are tensors with the batch in front.

    Raises:
        SelectorError: A node does not exist.
        ShapeError: There are no inputs, or a value is no tensor.
        NonFiniteError: A value is infinite or not a number; names the node.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in nodes}

    def keep(name: str, value: Tensor) -> None:
        kept[name].append(value.to("cpu", copy=True))  # what follows may write to it

    visit(traced, inputs, nodes, keep)
    return {name: torch.cat(kept.pop(name)) for name in list(kept)}


class Ear(fx.Interpreter):
    """Runs the graph and hands over the values of some nodes as they are made.

    Args:
        traced: The network.
        nodes: Names of nodes whose values are tensors.
        heard: Called with a node's name and its value.
        where: What an error about a value adds to the node, such as " in batch 3".

    Raises:
        ShapeError: A value is no tensor.
        NonFiniteError: A value is infinite or not a number; names the node.
    """

    def __init__(
        self, traced: TracedModel, nodes: Collection[str], heard: Heard, where: str = ""
    ) -> None:
        super().__init__(traced.module, garbage_collect_values=True)
        self.extra_traceback = False  # or torch adds lines of its own to an error's message
        self._nodes, self._heard, self._where = frozenset(nodes), heard, where

    def run_node(self, n: fx.Node) -> Any:
        """Make a node's value, and hand it over where it is wanted."""
        value = super().run_node(n)
        if n.name in self._nodes:
            if not isinstance(value, Tensor):
                raise ShapeError(
                    f"{n.name} is a {type(value).__name__}, not a tensor; leave it out"
                )
            if value.is_floating_point() and not torch.isfinite(value).all():
                causes = "inputs" if n.op == "placeholder" else "inputs and the weights"
                raise NonFiniteError(
                    f"the value of {n.name} is not finite{self._where}; look at the {causes}"
                )
            self._heard(n.name, value.detach())
        return value
