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
    "picture_0": drawn("flux2 picture 0", 2, 3, 4, 12),
    "picture_1": drawn("flux2 picture 1", 2, 2, 5, 12),
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
    """Also with two pictures that are edited, as the pipeline has their tokens and positions."""
    pipeline = diffusers.Flux2KleinPipeline
    latents = first(a["x"])
    places, words = pipeline._prepare_latent_ids(latents), pipeline._prepare_text_ids(a["text"])
    tokens = pipeline._pack_latents(latents)
    call = lambda tokens, places: module(tokens, a["text"], a["t"], places, words, a.get("strength")).sample
    edited = [first(a[f"picture_{i}"]) for i in range(2)]
    of_edited = pipeline._prepare_image_ids([picture[:1] for picture in edited]).expand(len(latents), -1, -1)
    more = call(torch.cat([tokens, *map(pipeline._pack_latents, edited)], dim=1), torch.cat([places, of_edited], dim=1))
    of_x = lambda out: out[:, : tokens.shape[1]].reshape(a["x"].shape)
    return {"output": of_x(call(tokens, places)), "edited": of_x(more)}


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
