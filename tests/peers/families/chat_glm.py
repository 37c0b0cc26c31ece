"""ChatGLM as diffusers' pipeline of Kolors has it, small and at the published size."""

import numpy as np
import torch
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

from tests.peers.cases import Case

IDS = (np.arange(2 * 7).reshape(2, 7) * 5 % 37 + 3).astype(np.int32)
MASK = np.arange(7) >= np.array([[0], [3]])  # padding on the left
KINDS = {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "original_rope": True}


def small() -> ChatGLMModel:
    sizes = {"num_layers": 3, "padded_vocab_size": 40, "hidden_size": 24, "ffn_hidden_size": 20, "kv_channels": 8}
    return ChatGLMModel(ChatGLMConfig(num_attention_heads=4, seq_length=32768, **sizes, **KINDS))


def run(model: ChatGLMModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the pipeline reads it; the positions are its tokenizer's."""
    positions = (a["mask"].long().cumsum(1) - 1).clamp(min=0)
    read = lambda **how: model(a["ids"].long(), output_hidden_states=True, **how)
    masked, whole = read(attention_mask=a["mask"].long(), position_ids=positions), read()
    return {
        "before": masked.hidden_states[-2].permute(1, 0, 2),
        "pooled": masked.hidden_states[-1][-1],
        "tokens": whole.last_hidden_state.permute(1, 0, 2),
    }


CASES = {"chat_glm": Case(small, {"ids": IDS, "mask": MASK}, run)}
LISTINGS = {"chat_glm_full_6b": lambda: ChatGLMModel(ChatGLMConfig(seq_length=32768, **KINDS))}
