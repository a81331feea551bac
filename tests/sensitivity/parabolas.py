"""What a step along a move really does to networks of one output: oracles of `wasserstein`."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import SHAPES
from topograph.rewrite import set_step
from topograph.sensitivity import mean_loss
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.wasserstein import measure


class Hidden(nn.Module):
    """A hidden layer inside a residual block, read by two layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.up = nn.Linear(5, 4), nn.Linear(4, 6)
        self.down, self.gate, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = self.stem(x)
        wide = torch.tanh(self.up(h))
        return self.head(h + self.down(wide) * torch.sigmoid(self.gate(wide)))


def one_output(name):
    """Return a network with one output, whose squared error has the curvature 2, and batches."""
    torch.manual_seed(0)
    factory, shape = SHAPES.get(name, (Hidden, (5,)))
    model = factory().double()
    model.head = nn.Linear(model.head.in_features, 1).double()
    traced = tg.trace(model, (torch.randn(2, *shape).double(),))
    inputs = torch.randn(2, 8, *shape).double()
    return traced, [(x, torch.randn(8, 1).double()) for x in inputs]


def within(traced, batches, moves, loss=F.mse_loss, **options):
    return measure(Asked(traced, batches, loss, tuple(moves), None, lambda _: None), **options)


def applied(traced, score, step):
    revision = tg.apply(traced, tg.plan(traced, [score.mutation]), directions=[score], step=step)
    return revision, revision.after.module.eval()


def falls(traced, batches, scores, step):
    """Return how far the loss falls with each score's layer at a step."""
    before, found = mean_loss(traced, batches, F.mse_loss), []
    for score in scores:
        revision, _ = applied(traced, score, step)
        found.append(before - mean_loss(revision.after, batches, F.mse_loss))
    return found


def slope_and_curvature(traced, score, batches):
    """Return D and kappa of a move by e, from the outputs at a small step on either side."""
    (found,) = slopes_and_curvatures(traced, [score], batches).values()
    return found


def slopes_and_curvatures(traced, scores, batches):
    """Return D and kappa of each move; one plan has all of them, all but one at a step of 0."""
    rates = tg.score(traced, batches, F.mse_loss, [score.mutation for score in scores])
    assert len(rates) == len(scores)
    revision, found = tg.apply(traced, tg.plan(traced, [r.mutation for r in rates])), {}
    after = revision.after.module.eval()
    for rate in rates:
        step = 1e-3 if rate.order == 2 else 1e-5
        set_step(revision, [rate], step)
        curvature = []
        for x, _ in batches:
            with torch.no_grad():
                moved = (after(x) - traced.module.eval()(x)) / step**rate.order
            curvature.append(2 * moved.square().mean().item())
        found[rate.mutation] = rate.value, float(np.mean(curvature))
    return found
