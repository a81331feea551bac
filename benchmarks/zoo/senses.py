"""Tiny Hugging Face models of images and of sound."""

from collections.abc import Iterator
from functools import partial

from benchmarks.zoo.tiny import (
    PAIR,
    SPEECH,
    STAGES,
    TEXT,
    TOKENS,
    VISION,
    Row,
    captions,
    images,
    signal,
    speech,
)


def vision() -> Iterator[Row]:
    """Yield models of images, and of images with text."""
    swin = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }
    words = TEXT | {"projection_dim": 16}
    loud = {"initializer_range": 0.2}  # with 0.02 these forget their images on the way
    yield "ViTForImageClassification", VISION, images
    yield "DeiTForImageClassification", VISION, images
    yield "DeiTForImageClassificationWithTeacher", VISION, images
    yield "BeitForImageClassification", VISION, images
    yield "Data2VecVisionModel", VISION, images
    yield "Dinov2ForImageClassification", VISION, images
    yield "DINOv3ViTModel", VISION, images
    yield "IJepaModel", VISION, images
    yield "ViTMAEModel", VISION, images
    yield "ViTMSNForImageClassification", VISION, images
    yield "SwinForImageClassification", swin, images
    yield "Swinv2ForImageClassification", swin, images
    yield "ConvNextForImageClassification", STAGES, images
    yield "ConvNextV2ForImageClassification", STAGES, images
    yield "ResNetForImageClassification", STAGES | {"embedding_size": 16}, images
    yield "RegNetForImageClassification", STAGES | {"embedding_size": 16, "groups_width": 8}, images
    yield "BitForImageClassification", STAGES | {"embedding_size": 16, "num_groups": 4}, images
    yield (
        "MobileViTForImageClassification",
        loud
        | {
            "image_size": 32,
            "hidden_sizes": [16, 16, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 32, 32, 32],
        },
        images,
    )
    yield "MobileNetV2ForImageClassification", {"image_size": 32, "depth_multiplier": 0.25}, images
    yield (
        "SegformerForSemanticSegmentation",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        partial(images, size=64),
    )
    yield (
        "PvtV2ForImageClassification",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
        },
        partial(images, size=64),
    )
    yield (
        "PoolFormerForImageClassification",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]},
        partial(images, size=64),
    )
    yield (
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        partial(images, size=64),
    )
    yield (
        "CvtForImageClassification",
        {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
        partial(images, size=64),
    )
    yield (
        "FocalNetForImageClassification",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        images,
    )
    yield (
        "HieraForImageClassification",
        {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
        images,
    )
    yield "YolosForObjectDetection", VISION | loud | {"image_size": [32, 32]}, images
    yield (
        "CLIPModel",
        {
            "text_config": words,
            "vision_config": VISION | {"projection_dim": 16},
            "projection_dim": 16,
        },
        captions,
    )
    yield "CLIPForImageClassification", {"vision_config": VISION, "text_config": words}, images
    yield "SiglipModel", {"text_config": TEXT, "vision_config": VISION}, captions
    yield "ViltModel", TEXT | VISION, captions


def audio() -> Iterator[Row]:
    """Yield models of sound. In training, some mask random spans, drawn by NumPy."""
    yield "Wav2Vec2ForCTC", SPEECH, signal
    yield "Wav2Vec2ForSequenceClassification", SPEECH, signal
    yield "HubertForSequenceClassification", SPEECH, signal
    yield "WavLMForCTC", SPEECH, signal
    yield "UniSpeechForCTC", SPEECH, signal
    yield "SEWForCTC", SPEECH | {"squeeze_factor": 2}, signal
    yield "Data2VecAudioForCTC", SPEECH | {"conv_pos_kernel_size": 3}, signal
    yield (
        "WhisperForAudioClassification",
        PAIR | {"num_mel_bins": 16, "max_source_positions": 30},
        partial(signal, shape=(16, 60)),
    )
    yield (
        "ASTForAudioClassification",
        VISION
        | {
            "patch_size": 4,
            "max_length": 24,
            "num_mel_bins": 16,
            "frequency_stride": 4,
            "time_stride": 4,
        },
        partial(signal, shape=(24, 16)),
    )
    yield (
        "MoonshineForConditionalGeneration",
        TOKENS
        | {
            "hidden_size": 32,
            "intermediate_size": 64,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
        },
        partial(speech, shape=(2000,)),
    )
