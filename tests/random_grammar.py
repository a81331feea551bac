"""The grammar of random models: every kind of block, with what each of its options may be."""

from dataclasses import dataclass, field
from typing import Any

from tests import random_blocks as blocks
from tests import random_habits as habits
from tests import random_roots as roots
from tests import random_stages as stages

NORMS = ("batch", "layer", "group", "rms")
WIDTHS = (4, 6, 8)
IMAGES, TOKENS, ROWS = "images", "tokens", "rows"
EVERYWHERE = (IMAGES, TOKENS, ROWS)


@dataclass(frozen=True)
class Kind:
    """One kind of block: its class, where it fits, what each option may be, how many bodies."""

    make: Any
    where: tuple[str, ...] = EVERYWHERE
    options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bodies: tuple[int, int] = (0, 0)  # fewest and most
    nests: bool = True  # whether it may stand in a body
    weight: int = 1  # how often it is drawn
    repeats: bool = True  # whether a second run in train gives the same, as checkpoints need


def forms(*names: str) -> dict[str, tuple[str, ...]]:
    return {"form": names}


KINDS = {
    "conv": Kind(stages.Conv, (IMAGES,), weight=5, options={
        "width": WIDTHS, "kernel": (3, 1, 5, (1, 3)), "stride": (1, 2), "dilation": (1, 2),
        "padding": ("half", 0, "same"), "groups": (1, 2, "depthwise"), "norm_kind": (None, *NORMS),
    }),
    "linear": Kind(stages.Linear, (TOKENS, ROWS), weight=3, options={
        "width": WIDTHS, "norm_kind": (None, *NORMS), "bias": (True, False),
    }),
    "norm": Kind(stages.Norm, options={"norm_kind": NORMS}),
    "activation": Kind(blocks.Activation, options={
        "name": tuple(blocks.MODULES), "form": ("module", "function", "method"),
    }),
    "in place": Kind(blocks.InPlace, options=forms(
        "F.relu_", "module", "inplace=True", "dropout", "+=", "mul_", "add_", "part", "setitem",
        "view",
    )),
    "residual": Kind(blocks.Residual, bodies=(1, 1), options=forms(
        "plain", "pre-norm", "post-norm", "+=", "scaled", "drop path", "checkpoint",
    ) | {"norm_kind": NORMS}),
    "branches": Kind(blocks.Branches, bodies=(2, 3), options=forms("cat", "sum", "stack")),
    "split": Kind(blocks.Split, options=forms(
        "chunk", "split", "unequal", "narrow", "shuffle", "glu",
    )),
    "shared": Kind(blocks.Shared, options=forms("twice", "alias", "loop")),
    "tied": Kind(blocks.Tied, options=forms("weight", "all", "read", "transposed", "parameter")),
    "dropout": Kind(blocks.Dropout, options=forms(
        "module", "function", "keyword", "probability", "alpha",
    ) | {"p": (0.3, 0.0)}),
    "parametrized": Kind(roots.Parametrized, repeats=False, options=forms(
        "weight_norm", "spectral_norm", "own",
    )),
    "hand over": Kind(roots.HandOver, options=forms(
        "tuple", "dict", "nested", "dataclass", "namedtuple",
    )),
    "by mode": Kind(habits.ByMode, options=forms("function", "noise", "layer", "constant", "skip")),
    "loop": Kind(habits.Loop, options=forms(
        "list", "enumerate", "reversed", "dict", "sequential", "parameters", "features",
    )),
    "by shape": Kind(habits.ByShape, options=forms(
        "branch", "rank", "length", "star", "minus one", "sum / batch", "1 / batch",
        "root of batch", "int(batch)", "numel", "shape.numel", "loop",
    )),
    "buffer": Kind(habits.Buffer, options=forms("persistent", "not persistent", "order", "mask")),
    "running": Kind(habits.Running, repeats=False, options=forms(
        "lerp_", "copy_", "rebound", "no_grad", "always",
    )),
    "stopped": Kind(habits.Stopped, options=forms(
        "detach", "no_grad", "decorated", "no autocast", "autocast",
    )),
    "raw": Kind(habits.Raw, options=forms("matmul", "einsum", "linear", "tensordot")),
    "constants": Kind(habits.Constants, options=forms(
        "arange", "zeros", "like", "new", "tensor", "masked", "casts",
    )),
    "pool": Kind(stages.Pool, (IMAGES,), forms(
        "max", "mean", "function", "adaptive", "pad", "resize",
    )),
    "squeeze": Kind(stages.Squeeze, (IMAGES,), forms("view", "none")),
    "torch attention": Kind(stages.TorchAttention, (TOKENS,), forms(
        "plain", "weights", "masked",
    ) | {"batch_first": (True, False)}),
    "own attention": Kind(stages.OwnAttention, (TOKENS,), {
        "heads": ("view", "unflatten", "permute"),
        "scores": ("torch", "causal", "dropout", "softmax", "masked"),
    }),
    "recurrent": Kind(stages.Recurrent, (TOKENS,), {
        "cell": ("gru", "lstm", "rnn"), "layers": (1, 2), "bidirectional": (False, True),
        "batch_first": (True, False),
    }),
    "mixer": Kind(stages.TokenMixer, (TOKENS,), forms("linear", "conv")),
    "position": Kind(stages.Position, (TOKENS,), nests=False, options=forms(
        "table", "embedding", "class token", "repeated",
    )),
    "encoder": Kind(stages.Encoder, (TOKENS,), {"norm_first": (False, True)}),
}  # fmt: skip
PASSAGES = {
    "patchify": Kind(stages.Patchify, (IMAGES,), {
        "form": ("conv", "unfold", "pool"), "width": WIDTHS,
    }),
    "to row": Kind(stages.ToRow, (IMAGES, TOKENS), {
        "form": ("mean", "flatten", "flat module", "max", "pool"), "width": WIDTHS,
    }),
}  # fmt: skip
WORDS = "words"
SIZES = {
    IMAGES: ((4, 4, 4), (3, 5, 6), (2, 8, 8)),
    TOKENS: ((4, 6), (5, 4), (1, 8)),
    ROWS: ((6,), (5,)),
    WORDS: ((5, 6), (3, 4)),
}
ROUTES = {
    IMAGES: ((IMAGES,), (IMAGES, ROWS), (IMAGES, TOKENS), (IMAGES, TOKENS, ROWS)),
    TOKENS: ((TOKENS,), (TOKENS, ROWS)),
    ROWS: ((ROWS,),),
    WORDS: ((TOKENS,), (TOKENS, ROWS)),
}
CALLS = {
    "one": roots.Root, "two": roots.Two, "keyword": roots.Keywords, "None": roots.Keywords,
    "None first": roots.Optional, "mapping": roots.Mapping, "variadic": roots.Variadic,
    "writes": roots.Writes,
}  # fmt: skip
OUTPUTS = (
    "tensor", "tuple", "dict", "nested", "dataclass", "namedtuple", "same twice", "input",
    "by mode",
)  # fmt: skip
