"""Kolors of diffusers: ChatGLM, small and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tests.peers.cases import Case
from tests.peers.pipeline_parts import UNET, VAE, Pipeline
from tests.text.vocabularies import folder_of

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


KOLORS = {  # as it is published
    "beta_start": 0.00085,
    "beta_end": 0.014,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1100,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """SDXL's U-Net with a layer on the text, which ChatGLM reads."""
    vocabulary = folder_of(folder / "t5", "t5") / "spiece.model"
    vocabulary = vocabulary.rename(vocabulary.with_name("tokenizer.model"))
    config = {"num_layers": 3, "padded_vocab_size": 128, "hidden_size": 24, "ffn_hidden_size": 20, "kv_channels": 8,
              "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": 32768}  # fmt: skip
    flags = dict.fromkeys(("multi_query_attention", "add_qkv_bias", "original_rope"), True)
    return diffusers.KolorsPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=ChatGLMTokenizer(str(vocabulary)),
        text_encoder=ChatGLMModel(ChatGLMConfig(**config, **flags)),
        unet=diffusers.UNet2DConditionModel(
            cross_attention_dim=20,
            encoder_hid_dim=24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            **UNET,
        ),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(KOLORS),
    )


PIPELINES = {"kolors": Pipeline(pipeline, KOLORS, {"euler": ("EulerDiscreteScheduler", {})})}
