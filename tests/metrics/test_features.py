"""Feature extractors, and moments that are gathered over their batches."""

import numpy as np
import pytest

from diffusion.metrics import features, frechet


def test_pixels_are_bytes_over_255(images):
    extractor = features.FEATURES["pixels"](images, None)
    made = extractor.extract(images)
    assert made.shape == (23, 12)
    np.testing.assert_allclose(made, images.reshape(23, 12) / 255, rtol=1e-7)
    assert extractor.record["sha256"] is None and extractor.record["unit"] == "[0, 1]"


@pytest.mark.parametrize("batch_size", [1, 10, 23, 100])
def test_moments_and_rows_of_all_images(images, batch_size):
    extract = features.pixels(images, None).extract
    moments = features.moments(extract, images, batch_size)
    assert moments.count == 23
    np.testing.assert_allclose(frechet.covariance(moments), np.cov(images.reshape(23, 12).T / 255), atol=1e-8)
    np.testing.assert_array_equal(features.rows(extract, images, batch_size), extract(images))


def test_any_function_of_images_is_an_extractor(images):
    moments = features.moments(lambda batch: batch.reshape(len(batch), -1)[:, :2].astype(float), images)
    assert moments.mean.shape == (2,)


def test_bad_input(images):
    extract = features.pixels(images, None).extract
    with pytest.raises(ValueError, match="at least one image"):
        features.moments(extract, images[:0])
    with pytest.raises(ValueError, match="finite"):
        features.moments(lambda batch: extract(batch) * np.nan, images)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (23, 2, 3, 2), dtype=np.uint8)
