"""Resizes against their definitions, pixel by pixel in loops, and against Pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from diffusion.metrics import resizing

SIZES = [(5, 13), (13, 5), (8, 8), (32, 37), (1, 4), (300, 299)]


def at(line, x):
    """A line of pixels at a real position, linearly between neighbours, the ends repeated."""
    low = math.floor(x)
    pixel = lambda i: line[min(max(i, 0), len(line) - 1)]
    return pixel(low) + (x - low) * (pixel(low + 1) - pixel(low))


@pytest.mark.parametrize("size, to", SIZES)
@pytest.mark.parametrize("name", ["bilinear_tf1", "bilinear_torch"])
def test_bilinear_is_its_definition(name, size, to):
    line = np.random.default_rng(0).uniform(0, 255, size)
    where = {"bilinear_tf1": lambda i: i * size / to, "bilinear_torch": lambda i: max((i + 0.5) * size / to - 0.5, 0)}[
        name
    ]
    expected = [at(line, where(i)) for i in range(to)]
    np.testing.assert_allclose(resizing.RESIZES[name](size, to) @ line, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("height, width, to", [(32, 32, 299), (400, 350, 299), (20, 500, 64), (299, 299, 299)])
def test_bicubic_is_pillows(height, width, to):
    image = np.random.default_rng(1).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    ours = resizing.resize(image, "bicubic_pil", to)[0]
    for channel in range(3):
        pillow = Image.fromarray(image[0, :, :, channel].astype(np.float32)).resize((to, to), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours[:, :, channel], np.asarray(pillow), atol=1e-3, rtol=1e-5)
        assert np.linalg.norm(ours[:, :, channel] - pillow) < 1e-6 * np.linalg.norm(pillow)


@pytest.mark.parametrize("name", ["bilinear_tf1", "bilinear_torch", "bicubic_pil"])
def test_axes_are_not_exchanged_and_channels_do_not_mix(name):
    rng = np.random.default_rng(2)
    image = rng.uniform(0, 255, (2, 6, 9, 3)).astype(np.float32)
    found = resizing.resize(image, name, 11)
    rows, columns = (resizing.RESIZES[name](side, 11).astype(np.float64) for side in (6, 9))
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(found[b, :, :, c], rows @ image[b, :, :, c] @ columns.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["bilinear_tf1", "bilinear_torch", "bicubic_pil"])
@pytest.mark.parametrize("size, to", SIZES)
def test_a_flat_image_stays_flat(name, size, to):
    np.testing.assert_allclose(resizing.RESIZES[name](size, to).sum(axis=1), 1, atol=1e-6)


def test_none_takes_that_size_alone():
    image = np.random.default_rng(3).integers(0, 256, (1, 7, 7, 1), dtype=np.uint8)
    np.testing.assert_array_equal(resizing.resize(image, "none", 7), image)
    with pytest.raises(ValueError, match=r"7 pixels\. Without a resize, the side must be 299"):
        resizing.resize(image, "none", 299)


def test_the_three_differ_as_known():
    """TensorFlow 1's moves the image by half an input pixel less half an output pixel; the others do not."""
    step = np.zeros((1, 32, 32, 1), np.float32)
    step[:, :, 16:] = 1
    edge = lambda name: float((1 - resizing.resize(step, name, 299)[0, 0, :, 0]).sum())  # where the step is, in pixels
    middle = 16 * 299 / 32
    assert edge("bilinear_torch") == pytest.approx(middle, abs=1e-3)
    assert edge("bicubic_pil") == pytest.approx(middle, abs=1e-3)
    assert edge("bilinear_tf1") == pytest.approx(middle - 299 / 64 + 0.5, abs=0.02)  # to the samples of the slope
