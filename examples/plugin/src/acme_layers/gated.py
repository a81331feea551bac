"""`gated`: whether the block fits a value, and its layers, plain ones of torch."""

import math

import torch
from torch import Tensor, nn

from acme_layers.records import Gated
from topograph.spec import Refusal
from topograph.topology import Node


def fits(block: Gated, node: Node) -> Refusal | None:
    """Return why the block cannot work on a node's value, which has a certain channel axis."""
    if node.axes[-1] == "channel":
        return None
    return Refusal(
        node=node.name,
        reason=f"a gated block works on channels on the last axis; here are {', '.join(node.axes)}",
        fix="use a conv_bottleneck, or choose another node",
    )


def layers(block: Gated, node: Node, like: Tensor, seed: int) -> nn.ModuleDict:
    """Return the layers, called one after the other; what they return is added to the value."""
    made = nn.ModuleDict(
        {
            "open": nn.utils.skip_init(nn.Linear, node.channels, 2 * block.units),
            "gate": nn.GLU(dim=-1),
            "close": nn.utils.skip_init(nn.Linear, block.units, node.channels, bias=False),
        }
    )
    generator = torch.Generator().manual_seed(seed)  # a plan makes the same weights every time
    with torch.no_grad():
        for parameter in made["open"].parameters():
            drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(drawn / math.sqrt(node.channels))
        made["close"].weight.zero_()  # so that the block adds nothing at first
    return made.to(dtype=like.dtype, device=like.device)
