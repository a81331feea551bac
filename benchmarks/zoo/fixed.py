"""The fixed part of the zoo: small and quick enough for the ordinary test suite."""

from collections.abc import Iterator

from benchmarks.zoo.hugging_face import hugging_face
from benchmarks.zoo.models import Specimen
from benchmarks.zoo.timm_families import specimen

# timm's own models for tests, and the size of their images.
TIMM = {
    "test_byobnet": 64,
    "test_coatnet": 64,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_efficientnet_evos": 64,
    "test_mambaout": 64,
    "test_maxvit": 64,
    "test_nfnet": 64,
    "test_resnet": 64,
    "test_vit": 64,
    "test_vit_relpos": 64,
}
HUGGING_FACE = (
    "BertForSequenceClassification",
    "DebertaV2ForSequenceClassification",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "Gemma2ForCausalLM (cache)",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "SwinForImageClassification",
    "ResNetForImageClassification",
    "CLIPModel",
    "WhisperForConditionalGeneration",
    "Wav2Vec2ForCTC",
    "MambaForCausalLM",
    "MixtralForCausalLM",
)


def fixed() -> Iterator[Specimen]:
    """Yield models of both families; each is built and runs in a fraction of a second."""
    for name, size in TIMM.items():
        yield specimen(name, size)
    every = {one.name: one for one in hugging_face()}
    for name in HUGGING_FACE:
        yield every[name]
