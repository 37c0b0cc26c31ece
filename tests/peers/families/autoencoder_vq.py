"""Diffusers' VQModel: small networks with what they put out, and the published sizes of latent diffusion."""

import diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def vq_model(widths, attends, **options):
    """An autoencoder of these widths."""
    return diffusers.VQModel(
        block_out_channels=widths,
        down_block_types=[f"{'Attn' if one else ''}DownEncoderBlock2D" for one in attends],
        up_block_types=[f"{'Attn' if one else ''}UpDecoderBlock2D" for one in reversed(attends)],
        **options,
    )


def run(module, inputs):
    """Vectors of a picture; the picture of vectors, quantized or not; their codes and indices."""
    z = first(inputs["z"])
    codes, _, (_, _, indices) = module.quantize(z)
    return {
        "encoded": last(module.encode(first(inputs["x"])).latents),
        "codes": last(codes),
        "indices": indices.reshape(z.shape[0], *z.shape[2:]).int(),
        "decoded": last(module.decode(z).sample),
        "decoded_as_is": last(module.decode(z, force_not_quantize=True).sample),
    }


CASES = {
    # VQ-f8's parts: attention at the last level, codes of another width than the latent
    "autoencoder_vq_small": Case(
        lambda: vq_model(
            (16, 32, 32),
            (False, False, True),
            layers_per_block=2,
            norm_num_groups=8,
            latent_channels=4,
            vq_embed_dim=3,
            num_vq_embeddings=24,
            scaling_factor=1.0,
        ),
        {"x": drawn("autoencoder_vq_small x", 2, 8, 12, 3), "z": drawn("autoencoder_vq_small z", 2, 2, 3, 3)},
        run,
    )
}
LISTINGS = {
    "autoencoder_vq_full_f4": lambda: vq_model(
        (128, 256, 512), (False,) * 3, layers_per_block=2, latent_channels=3, num_vq_embeddings=8192
    ),
    "autoencoder_vq_full_f8": lambda: vq_model(
        (128, 256, 256, 512),
        (False, False, False, True),
        layers_per_block=2,
        latent_channels=4,
        num_vq_embeddings=16384,
    ),
}
