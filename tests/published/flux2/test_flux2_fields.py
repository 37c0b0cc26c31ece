"""The config of FLUX.2's autoencoder: the values of the fields that it leaves out."""

import json

import pytest

from diffusion.models import interchange
from diffusion.published.flux2 import autoencoder_table
from tests.models.interchange import published


def test_a_config_without_sizes_has_those_of_flux_2():
    """The defaults of diffusers' AutoencoderKLFlux2, unlike those of its AutoencoderKL."""
    module = autoencoder_table.CONFIG.build({})
    assert (module.widths, module.layers, module.latent_channels) == ((128, 256, 512, 512), 2, 128)
    assert (module.factor, module.packed, module.convs) == (16, 2, (True, True))


def test_a_scale_of_other_channels_than_the_config_states_is_refused(tmp_path):
    case = published.case("flux2_autoencoder")
    folder = case.folder(tmp_path)
    (folder / "config.json").write_text(json.dumps(case.config | {"latent_channels": 4}))
    wrong = r"\.safetensors: its numbers do not fit the config: scale has 8 numbers, but the latents have 16 channels"
    with pytest.raises(interchange.Mismatch, match=wrong):
        interchange.load(folder)
