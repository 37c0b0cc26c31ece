"""Diffusers' AutoencoderTiny (TAESD): small networks with what they put out, and the published size."""

import diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def run(module, inputs):
    """The latent of a picture, and the picture of a latent."""
    encoded = module.encode(first(inputs["x"])).latents
    return {"encoded": last(encoded), "decoded": last(module.decode(first(inputs["z"])).sample)}


def tiny(width, encoder, decoder, **options):
    """One width at all levels."""
    widths = (width,) * len(encoder)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=encoder,
        num_decoder_blocks=decoder,
        **options,
    )


CASES = {
    # latents far beyond 3, where the decoder bends them
    "autoencoder_tiny_small": Case(
        lambda: tiny(8, (1, 2), (2, 1)),
        {"x": drawn("autoencoder_tiny_small x", 2, 8, 12, 3), "z": 4 * drawn("autoencoder_tiny_small z", 2, 4, 6, 4)},
        run,
    ),
    "autoencoder_tiny_flux": Case(
        lambda: tiny(12, (1, 3, 1), (3, 2, 1), latent_channels=16, scaling_factor=0.5, shift_factor=0.25),
        {"x": drawn("autoencoder_tiny_flux x", 2, 8, 12, 3), "z": drawn("autoencoder_tiny_flux z", 2, 2, 3, 16)},
        run,
    ),
}
LISTINGS = {"autoencoder_tiny_full_sd": lambda: diffusers.AutoencoderTiny()}
