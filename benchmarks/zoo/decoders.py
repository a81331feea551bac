"""Tiny Hugging Face decoders of text: with attention, recurrent, and mixtures of experts."""

from collections.abc import Iterator

from benchmarks.zoo.tiny import (
    CAUSAL,
    CAUSAL_MASKED,
    EXPERTS,
    GROUPED,
    MASKED,
    PAIR,
    T5,
    TEXT,
    TOKENS,
    Row,
    text,
    translation,
)


def decoders() -> Iterator[Row]:
    """Yield decoders of text, without a cache."""
    yield "GPT2LMHeadModel", TEXT, CAUSAL
    yield "GPT2ForSequenceClassification", TEXT, CAUSAL_MASKED
    yield (
        "GPTNeoForCausalLM",
        TEXT | {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
        CAUSAL_MASKED,
    )
    yield "GPTNeoXForCausalLM", TEXT, CAUSAL
    yield "GPTJForCausalLM", TEXT | {"rotary_dim": 4}, CAUSAL
    yield "CodeGenForCausalLM", TEXT | {"rotary_dim": 4}, CAUSAL
    yield "GPTBigCodeForCausalLM", TEXT, CAUSAL_MASKED
    yield "LlamaForCausalLM", GROUPED, CAUSAL_MASKED
    yield "LlamaForSequenceClassification", GROUPED, CAUSAL_MASKED
    yield "MistralForCausalLM", GROUPED | {"sliding_window": 8}, CAUSAL
    yield "Qwen2ForCausalLM", GROUPED, CAUSAL_MASKED
    yield "Qwen3ForCausalLM", GROUPED, CAUSAL
    yield "GemmaForCausalLM", GROUPED, CAUSAL
    yield "Gemma2ForCausalLM", GROUPED | {"sliding_window": 8}, CAUSAL_MASKED
    yield "Gemma3ForCausalLM", GROUPED | {"sliding_window": 8}, CAUSAL_MASKED
    yield "PhiForCausalLM", TEXT, CAUSAL
    yield "Phi3ForCausalLM", GROUPED, CAUSAL_MASKED
    yield "OPTForCausalLM", TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32}, CAUSAL_MASKED
    yield "BloomForCausalLM", TEXT | {"n_layer": 2, "n_head": 4}, CAUSAL_MASKED
    yield "FalconForCausalLM", TEXT, CAUSAL
    yield "StableLmForCausalLM", GROUPED, CAUSAL_MASKED
    yield "OlmoForCausalLM", GROUPED, CAUSAL
    yield "Olmo2ForCausalLM", GROUPED, CAUSAL_MASKED
    yield "Olmo3ForCausalLM", GROUPED | {"sliding_window": 8}, CAUSAL
    yield "Starcoder2ForCausalLM", GROUPED, CAUSAL_MASKED
    yield "CohereForCausalLM", GROUPED, CAUSAL
    yield "GraniteForCausalLM", GROUPED, CAUSAL
    yield "SmolLM3ForCausalLM", GROUPED, CAUSAL_MASKED
    yield "PersimmonForCausalLM", TEXT, CAUSAL
    yield "BioGptForCausalLM", TEXT, CAUSAL_MASKED
    yield "NemotronForCausalLM", GROUPED, CAUSAL
    yield "GlmForCausalLM", GROUPED, CAUSAL_MASKED
    yield "HeliumForCausalLM", GROUPED, CAUSAL
    yield (
        "XGLMForCausalLM",
        TEXT | {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
        CAUSAL_MASKED,
    )
    yield "CTRLLMHeadModel", TEXT | {"dff": 64}, CAUSAL
    yield "OpenAIGPTLMHeadModel", TEXT, text
    yield "MptForCausalLM", TEXT | {"max_seq_len": 64}, CAUSAL
    yield "DiffLlamaForCausalLM", GROUPED, CAUSAL
    yield "ModernBertDecoderForCausalLM", TEXT, CAUSAL_MASKED
    yield "NanoChatForCausalLM", GROUPED, CAUSAL


def cached() -> Iterator[Row]:
    """Yield decoders as they are by default, which return the keys and values of the past."""
    yield "GPT2LMHeadModel", TEXT, text
    yield "LlamaForCausalLM", GROUPED, MASKED
    yield "Gemma2ForCausalLM", GROUPED | {"sliding_window": 8}, text
    yield "Qwen3ForCausalLM", GROUPED, MASKED
    yield "BloomForCausalLM", TEXT | {"n_layer": 2, "n_head": 4}, text


def recurrent() -> Iterator[Row]:
    """Yield state-space models, linear attention, and their hybrids with attention."""
    mamba = TOKENS | {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    yield "MambaForCausalLM", mamba, CAUSAL
    yield "MambaModel", mamba, CAUSAL_MASKED
    yield (
        "Mamba2ForCausalLM",
        mamba | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
        CAUSAL_MASKED,
    )
    yield "FalconMambaForCausalLM", mamba, CAUSAL
    yield (
        "RecurrentGemmaForCausalLM",
        GROUPED | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
        CAUSAL_MASKED,
    )
    yield "RwkvForCausalLM", TEXT | {"attention_hidden_size": 32, "context_length": 32}, CAUSAL
    yield (
        "BambaForCausalLM",
        GROUPED
        | {
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
        CAUSAL_MASKED,
    )
    yield (
        "FalconH1ForCausalLM",
        GROUPED
        | {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
        CAUSAL_MASKED,
    )
    yield "Lfm2ForCausalLM", GROUPED | {"layer_types": ["conv", "full_attention"]}, CAUSAL
    yield (
        "ZambaForCausalLM",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "n_mamba_heads": 2,
            "mamba_d_state": 8,
        },
        CAUSAL,
    )
    yield (
        "JambaForCausalLM",
        GROUPED
        | {
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
        CAUSAL,
    )
    yield (
        "xLSTMForCausalLM",
        TEXT | {"embedding_dim": 32, "num_heads": 4, "num_blocks": 2, "chunk_size": 8},
        CAUSAL,
    )


def mixtures() -> Iterator[Row]:
    """Yield mixtures of experts."""
    local = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
    latent = TEXT | {
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
    }
    yield "MixtralForCausalLM", local, CAUSAL_MASKED
    yield "Qwen2MoeForCausalLM", EXPERTS | {"shared_expert_intermediate_size": 32}, CAUSAL_MASKED
    yield "Qwen3MoeForCausalLM", EXPERTS, CAUSAL
    yield "OlmoeForCausalLM", EXPERTS, CAUSAL_MASKED
    yield "DeepseekV2ForCausalLM", latent, CAUSAL
    yield "DeepseekV3ForCausalLM", latent, CAUSAL_MASKED
    yield (
        "SwitchTransformersForConditionalGeneration",
        T5 | {"num_experts": 4, "expert_capacity": 8},
        translation,
    )
    yield (
        "NllbMoeForConditionalGeneration",
        PAIR
        | {
            "num_experts": 4,
            "expert_capacity": 8,
            "encoder_sparse_step": 2,
            "decoder_sparse_step": 2,
        },
        translation,
    )
    yield "GptOssForCausalLM", local | {"sliding_window": 8}, CAUSAL
    yield "GraniteMoeForCausalLM", local, CAUSAL
    yield "PhimoeForCausalLM", local, CAUSAL
    yield (
        "Qwen3NextForCausalLM",
        EXPERTS
        | {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
        CAUSAL,
    )
    yield "Ernie4_5_MoeForCausalLM", EXPERTS, CAUSAL
    yield "Glm4MoeForCausalLM", EXPERTS | {"n_routed_experts": 4}, CAUSAL_MASKED
