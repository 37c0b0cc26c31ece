"""The config of FLUX.2's autoencoder: the values of the fields that it leaves out."""

from diffusion.published.flux2 import autoencoder_table


def test_a_config_without_sizes_has_those_of_flux_2():
    """The defaults of diffusers' AutoencoderKLFlux2, unlike those of its AutoencoderKL."""
    module = autoencoder_table.CONFIG.build({})
    assert (module.widths, module.layers, module.latent_channels) == ((128, 256, 512, 512), 2, 128)
    assert (module.factor, module.packed, module.convs) == (16, 2, (True, True))
