"""Z-Image of diffusers: its transformer, small and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import ZImageTransformer2DModel

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QWEN, SHIFTED, VAE, Pipeline, qwen_tokenizer

# Two texts of another number of paddings each, and latents of 24 patches, behind 8 of padding.
INPUTS = {
    "x": drawn("z_image x", 2, 8, 12, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("z_image text", 2, 40, 24),
    "text_mask": np.arange(40) < np.array([[37], [9]]),
}


def small(**options) -> ZImageTransformer2DModel:
    fields = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 24,
        "axes_dims": [4, 6, 6],
        "axes_lens": [1536, 512, 512],
    }
    return ZImageTransformer2DModel(**fields | options)


def run(module: ZImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipeline calls it: the time from the noise, texts without padding, and the output's sign turned."""
    texts = [text[mask] for text, mask in zip(a["text"], a["text_mask"])]
    out = module(list(first(a["x"]).unsqueeze(2)), 1 - a["t"], texts).sample
    return {"output": -last(torch.stack(list(out)).squeeze(2))}


CASES = {"z_image": Case(small, INPUTS, run)}
LISTINGS = {"z_image_full": ZImageTransformer2DModel}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.ZImagePipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**QWEN)),
        transformer=small(n_layers=1),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED),
    )


def arguments(pipe, usual: dict) -> dict:
    """Its scale is 0 without guidance."""
    return usual | {"guidance_scale": usual["guidance_scale"] - 1, "max_sequence_length": 64}


PIPELINES = {"z_image": Pipeline(pipeline, SHIFTED, arguments=arguments)}
