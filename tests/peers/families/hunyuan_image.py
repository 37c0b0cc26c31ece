"""HunyuanImage 2.1 of diffusers: transformer and autoencoder, small and at the published size; its pipeline."""

import functools
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AdaptiveProjectedMixGuidance, AutoencoderKLHunyuanImage, HunyuanImageTransformer2DModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from tests.peers.cases import Case, first, last
from tests.peers.families.hunyuan_video_15 import TEXTS
from tests.peers.families.qwen_image import one_by_one
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QUOTED_PROMPTS, QWEN, Pipeline, qwen_tokenizer, t5

INPUTS = TEXTS | {"x": drawn("hunyuan_image x", 2, 2, 4, 4)}
PLAIN = {name: INPUTS[name] for name in ("x", "t", "text", "text_mask")} | {"strength": np.float32([3.25, 7])}


def small(**options) -> HunyuanImageTransformer2DModel:
    fields = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 10,
        "text_embed_2_dim": 12,
        "rope_axes_dim": (6, 10),
    }
    return HunyuanImageTransformer2DModel(**fields | options)


def run(module: HunyuanImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    how = {"encoder_hidden_states": a["text"], "encoder_attention_mask": a["text_mask"].long()}
    if "glyphs" in a:
        how |= {"encoder_hidden_states_2": a["glyphs"], "encoder_attention_mask_2": a["glyph_mask"].long()}
    if "strength" in a:
        how["guidance"] = 1000 * a["strength"]
    if "end" in a:
        how["timestep_r"] = 1000 * a["end"]
    return {"output": last(module(first(a["x"]), 1000 * a["t"], **how).sample)}


def coded(module: AutoencoderKLHunyuanImage, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    posterior = module.encode(first(a["x"])).latent_dist
    decoded = module.decode(first(a["z"])).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "spatial_compression_ratio": 4,
    "sample_size": 384,
    "scaling_factor": 0.75289,
}
PUBLISHED = AUTOENCODER | {
    "latent_channels": 64,
    "block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "layers_per_block": 2,
    "spatial_compression_ratio": 32,
}
CASES = {
    "hunyuan_image": Case(small, INPUTS, run),
    "hunyuan_image_strength": Case(functools.partial(small, text_embed_2_dim=None, guidance_embeds=True), PLAIN, run),
    "hunyuan_image_mean_flow": Case(
        functools.partial(small, guidance_embeds=True, use_meanflow=True),
        INPUTS | {"strength": PLAIN["strength"], "end": np.float32([0.125, 0.0])},
        run,
    ),
    "hunyuan_image_autoencoder": Case(
        lambda: AutoencoderKLHunyuanImage(**AUTOENCODER),
        {"x": drawn("hunyuan_image coded x", 2, 8, 12, 3), "z": drawn("hunyuan_image coded z", 2, 2, 3, 4)},
        coded,
    ),
}
LISTINGS = {
    "hunyuan_image_full": functools.partial(HunyuanImageTransformer2DModel, text_embed_2_dim=1472),
    "hunyuan_image_autoencoder_full": lambda: AutoencoderKLHunyuanImage(**PUBLISHED),
}


GUIDERS = {  # the number of the last step with the classifier-free guidance, and others
    "guider": {"adaptive_projected_guidance_start_step": 5, "adaptive_projected_guidance_scale": 8.0, "eta": 0.25},
    "ocr_guider": {"adaptive_projected_guidance_start_step": 20, "adaptive_projected_guidance_rescale": 3.0},
}


def guiders(scale: float) -> dict[str, AdaptiveProjectedMixGuidance]:
    return {name: AdaptiveProjectedMixGuidance(guidance_scale=scale, **fields) for name, fields in GUIDERS.items()}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Called with one prompt at a time: words in quotes of one decide on the guider of all."""
    return one_by_one(diffusers.HunyuanImagePipeline, parts() | guiders(3.5))


def distilled(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """The pipeline of a denoiser that receives the end of a step, without guiders."""
    mean_flow = {"guidance_embeds": True, "use_meanflow": True}
    return one_by_one(diffusers.HunyuanImagePipeline, parts(**mean_flow) | {"guider": None, "ocr_guider": None})


def parts(**fields) -> dict:
    tokenizer = qwen_tokenizer()
    text = {name: value for name, value in QWEN.items() if name != "head_dim"} | {"vocab_size": len(tokenizer)}
    turns = {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e4}
    text |= {"rope_parameters": turns, "num_hidden_layers": 4}
    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW),
        "vae": AutoencoderKLHunyuanImage(**AUTOENCODER),
        "text_encoder": Qwen2_5_VLTextModel(transformers.Qwen2_5_VLTextConfig(**text)),
        "tokenizer": tokenizer,
        "text_encoder_2": t5(),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "transformer": small(num_layers=1, num_single_layers=1, text_embed_dim=24, text_embed_2_dim=32, **fields),
    }


def arguments(pipe, usual: dict) -> dict:
    """Words in quotes are read apart; the guidance is the guiders'."""
    for name, guider in guiders(usual.pop("guidance_scale")).items():
        setattr(pipe, name, guider)
    return usual | {"prompt": QUOTED_PROMPTS}


def distilled_arguments(pipe, usual: dict) -> dict:
    return usual | {"prompt": QUOTED_PROMPTS, "distilled_guidance_scale": usual.pop("guidance_scale")}


FLOW, SIZE = {"shift": 5.0}, {"height": 32, "width": 32}
PIPELINES = {
    "hunyuan_image": Pipeline(pipeline, FLOW, size=SIZE, arguments=arguments),
    "hunyuan_image_distilled": Pipeline(distilled, FLOW, size=SIZE, steps=8, arguments=distilled_arguments),
}
