"""Diffusers' AutoencoderKLLTXVideo: small networks of its three published forms, and the published sizes."""

from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

BLOCK = "LTXVideo095DownBlock3D"
DOWN = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")
DOUBLED = {"upsample_residual": (True,) * 3, "upsample_factor": (2,) * 3, "timestep_conditioning": True}
LATER = {"decoder_block_out_channels": (256, 512, 1024), "decoder_spatio_temporal_scaling": (True,) * 3, **DOUBLED}
PUBLISHED = {
    "0_9_0": {},
    "0_9_1": {**LATER, "decoder_layers_per_block": (5, 6, 7, 8), "decoder_inject_noise": (True, True, True, False)},
    "0_9_5": {
        **LATER,
        "block_out_channels": (128, 256, 512, 1024, 2048),
        "down_block_types": (BLOCK,) * 4,
        "layers_per_block": (4, 6, 6, 2, 2),
        "downsample_type": DOWN,
        "spatio_temporal_scaling": (True,) * 4,
        "decoder_layers_per_block": (5, 5, 5, 5),
        "decoder_inject_noise": (False,) * 4,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
}
TIMED = {
    "decoder_block_out_channels": (16, 32),
    "decoder_layers_per_block": (1, 2, 1),
    "decoder_spatio_temporal_scaling": (True, True),
    "upsample_residual": (True, True),
    "upsample_factor": (2, 2),
    "timestep_conditioning": True,
}
SMALL = {
    "ltx_autoencoder": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3,
        "layers_per_block": (1, 2, 1, 1),
        "spatio_temporal_scaling": (True, True, False),
        "decoder_block_out_channels": (8, 16, 16),
        "decoder_layers_per_block": (1, 2, 1, 1),
        "decoder_spatio_temporal_scaling": (True, True, False),
        "decoder_inject_noise": (False,) * 4,
        "downsample_type": ("conv",) * 3,
        "upsample_residual": (False,) * 3,
        "upsample_factor": (1,) * 3,
    },
    "ltx_autoencoder_noise": {
        **TIMED,
        "block_out_channels": (8, 16),
        "down_block_types": ("LTXVideoDownBlock3D",) * 2,
        "layers_per_block": (1, 1, 1),
        "spatio_temporal_scaling": (True, True),
        "decoder_inject_noise": (True, True, False),
        "downsample_type": ("conv",) * 2,
    },
    "ltx_autoencoder_folds": {
        **TIMED,
        "block_out_channels": (8, 8, 16, 32),
        "down_block_types": (BLOCK,) * 3,
        "layers_per_block": (1, 1, 1, 1),
        "spatio_temporal_scaling": (True,) * 3,
        "downsample_type": ("spatial", "temporal", "spatiotemporal"),
        "decoder_inject_noise": (False,) * 3,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
    },
}
KEPT = ("latents_mean", "latents_std", "decoder.timestep_scale_multiplier")


def run(module, inputs):
    """Moments of a video, and the video of a latent; the mean of the noise that 0.9.1 adds is zero."""
    posterior = module.encode(first(inputs["x"])).latent_dist
    with mock.patch("torch.randn", lambda shape, **options: torch.zeros(shape)):
        decoded = module.decode(first(inputs["z"]), inputs.get("t")).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


def small(name: str) -> Case:
    def build() -> AutoencoderKLLTXVideo:
        module = AutoencoderKLLTXVideo(**SMALL[name], latent_channels=6, patch_size=2)
        module.latents_mean.copy_(torch.arange(6) / 4)
        module.latents_std.copy_(1 + torch.arange(6) / 2)
        return module

    inputs = {"x": drawn(f"{name} x", 2, 5, 8, 16, 3), "z": drawn(f"{name} z", 2, 2, 2, 3, 6)}
    if "timestep_conditioning" in SMALL[name]:
        inputs["t"] = np.array([0.05, 0.3], np.float32)
    return Case(build, inputs, run, kept=KEPT)


CASES = {name: small(name) for name in SMALL}
LISTINGS = {
    f"ltx_autoencoder_full_{name}": lambda options=options: AutoencoderKLLTXVideo(**options)
    for name, options in PUBLISHED.items()
}
