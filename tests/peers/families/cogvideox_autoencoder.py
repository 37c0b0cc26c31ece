"""Diffusers' AutoencoderKLCogVideoX, small, on three chunks of frames, and at the published size."""

from diffusers import AutoencoderKLCogVideoX

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def run(module, inputs):
    posterior = module.encode(first(inputs["x"])).latent_dist
    decoded = module.decode(first(inputs["z"])).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


def small() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 16, 16, 24),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.7,
    )


CASES = {
    "cogvideox_autoencoder": Case(
        small,
        {"x": drawn("cogvideox_autoencoder x", 1, 25, 8, 16, 3), "z": drawn("cogvideox_autoencoder z", 1, 7, 1, 2, 4)},
        run,
    )
}
LISTINGS = {"cogvideox_autoencoder_full": AutoencoderKLCogVideoX}
