"""Decoders of language models, small, by transformers: their states after every layer."""

import numpy as np
import transformers

from tests.peers.cases import Case

SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "eager",  # the one that caps scores
    "pad_token_id": 0,
}
IDS = (np.arange(2 * 20).reshape(2, 20) * 7 % 37 + 3).astype(np.int32)
RIGHT = np.arange(20)[None] < np.array([[20], [16]])  # the padding still sees text within the windows
LEFT = np.arange(20)[None] >= np.array([[0], [8]])  # True where there is text


def run(model, inputs):
    """The states of all layers; those of padding on the left mean nothing, and are zeros."""
    every = model(input_ids=inputs["ids"], output_hidden_states=True).hidden_states
    found = {f"state_{i}": state for i, state in enumerate(every)}
    for side in ("right", "left"):
        states = model(input_ids=inputs["ids"], attention_mask=inputs[side].long()).last_hidden_state
        found[side] = states * inputs[side][..., None] if side == "left" else states
    return found


def case(name, **fields):
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
    return Case(lambda: model(config(**{**SMALL, **fields})), {"ids": IDS, "right": RIGHT, "left": LEFT}, run)


LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "decoder_llama": case("Llama", rms_norm_eps=1e-5, rope_parameters=LLAMA_3),
    "decoder_mistral": case("Mistral", rms_norm_eps=1e-5, sliding_window=6, rope_theta=1e6),
    "decoder_qwen2": case("Qwen2", rope_theta=1e6, sliding_window=None),
    "decoder_qwen3": case("Qwen3", rope_theta=1e6, use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "decoder_qwen3_vl": case(
        "Qwen3VLText",
        rope_parameters={
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
            "rope_theta": 5e6,
        },
    ),
    "decoder_gemma2": case("Gemma2", sliding_window=6, query_pre_attn_scalar=14, attn_logit_softcapping=0.5),
    "decoder_gemma3": case(
        "Gemma3Text",
        sliding_window=6,
        query_pre_attn_scalar=14,
        sliding_window_pattern=2,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    ),
}


def listing(name, **fields):
    """A whole model, as it is published."""
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
    return lambda: model(config(**fields))


LISTINGS = {
    # Of Z-Image, and of FLUX.2 klein 4B.
    "decoder_full_qwen3_4b": listing(
        "Qwen3",
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_key_value_heads=8,
        rope_theta=1e6,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    ),
    # Of Krea 2, with its image tower.
    "decoder_full_qwen3_vl_4b": listing(
        "Qwen3VL",
        text_config={
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    ),
    # Of SANA and Lumina-Image 2.
    "decoder_full_gemma2_2b": listing("Gemma2"),
}
