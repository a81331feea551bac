"""Options that make Hugging Face models tiny, and inputs that fit them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.models import Arguments, Inputs

Options = dict[str, Any]
Row = tuple[str, Options, Inputs]  # class of the model, its configuration, its inputs

WORDS = 99
TOKENS: Options = {
    "vocab_size": WORDS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEXT: Options = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED: Options = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS: Options = GROUPED | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
PAIR: Options = TOKENS | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
}
T5: Options = TOKENS | {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
VISION: Options = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
STAGES: Options = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]}
SPEECH: Options = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def drawn(shape: tuple[int, ...], words: int | None = None) -> Tensor:
    """Return Gaussian values or token ids, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    if words is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(3, words, shape, generator=generator)


def text(batch: int = 2, *, length: int = 12, mask: bool = False, **options: Any) -> Arguments:
    """Return token ids; with `mask`, the second sequence ends in padding."""
    tokens, kwargs = drawn((batch, length), WORDS), dict(options)
    if mask:
        kwargs["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
        kwargs["attention_mask"][1, -3:] = 0
    return (tokens,), kwargs


def translation(batch: int = 2, *, mask: bool = False) -> Arguments:
    """Return source tokens and the start of the target."""
    args, kwargs = text(batch, mask=mask, use_cache=False)
    return args, kwargs | {"decoder_input_ids": drawn((batch, 7), WORDS)}


def images(batch: int = 2, *, size: int = 32) -> Arguments:
    """Return a batch of colour images."""
    return (drawn((batch, 3, size, size)),), {}


def captions(batch: int = 2) -> Arguments:
    """Return captions, images and the mask of the captions."""
    (tokens,), kwargs = text(batch, mask=True)
    return (), kwargs | {"input_ids": tokens, "pixel_values": drawn((batch, 3, 32, 32))}


def signal(batch: int = 2, *, shape: tuple[int, ...] = (800,)) -> Arguments:
    """Return waveforms, or spectrograms when `shape` is that of one."""
    return (drawn((batch, *shape)),), {}


def speech(batch: int = 2, *, shape: tuple[int, ...] = (16, 60)) -> Arguments:
    """Return spectrograms, or waveforms, and the start of their transcription."""
    kwargs = {"decoder_input_ids": drawn((batch, 7), WORDS), "use_cache": False}
    return (drawn((batch, *shape)),), kwargs


MASKED = partial(text, mask=True)
CAUSAL = partial(text, use_cache=False)
CAUSAL_MASKED = partial(text, mask=True, use_cache=False)
