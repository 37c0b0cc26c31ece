"""Decoding, augmentation and the change of range of one image."""

import io
import math
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion.data import transforms

BYTES = np.arange(256, dtype=np.uint8)


@pytest.fixture
def image():
    """A 5x7 image of 105 different values, so that every pixel can be recognised."""
    return np.random.default_rng(0).permutation(256)[:105].astype(np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_round_trip_is_exact_for_every_value(array, wrap):
    x = wrap(transforms.to_model)(array(BYTES))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(wrap(transforms.to_uint8)(x), BYTES)


def test_to_model_is_affine_onto_the_interval():
    x = transforms.to_model(BYTES)
    exact = [float(Fraction(v * 2, 255) - 1) for v in range(256)]
    np.testing.assert_allclose(x, exact, atol=2**-23)
    assert x[0] == -1 and x[-1] == 1
    assert isinstance(x, np.ndarray)


def test_to_uint8_is_the_floor_of_the_published_formula():
    x = np.linspace(-1.3, 1.3, 2001, dtype=np.float32)
    exact = [min(255, max(0, math.floor(Fraction(float(v)) * Fraction(255, 2) + 128))) for v in x]
    got = transforms.to_uint8(x)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, exact)


def test_to_model_refuses_other_types():
    with pytest.raises(TypeError, match="float32"):
        transforms.to_model(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decode_returns_the_encoded_pixels(channels):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, format="png")
    got = transforms.decode(buffer.getvalue(), (5, 7, channels))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, pixels)


def test_decode_converts_grey_to_colour_and_reads_jpeg():
    grey = np.full((8, 8), 77, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="jpeg")
    got = transforms.decode(buffer.getvalue(), (8, 8, 3))
    assert got.shape == (8, 8, 3)
    np.testing.assert_allclose(got.astype(int), 77, atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_more_than_eight_bits_is_refused(channels):
    """All but the least 256 of its 65,536 values became white."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(buffer, "PNG")
    with pytest.raises(ValueError, match=r"its image has more than 8 bits a value \(I;16\); save it with 8 bits"):
        transforms.decode(buffer.getvalue(), (8, 8, channels))


def test_decode_refuses_a_truncated_image():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format="png")
    with pytest.raises(OSError):
        transforms.decode(buffer.getvalue()[:500], (32, 32, 3))


def test_flip_mirrors_half_of_the_time(image):
    function = transforms.flip()
    mirrored = image[:, [6, 5, 4, 3, 2, 1, 0]]
    flips = 0
    for seed in range(400):
        got = function(np.random.default_rng(seed), image)
        flipped = np.array_equal(got, mirrored)
        assert flipped or np.array_equal(got, image)
        flips += flipped
    assert abs(flips - 200) < 4 * math.sqrt(100)  # four standard deviations of Binomial(400, 1/2)


def test_crop_draws_every_window_of_the_reflected_image_equally(image):
    padding = 2
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 5, left : left + 7].tobytes(): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    assert len(windows) == 25
    function = transforms.crop(padding)
    draws = 2500
    counts = Counter(windows[function(np.random.default_rng(seed), image).tobytes()] for seed in range(draws))
    assert len(counts) == 25
    chi2 = sum((count - draws / 25) ** 2 / (draws / 25) for count in counts.values())
    assert chi2 < 60  # 24 degrees of freedom: exceeded with probability 6e-5


@pytest.mark.parametrize("augmentation", [transforms.flip(), transforms.crop(2)])
def test_all_frames_of_a_clip_move_as_one_picture_does(augmentation):
    """With the same draws, frame by frame; both for one clip and for a batch."""
    clips = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 7, 3), np.uint8)
    for seed, clip in enumerate(clips):
        frames = [augmentation(np.random.default_rng(seed), frame) for frame in clip]
        np.testing.assert_array_equal(augmentation(np.random.default_rng(seed), clip), frames)
    several = augmentation.of_batch(map(np.random.default_rng, range(6)), clips)
    alone = [augmentation(np.random.default_rng(seed), clip) for seed, clip in enumerate(clips)]
    np.testing.assert_array_equal(several, alone)
    with pytest.raises(ValueError, match=r"has the shape \[5, 3\]\. Valid: pictures \[H, W, C\] and clips"):
        augmentation(np.random.default_rng(0), np.zeros((5, 3), np.float32))


def test_crop_refuses_a_padding_that_cannot_be_reflected(image):
    with pytest.raises(ValueError, match=r"padding 5 .* 5x7 .* 1\.\.4"):
        transforms.crop(5)(np.random.default_rng(0), image)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        transforms.crop(0)
    widest = transforms.crop(4)(np.random.default_rng(0), image)
    assert widest.shape == image.shape


@pytest.mark.parametrize("name", sorted(transforms.AUGMENTATIONS))
def test_augmentations_keep_shape_and_type_and_leave_the_input_alone(name, image):
    before = image.copy()
    for seed in range(20):
        got = transforms.AUGMENTATIONS[name]()(np.random.default_rng(seed), image)
        assert got.shape == image.shape and got.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def encoded(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def test_images_of_any_size_become_squares_of_their_middle():
    columns = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (20, 60, 3))
    square = transforms.decode_square(encoded(np.ascontiguousarray(columns)), 10, 3, 10**6)
    assert square.shape == (10, 10, 3) and square.dtype == np.uint8
    # Halved by means of two columns; then the middle ten of thirty.
    np.testing.assert_array_equal(square[3, :, 1], 4 * (2 * np.arange(10, 20)) + 2)
    np.testing.assert_array_equal(square, np.broadcast_to(square[:1], square.shape))
    upright = transforms.decode_square(encoded(np.ascontiguousarray(columns.transpose(1, 0, 2))), 10, 3, 10**6)
    np.testing.assert_array_equal(upright, square.transpose(1, 0, 2))
    assert transforms.decode_square(encoded(columns[..., 0].copy()), 13, 1, 10**6).shape == (13, 13, 1)
    noise = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)  # twice the side: means of 2 x 2 pixels
    means = noise.reshape(10, 2, 10, 2, 3).mean((1, 3))
    assert np.abs(transforms.decode_square(encoded(noise), 10, 3, 10**6) - means).max() <= 1
    exact = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    np.testing.assert_array_equal(transforms.decode_square(encoded(exact), 10, 3, 10**6), exact)
    with pytest.raises(ValueError, match="its image has 20 x 60 pixels, more than the limit of 3,599 bytes"):
        transforms.decode_square(encoded(np.ascontiguousarray(columns)), 10, 3, 3599)
