"""A stranger's own file: three small networks, probe batches, and an experiment."""

import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = F.relu(self.norm(self.conv1(x)))
        h = F.relu(self.conv2(h) + h)
        return self.head(h.mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        h = self.embedding(ids)
        n = self.norm(h)
        h = h + self.attention(n, n, n, need_weights=False)[0]
        return self.head((h + self.down(F.relu(self.up(h)))).mean(1))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x, ids):
        return self.head(F.relu(self.first(x) + self.second(ids)))


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def probe():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    return [(x[:32], y[:32]), (x[32:], y[32:])]


def images():
    return [(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]))]


def tokens():
    return [(torch.randint(0, 20, (4, 5)), torch.tensor([0, 1, 2, 0]))]


def by_name():
    inputs = {"ids": torch.tensor([1, 2, 3, 4]), "x": torch.randn(4, 4)}
    return [(inputs, torch.tensor([0, 1, 2, 0]))]


def loss(output, target):
    return F.cross_entropy(output, target)


def experiment():
    model = make_model()
    batches = probe()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train(network, optimizer):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    def validate(network):
        with torch.no_grad():
            return {"val_loss": sum(F.cross_entropy(network(x), y).item() for x, y in batches)}

    return tg.Experiment(
        model=model,
        example_inputs=(batches[0][0],),
        loss=F.cross_entropy,
        optimizer=optimizer,
        train=train,
        validate=validate,
        probe=probe,
        steps=6,
        source="cli_models:make_model",
    )
