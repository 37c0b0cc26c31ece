"""HiDream-I1 of diffusers: its transformer, small and at the published size; its pipeline."""

import functools
import pathlib

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from diffusers import HiDreamImageTransformer2DModel

from tests.peers.cases import Case, first, last
from tests.peers.families.hunyuan_video import LLAMA, llama_tokenizer
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import CLIP, VAE, Pipeline, clip_tokenizer, t5, t5_tokenizer

T5, STATES, OF_STATE = 24, 3, 20
INPUTS = {
    "x": drawn("hidream x", 2, 8, 8, 4),
    "t": np.array([3.0, 731.5], np.float32),
    "text": drawn("hidream text", 2, 5, T5 + STATES * OF_STATE),
    "pooled": drawn("hidream pooled", 2, 20),
}


def small(**options) -> HiDreamImageTransformer2DModel:
    """Its layers read Llama's layers 0, 3 and 1."""
    fields = {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_channels": [T5, OF_STATE],
        "text_emb_dim": 20,
        "num_routed_experts": 3,
        "axes_dims_rope": (4, 2, 2),
        "max_resolution": (12, 8),
        "llama_layers": [0, 3, 1, 3],
    }
    return HiDreamImageTransformer2DModel(**fields | options)


def run(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipeline calls it, with the output's sign turned; Llama's layer 2 is read by none."""
    states = torch.zeros(4, *a["text"].shape[:2], OF_STATE)
    states[[0, 1, 3]] = a["text"][..., T5:].unflatten(-1, (STATES, OF_STATE)).permute(2, 0, 1, 3)
    texts = {"encoder_hidden_states_t5": a["text"][..., :T5], "encoder_hidden_states_llama3": states}
    out = module(first(a["x"]), timesteps=a["t"], pooled_embeds=a["pooled"], **texts)
    return {"output": -last(out.sample)}


CASES = {
    "hidream": Case(small, INPUTS, run),
    # 15 patches, and 9 tokens of padding.
    "hidream_no_square": Case(small, INPUTS | {"x": drawn("hidream wide", 2, 6, 10, 4)}, run),
}
PUBLISHED = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "caption_channels": [4096, 4096],
    "axes_dims_rope": (64, 32, 32),
    "llama_layers": [*range(32), *[31] * 16],
}
LISTINGS = {"hidream_full": functools.partial(HiDreamImageTransformer2DModel, **PUBLISHED)}


def of_llama():
    """Bytes behind a start, as Llama 3.1's, which names no padding."""
    start = "<|begin_of_text|>"
    tokenizer = llama_tokenizer("", special=(start,))
    library = tokenizer.backend_tokenizer
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.convert_tokens_to_ids(start))]
    )
    tokenizer.eos_token = "<|eot_id|>"
    return tokenizer


def clip():
    config = CLIP | {"max_position_embeddings": 248}
    return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config))


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Its layers read Llama's layers 0, 3 and 1; the state after the last is behind the norm."""
    tokenizer, of_t5 = of_llama(), t5_tokenizer(folder / "t5")
    of_t5.model_max_length = 512
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder_2=clip(),
        tokenizer_2=clip_tokenizer(folder / "clip_2"),
        text_encoder_3=t5(),
        tokenizer_3=of_t5,
        text_encoder_4=transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**LLAMA | {"vocab_size": len(tokenizer)})
        ),
        tokenizer_4=tokenizer,
        transformer=small(caption_channels=[32, 32], text_emb_dim=48),
    )
    pipe.default_sample_size = 8  # it would make pictures of a million pixels
    return pipe


SHIFT = {"shift": 3.0}
UNIPC = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}  # of HiDream-I1-Full
TRAJECTORIES = {
    "euler": ("FlowMatchEulerDiscreteScheduler", SHIFT),
    "unipc": ("UniPCMultistepScheduler", UNIPC),
    "lcm": ("FlowMatchLCMScheduler", {"shift": 6.0}),  # of HiDream-I1-Dev
}
PIPELINES = {"hidream": Pipeline(pipeline, {}, TRAJECTORIES)}
