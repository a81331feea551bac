"""CIFAR-10 as tensors: JPEG bytes from an .npz file, and random crops and flips."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
SPREAD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


def read(path: Path, limit: int) -> tuple[Tensor, Tensor]:
    """Return normalised images [N, 3, 32, 32] and labels [N]."""
    with np.load(path) as stored:
        jpeg, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
    count = min(limit, len(labels))
    rows = [jpeg[offsets[i] : offsets[i + 1]] for i in range(count)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(row))) for row in rows])
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    return (scaled - MEAN) / SPREAD, torch.from_numpy(labels[:count].astype(np.int64))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return random crops of the padded images, half of them flipped."""
    count = len(images)
    shift = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows, columns = shift + torch.arange(32)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    padded = F.pad(images, (4, 4, 4, 4))
    every = torch.arange(count)[:, None, None]
    crops = padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2).contiguous()
