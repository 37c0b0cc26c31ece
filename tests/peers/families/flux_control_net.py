"""Flux's ControlNet of diffusers: of latents, of several kinds of control, and of pixels; and at a published size."""

import numpy as np
import torch
from diffusers import FluxControlNetModel, FluxPipeline

from tests.peers.cases import Case, first
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("flux control x", 2, 8, 12, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("flux control text", 2, 5, 24),
    "pooled": drawn("flux control pooled", 2, 20),
    "hint": drawn("flux control hint", 2, 8, 12, 4),
}


def small(**options) -> FluxControlNetModel:
    sizes = {"num_layers": 2, "num_single_layers": 1, **options}
    return FluxControlNetModel(
        in_channels=16,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 6, 6),
        **sizes,
    )


def run(module, a):
    """As diffusers' pipeline calls it."""
    batch, height, width, channels = a["x"].shape
    packed = lambda x: FluxPipeline._pack_latents(first(x), batch, channels, height, width)
    places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    found = module(
        packed(a["x"]),
        controlnet_cond=packed(a["hint"]) if a["hint"].shape[1] == height else first(a["hint"]),
        controlnet_mode=a["mode"][:, None] if "mode" in a else None,
        encoder_hidden_states=a["text"],
        pooled_projections=a["pooled"],
        timestep=a["t"],
        img_ids=places,
        txt_ids=torch.zeros(a["text"].shape[1], 3),
        guidance=a.get("strength"),
    )
    joint, single = found.controlnet_block_samples, found.controlnet_single_block_samples or ()
    outputs = {f"joint_{i}": residual for i, residual in enumerate(joint)}
    return outputs | {f"single_{i}": residual for i, residual in enumerate(single)}


STRENGTH = {"strength": np.array([3.5, 1.25], np.float32)}
CASES = {
    "flux_control_net": Case(lambda: small(guidance_embeds=True), {**INPUTS, **STRENGTH}, run),
    "flux_control_net_union": Case(
        lambda: small(num_layers=1, num_mode=3), {**INPUTS, "mode": np.array([2, 0], np.int64)}, run
    ),
    "flux_control_net_pixels": Case(
        lambda: small(num_single_layers=0, conditioning_embedding_channels=4, patch_size=2),
        {**INPUTS, "hint": drawn("flux control pixels", 2, 64, 96, 3)},
        run,
    ),
}
LISTINGS = {  # of InstantX's union, for FLUX.1-dev
    "flux_control_net_full_union": lambda: FluxControlNetModel(
        num_layers=5, num_single_layers=10, guidance_embeds=True, num_mode=10
    )
}
