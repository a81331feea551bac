"""Tiny Hugging Face encoders of text, alone and with decoders."""

from collections.abc import Iterator
from functools import partial

from benchmarks.zoo.tiny import (
    GROUPED,
    MASKED,
    PAIR,
    T5,
    TEXT,
    TOKENS,
    WORDS,
    Row,
    speech,
    text,
    translation,
)


def encoders() -> Iterator[Row]:
    """Yield encoders of text."""
    wide = TEXT | {"max_position_embeddings": 80}  # positions start behind the padding id
    yield "BertForSequenceClassification", TEXT, MASKED
    yield "BertModel", TEXT, text
    yield "RobertaForMaskedLM", wide, MASKED
    yield "XLMRobertaForTokenClassification", wide, text
    yield "CamembertForQuestionAnswering", wide, MASKED
    yield (
        "DistilBertForSequenceClassification",
        TOKENS | {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
        MASKED,
    )
    yield "AlbertForMaskedLM", TEXT | {"embedding_size": 16}, MASKED
    yield "ElectraForTokenClassification", TEXT | {"embedding_size": 16}, MASKED
    yield "DebertaModel", TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text
    yield (
        "DebertaV2ForSequenceClassification",
        TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        MASKED,
    )
    yield "MPNetForMaskedLM", wide, MASKED
    yield (
        "XLNetForSequenceClassification",
        TOKENS | {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
        MASKED,
    )
    yield "ModernBertForMaskedLM", TEXT, MASKED
    yield (
        "FunnelForSequenceClassification",
        TOKENS | {"d_model": 32, "d_inner": 64, "n_head": 4, "d_head": 8, "block_sizes": [1, 1]},
        MASKED,
    )
    yield "ConvBertModel", TEXT | {"embedding_size": 32}, MASKED
    yield "FNetForMaskedLM", TEXT, text
    yield "NystromformerModel", TEXT | {"num_landmarks": 4, "segment_means_seq_len": 12}, text
    yield "SqueezeBertForSequenceClassification", TEXT | {"embedding_size": 32}, MASKED
    yield (
        "MobileBertForSequenceClassification",
        TEXT | {"embedding_size": 16, "intra_bottleneck_size": 16},
        MASKED,
    )
    yield "RoFormerForMaskedLM", TEXT | {"embedding_size": 32}, MASKED
    yield "BigBirdModel", TEXT, text
    yield "LongformerForSequenceClassification", wide | {"attention_window": 4}, MASKED
    yield "EsmForMaskedLM", wide | {"mask_token_id": 3}, MASKED
    yield (
        "CanineModel",
        TEXT | {"num_hash_buckets": 64, "local_transformer_stride": 4, "downsampling_rate": 4},
        text,
    )
    yield "RemBertModel", TEXT | {"input_embedding_size": 16, "output_embedding_size": 16}, text
    yield "IBertModel", wide, MASKED
    yield "LukeModel", wide | {"entity_vocab_size": 20, "entity_emb_size": 16}, MASKED
    yield "YosoModel", TEXT, text
    yield "NomicBertModel", TEXT, MASKED
    yield "EuroBertModel", GROUPED, MASKED
    yield (
        "XLMModel",
        TOKENS | {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": WORDS},
        MASKED,
    )
    yield (
        "ReformerModel",
        TOKENS
        | {
            "attention_head_size": 8,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "feed_forward_size": 64,
            "attn_layers": ["local", "lsh"],
            "axial_pos_shape": [4, 4],
            "axial_pos_embds_dim": [16, 16],
            "local_attn_chunk_length": 4,
            "lsh_attn_chunk_length": 4,
            "num_buckets": 2,
            "is_decoder": False,
        },
        partial(text, length=16),
    )


def pairs() -> Iterator[Row]:
    """Yield encoders with decoders."""
    yield "T5ForConditionalGeneration", T5, partial(translation, mask=True)
    yield "MT5ForConditionalGeneration", T5, translation
    yield "LongT5ForConditionalGeneration", T5 | {"local_radius": 3}, translation
    yield "UMT5ForConditionalGeneration", T5, translation
    yield "BartForConditionalGeneration", PAIR, partial(translation, mask=True)
    yield "MBartForConditionalGeneration", PAIR, translation
    yield "M2M100ForConditionalGeneration", PAIR, partial(translation, mask=True)
    yield "PegasusForConditionalGeneration", PAIR, partial(translation, mask=True)
    yield (
        "PegasusXForConditionalGeneration",
        PAIR | {"block_size": 4, "num_global_tokens": 2},
        translation,
    )
    yield "MarianMTModel", PAIR, translation
    yield "BlenderbotForConditionalGeneration", PAIR, translation
    yield (
        "ProphetNetForConditionalGeneration",
        TOKENS
        | {
            "hidden_size": 32,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
        },
        partial(translation, mask=True),
    )
    yield (
        "LEDForConditionalGeneration",
        PAIR
        | {
            "attention_window": 4,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
        },
        partial(translation, mask=True),
    )
    yield (
        "WhisperForConditionalGeneration",
        PAIR | {"num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 20},
        speech,
    )
    yield (
        "T5GemmaForConditionalGeneration",
        {"encoder": GROUPED, "decoder": GROUPED | {"cross_attention_hidden_size": 32}},
        translation,
    )
