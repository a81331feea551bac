"""What a model may be wrapped in when it is handed over, and what cannot be taken off."""

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from topograph.errors import TraceError


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model inside its wrappers, and a note for each that was taken off.

    Raises:
        TraceError: Its parameters are sharded; carries the recipe.
    """
    notes: list[str] = []
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            notes.append("torch.compile's wrapper was taken off; recompile wraps it again")
            model = inner
        elif isinstance(model, DistributedDataParallel | DataParallel):
            kind = type(model).__name__
            notes.append(f"{kind} was taken off; wrap the recompiled model again")
            model = model.module
        else:
            break
    for path, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise TraceError(
                f"{path}: parameters are sharded ({type(parameter).__name__}, fully_shard), and a "
                "graph needs whole ones; build the model anew, load "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options="
                "StateDictOptions(full_state_dict=True)) into it, trace that, and shard it again"
            )
    return model, tuple(notes)
