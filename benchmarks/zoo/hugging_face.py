"""Hugging Face architectures with tiny configurations and random weights.

Everything that a model does not need in order to be tiny keeps its default: the implementation of
attention and experts, dropout, layer drop, and what it returns. Of decoders the cache is off, but
for those whose name ends in "(cache)".
"""

from collections.abc import Callable, Iterator
from functools import partial

from torch import nn

from benchmarks.zoo.decoders import cached, decoders, mixtures, recurrent
from benchmarks.zoo.encoders import encoders, pairs
from benchmarks.zoo.models import Inputs, Specimen, quiet, wake
from benchmarks.zoo.senses import audio, vision
from benchmarks.zoo.tiny import Options, Row

KINDS: dict[str, Callable[[], Iterator[Row]]] = {
    "encoder": encoders,
    "decoder": decoders,
    "encoder-decoder": pairs,
    "vision": vision,
    "audio": audio,
    "state-space": recurrent,
    "mixture-of-experts": mixtures,
}


def hugging_face() -> Iterator[Specimen]:
    """Yield every architecture."""
    for kind, rows in KINDS.items():
        for row in rows():
            yield specimen(kind, *row)
    for row in cached():
        yield specimen("decoder", *row, suffix=" (cache)")


def specimen(kind: str, model: str, options: Options, inputs: Inputs, suffix: str = "") -> Specimen:
    """Return one architecture by the name of its class in transformers."""
    build = partial(built, model, options, inputs)
    return Specimen(model + suffix, "hugging face", kind, build, inputs)


def built(model: str, options: Options, inputs: Inputs) -> nn.Module:
    """Build a model from its configuration."""
    with quiet():
        import transformers

        transformers.utils.logging.set_verbosity_error()
        made = getattr(transformers, model)
        return wake(made(made.config_class(**options)), inputs)
