"""Reconstructions are computed once, in batches of one shape, and each error is of a picture and its own one."""

import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import comparison, reconstructions
from diffusion.metrics import image_sets
from diffusion.metrics.image_sets import ImageSetError

COUNT, SIDE = 37, 12  # two whole batches and five pictures


def images(channels=3, count=COUNT, side=SIDE):
    return np.random.default_rng(0).integers(0, 246, (count, side, side, channels), dtype=np.uint8)


@pytest.fixture
def autoencoder(monkeypatch):
    """What adds 1 to the values of the first picture, 2 to those of the second, .., by their sums."""
    shapes = []
    pictures = images()
    number = {int(picture.astype(int).sum()): i + 1 for i, picture in enumerate(pictures)}

    def reconstruct(some):
        shapes.append(some.shape)
        return np.stack([picture + np.uint8(number.get(int(picture.astype(int).sum()), 1) % 10) for picture in some])

    made = types.SimpleNamespace(
        path="vae", module=types.SimpleNamespace(picture_channels=3), record={"family": "made"}, shapes=shapes
    )
    monkeypatch.setattr(reconstructions.autoencoder_folders, "latent", lambda autoencoder, shape: None)
    monkeypatch.setattr(reconstructions.autoencoder_folders, "reconstruction", lambda autoencoder: reconstruct)
    monkeypatch.setattr(reconstructions.autoencoder_folders, "load", lambda path: made)
    return made


def psnr_of(added):
    """Of a constant error: 20 log10(255 / error), in closed form; of none it is infinite or large."""
    return 20 * np.log10(255 / added)


@pytest.mark.parametrize("start, stop", [(0, COUNT), (3, 20), (36, 37)])
def test_errors_are_of_the_pictures_that_were_read(autoencoder, start, stop):
    own = reconstructions.reconstruct(autoencoder, image_sets.from_array(images()))
    decoded = own.images.read(start, stop)
    added = (np.arange(start, stop) + 1) % 10
    np.testing.assert_array_equal(decoded, images()[start:stop] + np.uint8(added)[:, None, None, None])
    assert np.isnan(own.errors["psnr"]).sum() == COUNT - (stop - start)
    some = added > 0
    np.testing.assert_allclose(own.errors["psnr"][start:stop][some], psnr_of(added[some]), rtol=1e-4)
    assert np.isfinite(own.errors["ssim"][start:stop]).all()
    assert set(autoencoder.shapes) == {(reconstructions.BATCH, SIDE, SIDE, 3)}
    assert len(autoencoder.shapes) == -(-(stop - start) // reconstructions.BATCH)


@pytest.mark.parametrize("side, figures", [(10, {"psnr"}), (11, {"psnr", "ssim"})])
def test_small_pictures_have_no_ssim(autoencoder, side, figures):
    own = reconstructions.reconstruct(autoencoder, image_sets.from_array(images(side=side)))
    assert own.errors.keys() == figures


def test_grey_pictures_are_shown_to_the_network_in_its_channels(autoencoder):
    own = reconstructions.reconstruct(autoencoder, image_sets.from_array(images(1, 2)))
    assert own.images.shape == (SIDE, SIDE, 3) and own.images.read(0, 2).shape == (2, SIDE, SIDE, 3)


def test_a_set_says_what_it_is_and_is_known_again(autoencoder):
    first, same, other = (
        reconstructions.reconstruct(autoencoder, image_sets.from_array(x)).images
        for x in (images(), images(), images()[::-1])
    )
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert first.record["kind"] == "reconstructions" and first.record["images"].endswith("through vae")
    assert first.record["autoencoder"] == {"family": "made"} and first.count == COUNT
    changed = types.SimpleNamespace(**{**vars(autoencoder), "record": {"family": "other"}})
    assert reconstructions.reconstruct(changed, image_sets.from_array(images())).images.fingerprint != first.fingerprint


def test_the_stamp_of_the_pictures_is_that_of_their_reconstructions(autoencoder):
    """Features on disk are of one stamp: reconstructions of a dataset that changed had those of the earlier ones."""
    originals = image_sets.from_array(images())._replace(stamp="changed at noon")
    assert reconstructions.reconstruct(autoencoder, originals).images.stamp == "changed at noon"


def test_what_are_no_bytes_is_refused(autoencoder):
    with pytest.raises(ImageSetError, match="holds float32, but reconstructions are compared with bytes"):
        reconstructions.reconstruct(autoencoder, image_sets.from_array(images().astype(np.float32)))


# ==== A request ====


@pytest.fixture
def request_of(autoencoder, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "a.npz", images())
    base = comparison.Request(autoencoder="vae", reference=str(tmp_path / "a.npz"))
    return base, autoencoder


def test_without_a_network_rfid_is_said_to_be_missing(request_of):
    request, autoencoder = request_of
    result = reconstructions.run(request)
    figures = result["figures"]
    assert list(figures) == ["psnr", "ssim", "rfid"]
    assert figures["rfid"]["value"] is None and "--inception and --protocol" in figures["rfid"]["why"]
    assert figures["psnr"]["samples"] == COUNT and len(autoencoder.shapes) == 3  # every picture once
    assert result["samples"]["count"] == result["reference"]["count"] == COUNT
    assert result["samples"]["kind"] == "reconstructions" and result["warnings"] == []
    assert result["protocol"] is None and result["weights"] is None and result["features"]["dimensions"] == 0
    assert result["seconds"]["total"] > 0


def test_pixels_measure_a_distance_and_pictures_are_read_once(request_of):
    """The second run takes the features from the cache, and computes the errors all the same."""
    request, autoencoder = request_of
    request = request._replace(features="pixels")
    first = reconstructions.run(request)
    assert len(autoencoder.shapes) == 3
    assert "rfd" in first["figures"] and first["figures"]["rfd"]["value"] > 0 and "fd" not in first["figures"]
    second = reconstructions.run(request)
    assert second["figures"]["psnr"] == first["figures"]["psnr"] and len(autoencoder.shapes) == 6
    assert second["figures"]["rfd"]["value"] == first["figures"]["rfd"]["value"]


def test_statistics_alone_are_no_pictures(request_of, monkeypatch):
    nothing = types.SimpleNamespace(images=None)
    monkeypatch.setattr(reconstructions.references, "open_reference", lambda spec, data_dir, size: nothing)
    with pytest.raises(ImageSetError, match="holds only statistics, but an autoencoder is measured on pictures"):
        reconstructions.run(request_of[0])
