"""Diffusers' AutoencoderKLWan, of Wan 2.1, and AutoencoderKLQwenImage: small networks, and the published size."""

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def run(module, inputs):
    """Moments of a video, and the video of a latent, which the peer codes frame by frame."""
    posterior = module.encode(first(inputs["x"])).latent_dist
    parts = []  # of the decoder, since the peer cuts what lies outside [-1, 1]
    module.decoder.register_forward_hook(lambda *called: parts.append(called[-1]))
    module.decode(first(inputs["z"]))
    decoded = torch.cat(parts, dim=2)
    if patch := module.config.get("patch_size"):
        decoded = unpatchify(decoded, patch)
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


def small(name, frames, latent, **options):
    """A case of three levels."""
    side = options.get("patch_size", 1) * 2 ** (len(options["dim_mult"]) - 1)
    factor = 2 ** sum(options["temperal_downsample"])
    build = lambda: diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=latent,
        latents_mean=[0.5] * latent,
        latents_std=[2.0] * latent,
        scale_factor_temporal=factor,
        scale_factor_spatial=side,
        **options,
    )
    x = drawn(f"{name} x", 2, 1 + factor * (frames - 1), 2 * side, 3 * side, 3)
    return Case(build, {"x": x, "z": drawn(f"{name} z", 2, frames, 2, 3, latent)}, run)


CASES = {
    "wan_autoencoder": small(
        "wan_autoencoder", 3, 4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[True, True]
    ),
    "wan_autoencoder_two": small(
        "wan_autoencoder_two", 3, 2, dim_mult=[1, 1, 3], num_res_blocks=2, temperal_downsample=[False, True]
    ),
}
CASES["wan_autoencoder_residual"] = small(
    "wan_autoencoder_residual",
    3,
    4,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    is_residual=True,
    decoder_base_dim=12,
    patch_size=2,
    in_channels=12,
    out_channels=12,
)
QWEN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]}
CASES["qwen_image_autoencoder"] = Case(  # of one frame, as its pipeline reads it
    lambda: diffusers.AutoencoderKLQwenImage(**QWEN, latents_mean=[0.5] * 4, latents_std=[2.0] * 4),
    {"x": drawn("qwen_image_autoencoder x", 2, 1, 4, 6, 3), "z": drawn("qwen_image_autoencoder z", 2, 1, 2, 3, 4)},
    run,
)
TI2V = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
LISTINGS = {
    "wan_autoencoder_full": lambda: diffusers.AutoencoderKLWan(),
    "wan_autoencoder_residual_full": lambda: diffusers.AutoencoderKLWan(**TI2V),
}
