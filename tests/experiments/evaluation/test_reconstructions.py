"""PSNR, SSIM and rFID of an autoencoder, by the command and its record."""

import contextlib
import json
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.evaluation import comparison, reconstructions, records
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.metrics import frechet, image_sets
from diffusion.metrics.reconstruction_error import psnr, ssim
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.recipe import ConfigError

ROOT = pathlib.Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An autoencoder, and 19 pictures: not a whole number of batches."""
    folder = tmp_path_factory.mktemp("files")
    module = AutoencoderKL(widths=(4, 4), layers=1, groups=2, middle_attention=False)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))["params"]
    interchange.save(folder / "vae", module, params)
    images = np.random.default_rng(0).integers(0, 256, (19, 12, 12, 3), dtype=np.uint8)
    np.savez(folder / "a.npz", images)
    expected = np.asarray(to_uint8(module.apply({"params": params}, to_model(images))))
    return folder, images, expected


@pytest.mark.slow
def test_figures_are_those_of_the_reconstructions(files, monkeypatch):
    folder, images, expected = files
    monkeypatch.setenv("DIFFUSION_CACHE", str(folder / "cache"))
    request = comparison.Request(autoencoder=f"{folder}/vae", reference=f"{folder}/a.npz", features="pixels")
    result = reconstructions.run(request)["figures"]
    for name, function in (("psnr", psnr), ("ssim", ssim)):
        values = np.asarray(function(expected, images))
        assert result[name]["value"] == pytest.approx(values.mean(), rel=1e-3) and result[name]["samples"] == 19
        assert result[name]["standard_error"] == pytest.approx(values.std(ddof=1) / 19**0.5, rel=2e-2)
    flat = lambda x: frechet.update(frechet.init(432), x.reshape(19, -1) / 255)
    assert result["rfd"]["value"] == pytest.approx(frechet.frechet_distance(flat(expected), flat(images)), rel=1e-3)
    # The features are on disk now, and the pictures are compared all the same.
    again = reconstructions.run(request)["figures"]
    assert again["psnr"] == result["psnr"] and again["rfd"]["value"] == result["rfd"]["value"]


def test_pictures_without_an_error_leave_the_mean_without_a_value():
    """Their decibels are infinite, which JSON does not have; the record says so in place of a bare null."""
    values = np.array([30.0, np.inf, np.inf])
    figure = {"value": None, "standard_error": None, "samples": 3}
    assert reconstructions.mean(values) == figure | {"why": "value not finite: 2 of 3 pictures equal their originals"}
    assert reconstructions.mean(values[:1] + [0, 2]) == {"value": 31, "standard_error": 1, "samples": 2}


def test_what_was_not_read_is_read_once_in_batches(monkeypatch):
    """The first 8 of 14 pictures are measured; of three batches the last two are read, the last of two pictures."""
    read, told = [], []
    monkeypatch.setattr(reconstructions, "BATCH", 6)
    bar = lambda *about: contextlib.nullcontext(told.append)
    monkeypatch.setattr(reconstructions.progress, "bar", bar)
    images = types.SimpleNamespace(count=14, read=lambda start, stop: read.append((start, stop)))
    errors = {"psnr": np.where(np.arange(14) < 8, 30.0, np.nan)}
    reconstructions._complete(reconstructions.Reconstructions(images, errors))
    assert read == [(6, 12), (12, 14)] and told == [6, 12, 14]


@pytest.mark.slow
def test_without_inception_the_command_measures_psnr_and_ssim_and_verifies_its_record(files):
    folder, images, expected = files
    base = [sys.executable, "-m", "experiments.evaluate"]
    command = [*base, f"--autoencoder={folder}/vae", f"--reference={folder}/a.npz", f"--out={folder}/r.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "psnr" in done.stdout and "ssim" in done.stdout
    content = json.loads((folder / "r.json").read_text())
    assert content["figures"]["psnr"]["value"] == pytest.approx(float(psnr(expected, images).mean()), rel=1e-3)
    assert content["figures"]["rfid"]["value"] is None and "--inception" in content["figures"]["rfid"]["why"]
    assert content["samples"]["autoencoder"] == autoencoder_folders.load(folder / "vae").record
    assert records.verify(folder / "r.json") == []
    content["figures"]["ssim"]["value"] += 0.01
    assert records.compare(content, records.read(folder / "r.json"))[0].startswith("figures.ssim.value")
    wrong = subprocess.run([*command, "--metrics=kid"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "leave out --samples and --metrics" in wrong.stderr


@pytest.mark.slow
def test_what_cannot_be_reconstructed_is_refused(files):
    folder, images, _ = files
    autoencoder = autoencoder_folders.load(folder / "vae")
    with pytest.raises(image_sets.ImageSetError, match="holds float32, but reconstructions are compared with bytes"):
        reconstructions.reconstruct(autoencoder, image_sets.from_array(images.astype(np.float32)))
    with pytest.raises(ConfigError, match="2 does not divide 11 x 12"):
        reconstructions.reconstruct(autoencoder, image_sets.from_array(images[:, :11]))


def test_records_of_before_autoencoders_sizes_and_encoders_are_still_read():
    earlier = comparison.Request("a.npz", "b.npz")._asdict()
    for field in ("encoder", "size", "autoencoder"):
        del earlier[field]
        assert comparison.parse(earlier) == comparison.Request("a.npz", "b.npz")
    stated = comparison.Request("a.npz", "b.npz", autoencoder="vae", size=8, encoder="dino")
    assert comparison.parse(stated._asdict()) == stated
