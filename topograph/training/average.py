"""An average of a model's weights follows a change."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from topograph.errors import MigrationError
from topograph.rewrite import Revision
from topograph.rewrite.resize import carried
from topograph.widths.indices import Index


def grown_average(ema: AveragedModel, revision: Revision, sources: Mapping[str, str]) -> nn.Module:
    """Return the new structure with the old averages; new layers start from the live weights."""
    if not isinstance(ema, AveragedModel):
        raise MigrationError(
            f"an average of type {type(ema).__name__} cannot be carried; "
            "use torch.optim.swa_utils.AveragedModel, or make a new one"
        )
    known, old = revision.before.module.state_dict(), ema.module.state_dict()
    if known.keys() != old.keys():
        raise MigrationError(
            "the average has other parameters than the model before the change: "
            f"{sorted(known.keys() ^ old.keys())[:4]}; it averages another model"
        )
    module = revision.after.module.__deepcopy__({})
    with torch.no_grad():
        for path, tensor in module.state_dict().items():
            source = path if path in old else sources.get(path, "")
            places = revision.moved.get(source)
            if source in old and places is not None:
                _average_into(tensor, old[source], places)
            elif source in old and old[source].shape == tensor.shape:
                tensor.copy_(old[source])
    module.train(ema.module.training)
    return module


def _average_into(tensor: Tensor, average: Tensor, places: tuple[Index | None, ...]) -> None:
    """Put the averages of the entries that stay into a resized tensor."""
    known = carried(torch.ones_like(average), places) > 0
    tensor.copy_(torch.where(known, carried(average, places, shared=True), tensor))
