"""LLaDA and Dream: the decoders of transformers that they are made of, with a mask that shows every token to every one.

LLaDA is Llama without a causal mask, under names of its own. Dream is Qwen 2.5 without one, where the state of a token
says what the next one is. No package has the two themselves.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from tests.peers.cases import Case

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
IDS = (np.arange(2 * 9).reshape(2, 9) * 7 % 37).astype(np.int32)
PARTS = {  # of a layer, LLaDA's names by Llama's
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
REST = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}


def run(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The logits where no score is masked."""
    ids = inputs["ids"]
    seen = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1])
    return {"logits": model(input_ids=ids, attention_mask=seen, use_cache=False).logits}


def llada_names() -> dict[str, str]:
    """LLaDA's name of each tensor, by Llama's."""
    ours = {
        f"model.layers.{i}.{theirs}": f"blocks.{i}.{name}"
        for i in range(SMALL["num_hidden_layers"])
        for theirs, name in PARTS.items()
    }
    return {f"{theirs}.weight": f"model.transformer.{name}.weight" for theirs, name in (REST | ours).items()}


CASES = {
    "llada": Case(
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**SMALL, rms_norm_eps=1e-5, rope_theta=500_000.0)
        ),
        {"ids": IDS},
        run,
        same=llada_names(),
    ),
    "dream": Case(
        lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, rms_norm_eps=1e-6, rope_theta=1e6)),
        {"ids": IDS},
        run,
    ),
}
