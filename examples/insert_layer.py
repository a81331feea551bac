"""Insert a layer where the loss would fall most: trace, score, plan, apply, keep training.

Run it: ``python examples/insert_layer.py``
"""

import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg


def make_model() -> nn.Module:
    """Return a small plain network."""
    return nn.Sequential(
        nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2)
    )


def spirals(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points [count, 2] on two intertwined spirals, and which one each is on."""
    labels = torch.arange(count) % 2
    radius = torch.rand(count).sqrt() * 3
    angle = radius * 2 + labels * torch.pi
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return points + 0.1 * torch.randn(count, 2), labels


def main() -> dict[str, float]:
    """Run the example; return the losses it prints."""
    torch.manual_seed(0)
    points, labels = spirals(512)
    model = make_model()
    traced = tg.trace(model, example_inputs=(points,))
    optimizer = torch.optim.Adam(traced.module.parameters(), lr=1e-2)

    def train(module: nn.Module, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(points), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    before = train(traced.module, 200)
    candidate = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=16))
    scores = tg.score(traced, [(points, labels)], F.cross_entropy, candidates=[candidate])
    print("where a layer would pay, best first:")
    for score in scores:
        print(" ", score)

    plan = tg.plan(traced, [scores[0].mutation])
    print(f"\n{plan}\n")
    revision = tg.apply(traced, plan, directions=scores, step=0.3)
    print(f"planned again: {tg.plan(revision.after, [scores[0].mutation])}")

    grown = tg.recompile(revision.after)
    print("optimizer:", tg.migrate(revision, optimizer=optimizer))
    start = F.cross_entropy(grown(points), labels).item()
    after = train(grown, 200)
    print(f"loss {before:.4f} -> {start:.4f} at the moment of growth -> {after:.4f} after training")

    undone = tg.undo(revision)
    print("undone:", not tg.diff(traced.topology, undone.topology))
    return {"before": before, "start": start, "after": after}


if __name__ == "__main__":
    main()
