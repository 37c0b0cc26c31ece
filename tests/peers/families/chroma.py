"""Chroma of diffusers: its transformer, small and at the published size; its pipeline."""

import functools
import pathlib

import diffusers
import numpy as np
import torch
from diffusers import ChromaTransformer2DModel, FluxPipeline
from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.families.flux import WIDTH, convert, original_layers, packed, unpacked
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import DYNAMIC, VAE, Pipeline, t5, t5_tokenizer
from tests.peers.translated import Translated, dense, under

INPUTS = {
    "x": drawn("chroma x", 2, 8, 12, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("chroma text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small(**options) -> ChromaTransformer2DModel:
    fields = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": (4, 6, 6),
        "approximator_num_channels": 16,
        "approximator_hidden_dim": 24,
        "approximator_layers": 2,
    }
    return ChromaTransformer2DModel(**fields | options)


def run(module: ChromaTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With a mask of booleans, as its authors' code has it: diffusers' pipeline adds a mask of ones to the scores."""
    batch, height, width, channels = a["x"].shape
    tokens = FluxPipeline._pack_latents(first(a["x"]), batch, channels, height, width)
    places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    seen = torch.cat([a["text_mask"], torch.ones(batch, tokens.shape[1], dtype=torch.bool)], dim=1)
    out = module(tokens, a["text"], a["t"], places, torch.zeros(a["text"].shape[1], 3), seen).sample
    return {"output": last(FluxPipeline._unpack_latents(out, 8 * height, 8 * width, 8))}


def original() -> Translated:
    """Under the names of the authors' single files."""
    features, hidden = 16, 24
    guide = dense(in_proj=(features, hidden), out_proj=(hidden, WIDTH))
    for i in range(2):
        guide |= under(f"layers.{i}", dense(in_layer=(hidden, hidden), out_layer=(hidden, hidden)))
        guide[f"norms.{i}.scale"] = (hidden,)
    shapes = original_layers(channels=16) | under("distilled_guidance_layer", guide)
    by = functools.partial(convert, by=convert_chroma_transformer_checkpoint_to_diffusers)
    return Translated(small(num_single_layers=2), shapes, by)


CASES = {"chroma": Case(small, INPUTS, run), "chroma_original": Case(original, INPUTS, run)}
LISTINGS = {"chroma_full": ChromaTransformer2DModel}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.ChromaPipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        transformer=small(num_layers=1, num_single_layers=1, joint_attention_dim=32),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(DYNAMIC),
    )


def arguments(pipe, usual: dict) -> dict:
    """The texts as its pipeline reads them, with masks of booleans: it adds one of ones to the scores."""
    arguments = packed(pipe, usual)
    for before, name in (("", "prompt"), ("negative_", "negative_prompt")):
        embeds, mask = pipe._get_t5_prompt_embeds(arguments.pop(name))
        arguments |= {f"{before}prompt_embeds": embeds, f"{before}prompt_attention_mask": mask.bool()}
    return arguments


PIPELINES = {"chroma": Pipeline(pipeline, DYNAMIC, arguments=arguments, decoded=unpacked)}
