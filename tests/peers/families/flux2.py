"""FLUX.2's transformer and autoencoder of diffusers, small and at published sizes."""

import functools

import diffusers
import numpy as np
import torch

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("flux2 x", 2, 4, 6, 12),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("flux2 text", 2, 5, 24),
}
KLEIN = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}


def small(strength: bool) -> diffusers.Flux2Transformer2DModel:
    return diffusers.Flux2Transformer2DModel(
        in_channels=12,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(2, 4, 6, 4),
        guidance_embeds=strength,
    )


def run(module: diffusers.Flux2Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pipeline = diffusers.Flux2KleinPipeline
    latents = first(a["x"])
    places = pipeline._prepare_latent_ids(latents), pipeline._prepare_text_ids(a["text"])
    tokens = pipeline._pack_latents(latents)
    out = module(tokens, a["text"], a["t"], *places, a.get("strength")).sample
    return {"output": out.reshape(a["x"].shape)}


def autoencoder() -> diffusers.AutoencoderKLFlux2:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=2,
    )


def coded(module: diffusers.AutoencoderKLFlux2, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moments of patches, and the picture of a latent of patches."""
    pipeline = diffusers.Flux2KleinPipeline
    posterior = module.encode(first(a["x"])).latent_dist
    packed = lambda part: last(pipeline._patchify_latents(part))
    decoded = last(module.decode(pipeline._unpatchify_latents(first(a["z"]))).sample)
    return {"mean": packed(posterior.mean), "log_variance": packed(posterior.logvar), "decoded": decoded}


CASES = {
    "flux2_klein": Case(functools.partial(small, False), INPUTS, run),
    "flux2_dev": Case(functools.partial(small, True), INPUTS | {"strength": np.array([3.5, 1.0], np.float32)}, run),
    "flux2_autoencoder": Case(
        autoencoder,
        {"x": drawn("flux2_autoencoder x", 2, 8, 12, 3), "z": drawn("flux2_autoencoder z", 2, 2, 3, 8)},
        coded,
        kept=("bn.num_batches_tracked",),
    ),
}
LISTINGS = {
    "flux2_full_klein": lambda: diffusers.Flux2Transformer2DModel(**KLEIN),
    "flux2_autoencoder_full": diffusers.AutoencoderKLFlux2,
}
