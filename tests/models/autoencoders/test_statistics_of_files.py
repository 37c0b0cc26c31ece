"""The mean and deviation of latents that files and configs of published autoencoders state, read and written."""

import pathlib

import numpy as np
import pytest

from diffusion.models.autoencoders.latent_space import to_diffusion
from diffusion.models.interchange import FAMILIES, Refusal
from diffusion.models.interchange.tensor_files import Tensors
from tests.models.interchange import published

MEAN, DEVIATION = np.float32([0.5, -1.0, 2.0, 0.25]), np.float32([2.0, 0.5, 4.0, 0.01])
Z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
SMALL = {"block_out_channels": [32], "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}


def tensors_of(**arrays):
    """The tensors of a file that holds these arrays."""
    path, same = pathlib.Path("file.safetensors"), {name: name for name in arrays}
    readers = {name: lambda array=array: array for name, array in arrays.items()}
    return Tensors(path, dict.fromkeys(arrays, path), same, {name: a.shape for name, a in arrays.items()}, readers)


def check(family, module, written):
    """FLUX.2's batch norm adds 1e-4 to a variance, so that the last channel's deviation is not 0.01."""
    np.testing.assert_allclose(to_diffusion(Z, module.scale, module.shift), (Z - MEAN) / written, rtol=1e-5)
    return {name: np.asarray(entry.make()) for name, entry in family.computed(module).items()}


def test_flux2_normalises_by_the_running_statistics_of_its_file():
    family = FAMILIES["AutoencoderKLFlux2"]
    module = family.build(SMALL | {"latent_channels": 1})
    read = family.varied(module, tensors_of(**{"bn.running_mean": MEAN, "bn.running_var": DEVIATION**2}))
    written = check(family, read, np.sqrt(DEVIATION**2 + 1e-4))
    np.testing.assert_allclose(written["bn.running_mean"], MEAN)
    np.testing.assert_allclose(written["bn.running_var"], DEVIATION**2, rtol=1e-3)


def test_ltx_video_normalises_by_the_statistics_of_its_file():
    family = FAMILIES["AutoencoderKLLTXVideo"]
    read = family.varied(family.build({"latent_channels": 4}), tensors_of(latents_mean=MEAN, latents_std=DEVIATION))
    written = check(family, read, DEVIATION)
    np.testing.assert_allclose(written["latents_mean"], MEAN)
    np.testing.assert_allclose(written["latents_std"], DEVIATION, rtol=1e-6)


def test_the_factor_of_a_config_multiplies_the_statistics_of_its_file():
    family = FAMILIES["AutoencoderKLLTXVideo"]
    module = family.build({"latent_channels": 4, "scaling_factor": 0.5})
    read = family.varied(module, tensors_of(latents_mean=MEAN, latents_std=DEVIATION))
    check(family, read, DEVIATION / 0.5)
    with pytest.raises(Refusal, match="latents_std must be above 0"):
        family.varied(module, tensors_of(latents_mean=MEAN, latents_std=np.zeros_like(MEAN)))


@pytest.mark.parametrize("name", ["AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21"])
def test_videos_are_normalised_by_the_statistics_of_their_config(name):
    config = {"z_dim": 4, "latents_mean": MEAN.tolist(), "latents_std": DEVIATION.tolist()}
    module = FAMILIES[name].build(config)
    np.testing.assert_allclose(to_diffusion(Z, module.scale, module.shift), (Z - MEAN) / DEVIATION, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("AutoencoderKLWan", "wan_autoencoder_full"),
        ("AutoencoderKLQwenImage", "wan_autoencoder_full"),
        ("AutoencoderKLQwenImage21", "qwen_image_21_autoencoder_full"),
    ],
)
def test_the_statistics_without_a_config_are_diffusers(name, listing):
    config, _ = published.listing(listing)
    module = FAMILIES[name].build({})
    np.testing.assert_allclose(module.shift, config["latents_mean"])
    np.testing.assert_allclose(module.scale, 1 / np.array(config["latents_std"]))
