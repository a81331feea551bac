"""Which modules stay whole in a graph."""

from torch import nn

OPENED = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
CLOSED_NAMES = ("norm", "dropout", "droppath", "stochasticdepth")


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module's call is one node: torch's own layers, norms and dropouts.

    A subclass of a torch layer is a leaf as its base is, since what it computes may depend on the
    mode; containers are opened.
    """
    if isinstance(module, OPENED):
        return False
    bases = [base for base in type(module).__mro__ if base is not nn.Module]
    if any(base.__module__.startswith(("torch.nn.", "torch.ao.nn.")) for base in bases):
        return True
    childless = next(module.children(), None) is None
    name = type(module).__name__.lower()
    return childless and any(part in name for part in CLOSED_NAMES)


def paths_by_module(model: nn.Module) -> dict[int, str]:
    """Return each module's first path, by the module's identity."""
    paths: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), path)
    return paths


def paths_by_tensor(model: nn.Module) -> dict[int, str]:
    """Return each parameter's and buffer's first path, by the tensor's identity."""
    paths: dict[int, str] = {}
    for named in (model.named_parameters, model.named_buffers):
        for path, tensor in named(remove_duplicate=False):
            paths.setdefault(id(tensor), path)
    return paths
