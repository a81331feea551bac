"""Grow a network whenever its validation loss stands still, as a JSON policy says.

Run it: ``python examples/grow_on_plateau.py [run directory]``
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg

POLICY = Path(__file__).parent / "policies" / "plateau.json"


def make_model() -> nn.Module:
    """Return a network that is too small for its task."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def waves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [count, 4] and a smooth function of them [count, 1]."""
    inputs = torch.randn(count, 4)
    target = torch.sin(2 * inputs[:, :1]) * inputs[:, 1:2] + torch.cos(inputs[:, 2:3])
    return inputs, target


def main(run: str | None = None) -> tuple[float, float]:
    """Run the example; return the validation loss of the first epoch and of the last."""
    torch.manual_seed(0)
    inputs, target = waves(1024)
    held, held_target = waves(512)
    probe = [(inputs[rows], target[rows]) for rows in torch.arange(512).split(128)]
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    with tg.Grower(
        model,
        tg.Policy.load(POLICY),
        example_inputs=(inputs[:2],),
        loss=F.mse_loss,
        optimizer=optimizer,
        run=run,
        source="examples.grow_on_plateau:make_model",
    ) as grower:
        for epoch in range(60):
            for rows in torch.randperm(1024).split(64):
                optimizer.zero_grad()
                F.mse_loss(grower.model(inputs[rows]), target[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                losses.append(F.mse_loss(grower.model(held), held_target).item())
            revision = grower.step(metrics={"val_loss": losses[-1]}, batches=probe)
            if revision is not None:
                print(f"epoch {epoch}, loss {losses[-1]:.4f}: {grower.decision}")
                print(revision.diff, "\n")
    print(f"{grower.growths} growths; loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
