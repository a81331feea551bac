"""Lets torchvision be imported where torch was built without CUDA."""

import torch

NAMES = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: list[torch.library.Library] = []  # operators live as long as their library


def declare_torchvision_operators() -> None:
    """Declare the operators without which `import torchvision` fails; once, and only if missing.

    torchvision's wheel for CUDA cannot load its compiled library beside a CPU-only torch, and goes
    on without it. But on import it also registers meta kernels for `torchvision::nms` and `qnms`,
    and those operators only the compiled library declares: the import ends with "operator
    torchvision::nms does not exist", and so do those of timm and transformers. Schemas are enough
    for it to succeed. The operators still have no kernels; no model here detects boxes.
    """
    if _declared or not _missing():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in NAMES:
        library.define(name + SCHEMA)
    _declared.append(library)


def _missing() -> bool:
    """Return whether torchvision is installed but fails for want of its operators."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    except RuntimeError as error:
        return "torchvision::nms" in str(error)
    return False
