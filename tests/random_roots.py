"""Structures of random models: what they take, what they return, what submodules hand over."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.random_blocks import layer

VOCABULARY = 7


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


class Parametrized(nn.Module):
    def __init__(self, shape, form):
        super().__init__()
        wrap = {"weight_norm": weight_norm, "spectral_norm": spectral_norm}.get(form)
        self.layer = wrap(layer(shape)) if wrap else layer(shape)
        if wrap is None:
            parametrize.register_parametrization(self.layer, "weight", Half())

    def forward(self, x):
        return self.layer(x)


@dataclass
class Parts:
    value: torch.Tensor
    gate: torch.Tensor
    scale: float = 0.5


class Pair(NamedTuple):
    value: torch.Tensor
    gate: torch.Tensor


class Both(nn.Module):
    """Returns several values."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.value, self.gate = form, layer(shape), layer(shape)

    def forward(self, x):
        value, gate = self.value(x), torch.sigmoid(self.gate(x))
        match self.form:
            case "dict":
                return {"value": value, "gate": gate}
            case "nested":
                return [value, {"gate": (gate, None)}]
            case "dataclass":
                return Parts(value, gate)
            case "namedtuple":
                return Pair(value, gate)
        return value, gate


class HandOver(nn.Module):
    """Reads what a submodule returned in a structure."""

    def __init__(self, shape, form):
        super().__init__()
        self.form, self.both = form, Both(shape, form)

    def forward(self, x):
        both = self.both(x)
        match self.form:
            case "dict":
                return both["value"] * both["gate"]
            case "nested":
                return both[0] * both[1]["gate"][0]
            case "dataclass":
                return both.value * both.gate * both.scale
            case "namedtuple":
                return both.value * both.gate
        value, gate = both
        return value * gate


@dataclass
class Result:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    names: tuple[str, ...] = ("logits", "hidden")


class Root(nn.Module):
    """A body and a head; takes one input."""

    def __init__(self, stem, body, shapes, output, tied):
        super().__init__()
        before, after = shapes
        self.output, self.stem, self.body = output, stem, body
        self.merge = layer(before)
        self.head = layer(after, 3)
        if tied and len(after) < 3 and isinstance(stem, nn.Embedding):
            self.head = nn.Sequential(
                nn.Linear(after[-1], before[-1]), nn.Linear(before[-1], VOCABULARY, bias=False)
            )
            self.head[1].weight = stem.weight

    def finish(self, h):
        hidden = self.body(h)
        logits = self.head(hidden)
        match self.output:
            case "tuple":
                return logits, hidden
            case "dict":
                return {"logits": logits, "hidden": hidden}
            case "nested":
                return [{"logits": logits, "parts": (hidden, None)}, 2.0]
            case "dataclass":
                return Result(logits, hidden)
            case "namedtuple":
                return Pair(logits, hidden)
            case "same twice":
                return logits, logits
            case "input":
                return logits, h
        if self.output == "by mode" and self.training:
            return logits, hidden.mean()
        return logits

    def forward(self, x):
        return self.finish(self.stem(x))


class Two(Root):
    def forward(self, x, other):
        return self.finish(self.stem(x) + torch.tanh(self.merge(self.stem(other))))


class Keywords(Root):
    """Takes inputs by keyword, some of which may be None."""

    def forward(self, x, *, other=None, mask=None, scale=1.0):
        h = self.stem(x) * scale
        if other is not None:
            h = h - self.merge(self.stem(other))
        return self.finish(h if mask is None else h * mask)


class Optional(Root):
    """Takes None where a tensor could stand, followed by a tensor."""

    def forward(self, x, mask=None, other=None, flags=(True, 0.5)):
        h = self.stem(x)
        h = h if mask is None else h * mask
        h = h if other is None else h + self.stem(other)
        return self.finish(h * flags[1] if flags[0] else h)


class Mapping(Root):
    def forward(self, batch):
        return self.finish(self.stem(batch["x"]) + self.merge(self.stem(batch["other"][0])))


class Variadic(Root):
    def forward(self, *xs, **named):
        return self.finish(sum(self.stem(x) for x in xs) + self.stem(named["last"]))


class Writes(Root):
    """Writes to its input, or to its first value."""

    def forward(self, x):
        h = self.stem(x)
        h.mul_(0.5)
        return self.finish(h)
