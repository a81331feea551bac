"""Noise goes backward in some of the batches, behind the pass of the loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from topograph.sensitivity.tape import Probe, sweep
from topograph.spec import At


@pytest.mark.parametrize(("every", "felt_in"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3])])
def test_noise_is_felt_in_one_of_so_many_batches(every, felt_in):
    torch.manual_seed(0)
    first, second = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    batches = [(torch.randn(2, 4).double(), torch.tensor([0, 2])) for _ in range(5)]
    traced = tg.trace(nn.Sequential(first, nn.Tanh(), second), (batches[0][0],))
    place = At(node=next(node.name for node in traced.topology.nodes if node.op == "tanh"))
    drawn, heard, felt = [], [], []

    def noise(loss, output, target):
        drawn.append(torch.randn_like(output))
        return output, drawn[-1]

    listens = Probe(place, place.node, lambda state, adjoint: heard.append((state, adjoint)))
    feels = Probe(place, place.node, None, lambda state, left: felt.append((state, left)))
    sweep(traced, batches, F.cross_entropy, [listens, feels], noise=noise, every=every)
    states = [torch.tanh(first(inputs)).requires_grad_() for inputs, _ in batches]
    for (state, adjoint), expected, (_, target) in zip(heard, states, batches, strict=True):
        (slope,) = torch.autograd.grad(F.cross_entropy(second(expected), target), expected)
        assert torch.allclose(state, expected)
        assert torch.allclose(adjoint, -slope)
    assert len(felt) == len(felt_in)
    for (state, left), batch, gradient in zip(felt, felt_in, drawn, strict=True):
        assert torch.allclose(state, states[batch])
        assert torch.allclose(left, gradient @ second.weight)
