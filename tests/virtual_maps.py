"""Dense oracles for inserted blocks: their gradients by autograd, their loss along a start."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import Batches
from topograph.rewrite import set_step
from topograph.sensitivity import mean_loss


def eye_of(block, channels: int, dims: int) -> Tensor:
    """Return weights of a second layer with one unit for each entry of what it writes."""
    if isinstance(block, tg.Bottleneck):
        return torch.eye(channels).double()
    kernel = [block.kernels[1]] * dims
    written = channels * torch.Size(kernel).numel()
    return torch.eye(written).double().reshape(written, channels, *kernel).movedim(0, 1)


def gradients_of(traced: tg.TracedModel, mutations, batches: Batches, loss) -> list[Tensor]:
    """Return M [written, read + 1] of each, from a block with a tanh and `eye_of` behind.

    With W1 = 0 and W2 = I the negative gradient by W1 and b1 is M itself, beside others like it.
    """
    changes = [_whole(traced, mutation) for mutation in mutations]
    several, after = layers_of_each(traced, [change for change, _ in changes])
    with torch.no_grad():
        for layers, (_, eye) in zip(several, changes, strict=True):
            layers.reduce.weight.zero_()
            layers.reduce.bias.zero_()
            layers.expand.weight.copy_(eye)
    wanted = [p for layers in several for p in (layers.reduce.weight, layers.reduce.bias)]
    total = sum(loss(after(x), y) for x, y in batches) / len(batches)
    found = iter(torch.autograd.grad(total, wanted))
    return [-torch.cat([rows.flatten(1), next(found)[:, None]], 1) for rows in found]


def _whole(traced: tg.TracedModel, mutation) -> tuple[tg.InsertLayer, Tensor]:
    """Return a mutation whose units write every entry by itself, and the weights that do."""
    node = mutation.where.node if mutation.where.kind == "at" else mutation.where.source
    found = traced.topology.by_name[node]
    eye = eye_of(mutation.block, found.channels, len(found.axes) - 2)
    block = mutation.block.model_copy(update={"units": eye.shape[1], "activation": "tanh"})
    return mutation.model_copy(update={"block": block}), eye


def layers_of(traced: tg.TracedModel, mutation, directions=(), step=0):
    """Return the new layers of a mutation and the whole network, in eval mode."""
    (layers,), after = layers_of_each(traced, [mutation], directions, step)
    return layers, after


def layers_of_each(traced: tg.TracedModel, mutations, directions=(), step=0):
    """Return the new layers of each mutation and the network with all, in eval mode."""
    revision = tg.apply(traced, tg.plan(traced, mutations), directions=directions, step=step)
    assert len(revision.plan.changes) == len(mutations)
    after = revision.after.module.eval()
    return [after.get_submodule(change.path) for change in revision.plan.changes], after


def losses(traced: tg.TracedModel, score: tg.Score, batches: Batches, steps, loss) -> list[float]:
    """Return the mean loss at each step along a score's start."""
    ((_, found),) = losses_each(traced, [score], batches, steps, loss)
    return found


def losses_each(traced: tg.TracedModel, scores, batches: Batches, steps, loss):
    """Yield each score with the mean loss at each step along its start alone.

    One plan has the layers of all: one that is at 0 adds nothing.
    """
    plan = tg.plan(traced, [score.mutation for score in scores])
    assert len(plan.changes) == len(scores)
    revision = tg.apply(traced, plan)
    for score in scores:
        found = []
        for step in steps:
            set_step(revision, [score], step)
            found.append(mean_loss(revision.after, batches, loss))
        yield score, found


def falls_each(traced: tg.TracedModel, scores, batches: Batches, *steps):
    """Yield each score with what the loss falls by at each step, by ``step ** order``."""
    before = mean_loss(traced, batches, F.cross_entropy)
    for score, found in losses_each(traced, scores, batches, steps, F.cross_entropy):
        falls = zip(steps, found, strict=True)
        yield score, [(before - after) / step**score.order for step, after in falls]


def regression(count: int = 6, samples: int = 16) -> tuple[tg.TracedModel, Batches]:
    """Return a net with one output under a squared error, in float64: its curvature is exact."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1)).double()
    batches = []
    for _ in range(count):
        x = torch.randn(samples, 4).double()
        batches.append((x, x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(samples, 1).double()))
    return tg.trace(net, batches[0][:1]), batches
