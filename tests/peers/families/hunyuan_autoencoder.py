"""Diffusers' AutoencoderKLHunyuanVideo, small and at the published size, on videos coded whole and in parts."""

from diffusers import AutoencoderKLHunyuanVideo

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def run(module, inputs):
    posterior = module.encode(first(inputs["x"])).latent_dist
    decoded = module.decode(first(inputs["z"])).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


def small() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )


CASES = {
    "hunyuan_autoencoder": Case(
        small,
        {"x": drawn("hunyuan_autoencoder x", 1, 9, 8, 16, 3), "z": drawn("hunyuan_autoencoder z", 1, 3, 1, 2, 4)},
        run,
    ),
    "hunyuan_autoencoder_parts": Case(
        small,
        {"x": drawn("hunyuan_autoencoder x", 1, 33, 8, 16, 3), "z": drawn("hunyuan_autoencoder z", 1, 9, 1, 2, 4)},
        run,
    ),
}
LISTINGS = {"hunyuan_autoencoder_full": AutoencoderKLHunyuanVideo}
