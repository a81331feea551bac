"""Random models: descriptions drawn from a grammar of blocks, and the models they describe.

A description is plain data: it prints as the call that makes it again, and it shrinks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import hypothesis.strategies as st
import torch
from torch import Tensor, nn

from tests.random_grammar import (
    CALLS,
    IMAGES,
    KINDS,
    OUTPUTS,
    PASSAGES,
    ROUTES,
    ROWS,
    SIZES,
    WORDS,
)
from tests.random_roots import VOCABULARY

WAITING: list[str] = [
    "output=by mode",
    "stopped: form=autocast",
]
"""Features that `trace` or `verify` cannot do today; nothing with them is drawn."""

DEEPEST = 2
BUILDERS = KINDS | PASSAGES


class Block(NamedTuple):
    """One block of a description; the bodies are sequences of blocks."""

    kind: str
    options: dict[str, Any]
    bodies: tuple[tuple["Block", ...], ...] = ()


@dataclass(frozen=True)
class Description:
    """All that `build` needs to make a model and its inputs."""

    source: str
    size: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    call: str = "one"
    output: str = "tensor"
    tied: bool = False
    batch: int = 2
    seed: int = 0


class Inputs(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def every_feature() -> list[str]:
    """Return the names of all that a description can have, as they stand in `WAITING`."""
    tables = (("source", SIZES), ("call", CALLS), ("output", OUTPUTS))
    found = [f"{what}={name}" for what, names in tables for name in names] + ["tied head"]
    for kind, entry in BUILDERS.items():
        found.append(kind)
        found += [f"{kind}: {n}={value}" for n, values in entry.options.items() for value in values]
    return found


def features(description: Description) -> set[str]:
    """Return the names of all that a description has."""
    found = {f"call={description.call}", f"output={description.output}"}
    found |= {f"source={description.source}"} | ({"tied head"} if description.tied else set())
    blocks = list(description.blocks)
    for block in blocks:
        found |= {block.kind, *(f"{block.kind}: {name}={v}" for name, v in block.options.items())}
        blocks += [inner for body in block.bodies for inner in body]
    return found


def choices(values: Any, prefix: str = "") -> st.SearchStrategy:
    return st.sampled_from([value for value in values if f"{prefix}{value}" not in WAITING])


@st.composite
def blocks(
    draw: st.DrawFn, stage: str, depth: int = 0, kinds: Any = KINDS, repeats: bool = False
) -> Block:
    """Draw one block for a stage; its bodies nest. With `repeats`, it can be run again."""
    names = [
        name
        for name, entry in kinds.items()
        for _ in range(entry.weight)
        if stage in entry.where
        and (depth == 0 or entry.nests)
        and (depth < DEEPEST or not entry.bodies[1])
        and (entry.repeats or not repeats)
    ]
    kind = draw(choices(names))
    options = {
        name: draw(choices(values, f"{kind}: {name}="))
        for name, values in kinds[kind].options.items()
    }
    again = repeats or options.get("form") == "checkpoint"
    body = st.lists(blocks(stage, depth + 1, repeats=again), min_size=1, max_size=2).map(tuple)
    fewest, most = kinds[kind].bodies
    return Block(kind, options, tuple(draw(st.lists(body, min_size=fewest, max_size=most))))


@st.composite
def random_models(draw: st.DrawFn) -> Description:
    """Draw the description of a model that runs, for `build`."""
    source = draw(choices((IMAGES, *SIZES), "source="))  # images have the most kinds
    found: list[Block] = []
    route = draw(st.sampled_from(ROUTES[source]))
    for index, stage in enumerate(route):
        if index:
            passage = "to row" if stage == ROWS else "patchify"
            found.append(draw(blocks(route[index - 1], kinds={passage: PASSAGES[passage]})))
        found += draw(st.lists(blocks(stage), min_size=1, max_size=5 - len(route)))
    return Description(
        source,
        draw(st.sampled_from(SIZES[source])),
        tuple(found),
        call=draw(choices(CALLS, "call=")),
        output=draw(choices(OUTPUTS, "output=")),
        tied=source == WORDS and "tied head" not in WAITING and draw(st.booleans()),
        batch=draw(st.sampled_from((2, 3))),
        seed=draw(st.integers(0, 99)),
    )


def simplest(feature: str) -> Description:
    """Return a small description that has one feature."""
    name, _, value = feature.partition("=")
    plain = Block("norm", {"norm_kind": "layer"})
    if feature == "tied head":
        return Description(WORDS, SIZES[WORDS][0], (plain,), tied=True)
    if name == "source":
        return Description(value, SIZES[value][0], (plain,))
    if name in ("call", "output"):
        return Description(ROWS, SIZES[ROWS][0], (plain,), **{name: value})
    kind, _, option = name.partition(": ")
    entry = BUILDERS[kind]
    options = {key: values[0] for key, values in entry.options.items()}
    if option:
        options[option] = next(v for v in entry.options[option] if str(v) == value)
    block = Block(kind, options, ((plain,),) * entry.bodies[0])
    return Description(entry.where[0], SIZES[entry.where[0]][0], (block,))


def build(description: Description) -> tuple[nn.Module, Inputs]:
    """Return the model of a description and inputs for it: the same ones on every call."""
    generator = torch.Generator().manual_seed(description.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(description.seed)
        words = description.source == WORDS
        stem = nn.Embedding(VOCABULARY, description.size[-1]) if words else nn.Identity()
        body, after = _sequence(description.blocks, description.size)
        shapes = (description.size, after)
        model = CALLS[description.call](stem, body, shapes, description.output, description.tied)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model, _inputs(description, generator)


def _sequence(
    described: tuple[Block, ...], shape: tuple[int, ...]
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the modules of some blocks, and the sizes of one sample after them."""
    made = []
    for block in described:
        bodies = [_sequence(body, shape) for body in block.bodies]
        entry = BUILDERS[block.kind]
        nested = {"bodies": [b for b, _ in bodies], "shapes": [s for _, s in bodies]}
        module = entry.make(shape, **(nested if bodies else {}), **block.options)
        with torch.no_grad():
            shape = tuple(module.eval()(torch.zeros(2, *shape)).shape[1:])
        made.append(module.train())
    return nn.Sequential(*made), shape


def _inputs(description: Description, generator: torch.Generator) -> Inputs:
    def one() -> Tensor:
        shape = (description.batch, *description.size)
        if description.source == WORDS:
            return torch.randint(0, VOCABULARY, shape[:2], generator=generator)
        return torch.randn(shape, generator=generator)

    match description.call:
        case "two":
            return Inputs((one(), one()), {})
        case "keyword":
            return Inputs((one(),), {"other": one(), "scale": 2.0})
        case "None":
            return Inputs((), {"x": one(), "mask": None})
        case "None first":
            return Inputs((one(), None, one()), {"flags": (True, 0.5)})
        case "mapping":
            return Inputs(({"x": one(), "other": [one()]},), {})
        case "variadic":
            return Inputs((one(), one()), {"last": one()})
    return Inputs((one(),), {})
