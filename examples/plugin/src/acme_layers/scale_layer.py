"""`scale_layer`: how the mutation is carried out on a draft of the graph."""

import operator

import torch
from torch import nn

from acme_layers.records import ScaleLayer
from topograph.rewrite.aliases import reroute_hazard
from topograph.rewrite.draft import Draft
from topograph.spec import At, Refusal, places
from topograph.topology import Topology

SIZES = ("size", "numel")  # readers that ask for no values


def resolve(mutation: ScaleLayer, topology: Topology) -> tuple[ScaleLayer, ...]:
    """Return the mutation once for each single place that its selector means."""
    return tuple(
        mutation.model_copy(update={"where": place}) for place in places(mutation.where, topology)
    )


def check(draft: Draft, mutation: ScaleLayer) -> Refusal | None:
    """Return why the value cannot be scaled, if it cannot."""
    where, topology = mutation.where, draft.base.topology
    if not isinstance(where, At):
        return Refusal(
            node=where.source, reason="a factor scales a whole value, not one use", fix="use `at`"
        )
    node = topology.by_name[where.node]
    if node.name not in draft.nodes:
        return Refusal(node=node.name, reason="the same plan removes it", fix="plan them apart")
    if node.kind == "parameter" or not topology.users[node.name]:
        return Refusal(
            node=node.name, reason="it is no value that flows", fix="choose a node that is read"
        )
    if node.dtype is None or not draft.sample(node.name).is_floating_point():
        return Refusal(
            node=node.name,
            reason=f"its value is {node.dtype}, not floating point",
            fix="choose another",
        )
    return reroute_hazard(draft, node.name)


def stem(mutation: ScaleLayer) -> str:
    """Return what the new module's name starts with."""
    return "scale"


def preserves(mutation: ScaleLayer) -> bool:
    """Return True: a factor of 1 changes no value."""
    return True


def ends(mutation: ScaleLayer) -> tuple[str, ...]:
    """Return the node behind which something changes."""
    return (mutation.where.node,)


def rewrite(draft: Draft, mutation: ScaleLayer, name: str, seed: int) -> nn.Module:
    """Scale the value for all that read it; return the module that holds the factor."""
    node = mutation.where.node
    like = draft.sample(node)
    scale = nn.Module()
    scale.factor = nn.Parameter(torch.ones((), dtype=like.dtype, device=like.device))
    draft.add_module(name, scale)
    value = draft.value(node)
    readers = [reader for reader in value.users if reader.target not in SIZES]
    factor = draft.call("get_attr", f"{name}.factor", (), f"{name}_factor", value)
    scaled = draft.call("call_function", operator.mul, (value, factor), f"{name}_product", factor)
    for reader in readers:
        reader.replace_input_with(value, scaled)
    draft.values[node] = scaled
    return scale
