"""Qwen-Image of diffusers: its transformer, small and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QWEN, Pipeline, by_channel, qwen_tokenizer

INPUTS = {
    "x": drawn("qwen_image x", 2, 6, 10, 4),  # an odd number of patches on both sides
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("qwen_image text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small(**options) -> QwenImageTransformer2DModel:
    fields = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": (4, 6, 6),
    }
    return QwenImageTransformer2DModel(**fields | options)


def run(module: QwenImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch, height, width, channels = a["x"].shape
    tokens = QwenImagePipeline._pack_latents(first(a["x"]), batch, channels, height, width)
    shapes = [[(1, height // 2, width // 2)]] * batch
    out = module(tokens, a["text"], a["text_mask"], a["t"], shapes).sample
    return {"output": last(QwenImagePipeline._unpack_latents(out, 8 * height, 8 * width, 8).squeeze(2))}


CASES = {"qwen_image": Case(small, INPUTS, run)}
LISTINGS = {"qwen_image_full": QwenImageTransformer2DModel}


QWEN_FLOW = {  # as it is published
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 4}  # fmt: skip
    turns = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {name: value for name, value in QWEN.items() if name != "head_dim"} | {"rope_parameters": turns}
    config = transformers.Qwen2_5_VLConfig(text_config=text | {"hidden_size": 32}, vision_config=vision)
    return diffusers.QwenImagePipeline(
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[-0.7, 0.1, 0.9, -0.2],
            latents_std=[2.8, 1.4, 0.7, 1.9],
        ),
        tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        transformer=small(joint_attention_dim=32),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(QWEN_FLOW),
    )


def arguments(pipe, usual: dict) -> dict:
    """It takes patches."""
    usual["true_cfg_scale"] = usual.pop("guidance_scale")
    return usual | {"latents": pipe._pack_latents(usual["latents"], 2, 4, 8, 8)}


def decode(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the autoencoder of clips of one frame."""
    latents = pipe._unpack_latents(output, 16, 16, pipe.vae_scale_factor)
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    picture = pipe.vae.decode(latents * deviation + mean).sample[:, :, 0]
    return latents[:, :, 0], picture


PIPELINES = {"qwen_image": Pipeline(pipeline, QWEN_FLOW, arguments=arguments, decoded=decode)}
