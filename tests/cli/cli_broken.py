"""What goes wrong in a stranger's own file."""

from dataclasses import replace

import torch
from cli_models import experiment, make_model, probe
from torch import nn

number = 7


class Stepping(nn.Module):
    """Its forward itself decides by a value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else -self.layer(x)


class Leaving(Stepping):
    """Its forward itself leaves torch."""

    def forward(self, x):
        return self.layer(torch.from_numpy(x.detach().numpy() * 2))


def no_module():
    return {"layers": 3}


def raises():
    raise ValueError("the\x1b[31mweights are gone")


def no_probe():
    return None


def empty_probe():
    return []


def one_pair():
    return probe()[0]


def triples():
    return [(1, 2, 3)]


def stopping_probe():
    yield probe()[0]
    raise RuntimeError("the disk went away")


def endless_probe():
    while True:
        yield 0, 0


def nan_targets():
    return [(torch.zeros(4, 8), torch.full((4, 3), float("nan")))]


def far_targets():
    return [(torch.zeros(4, 8), torch.tensor([0, 1, 2, 99]))]


def two_numbers(output, target):
    return output[:2, 0]


def no_experiment():
    return make_model()


def no_steps():
    return replace(experiment(), steps=0)


def failing_training():
    def train(network, optimizer):
        raise KeyError("no such column")

    return replace(experiment(), train=train)


def diverging():
    return replace(experiment(), validate=lambda network: {"val_loss": float("nan")})


def unwatched():
    return replace(experiment(), validate=lambda network: {"accuracy": 0.5})


def interrupted():
    def train(network, optimizer):
        raise KeyboardInterrupt

    return replace(experiment(), train=train)


def loose_inputs():
    return replace(experiment(), example_inputs=torch.zeros(2, 8))


def one_metric():
    return replace(experiment(), validate=lambda network: 0.5)


def unprobed():
    return replace(experiment(), probe=no_probe)
