"""Floating-point operations of what runs, counted as torch's own counter counts them."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class Flops(TorchDispatchMode):
    """Adds up the operations of everything that runs inside; two per multiply-add.

    Attributes:
        total: Operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        packet = function._overloadpacket
        count = flop_registry.get(packet) or UNCOUNTED.get(packet)
        if count is not None:
            self.total += int(count(*args, **kwargs, out_val=output))
        return output
