"""What the names of degradations say, and what watermarks take where nothing is said."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import schedules, watermarks
from diffusion.parameterizations import Prediction
from diffusion.sampling.watermarks import degradations, keyed

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
PICTURES[:, 8:24] = 128


def test_each_degradation_is_what_its_name_says():
    assert set(degradations.DEGRADATIONS) == {
        "none", "jpeg 50", "jpeg 25", "resize 0.5", "crop 0.75", "noise 0.1", "blur 1"}  # fmt: skip
    for name, change in degradations.DEGRADATIONS.items():
        kind, _, number = name.partition(" ")
        expected = {
            "none": lambda pictures, number: pictures,
            "jpeg": lambda pictures, number: degradations.jpeg(pictures, int(number)),
            "resize": lambda pictures, number: degradations.resized(pictures, float(number)),
            "crop": lambda pictures, number: degradations.cropped(pictures, float(number)),
            "noise": lambda pictures, number: degradations.noisy(pictures, float(number)),
            "blur": lambda pictures, number: degradations.blurred(pictures, float(number)),
        }[kind](PICTURES, number)
        np.testing.assert_array_equal(change(PICTURES), expected)


def test_degradations_are_pillows_and_their_numbers_count():
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "JPEG", quality=40)
    np.testing.assert_array_equal(degradations.jpeg(PICTURES[:1], 40)[0], np.asarray(Image.open(file)))
    small = Image.fromarray(PICTURES[0]).resize((12, 16), Image.Resampling.BICUBIC)
    back = np.asarray(small.resize((24, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(degradations.resized(PICTURES[:1], 0.5)[0], back)
    cut = Image.fromarray(PICTURES[0]).crop((3, 4, 21, 28)).resize((24, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(degradations.cropped(PICTURES[:1], 0.75)[0], np.asarray(cut))
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    noise = degradations.noisy(grey, 0.1).astype(float) - 128
    assert abs(noise.std() / 25.5 - 1) < 0.02 and abs(noise.mean()) < 1
    point = np.zeros((1, 9, 9, 1), np.uint8)
    point[0, 4, 4] = 255
    assert degradations.blurred(point, 1.0)[0, 4, 4, 0] == round(255 / (2 * np.pi))  # a Gaussian of deviation 1


def test_a_watermark_of_one_bit_and_of_one_nonce_is_read():
    key = "ab" * 32
    mark = watermarks.gaussian_shading(key, bits=1, nonces=1)
    noise = mark.embed(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jax.random.split(jax.random.key(1), 2))
    np.testing.assert_array_equal(mark.read(np.asarray(noise)).bits, np.tile(mark.message, (2, 1)))


def test_gaussian_shading_has_64_bits_and_64_streams_where_nothing_is_said():
    """The p-value of any noise counts the streams."""
    key, noise = "ab" * 32, np.random.default_rng(0).standard_normal((3, 16, 16, 1))
    default, stated = watermarks.gaussian_shading(key), watermarks.gaussian_shading(key, bits=64, nonces=64)
    np.testing.assert_array_equal(default.read(noise).p_value, stated.read(noise).p_value)
    np.testing.assert_array_equal(default.message, stated.message)
    assert len(default.message) == 64


def test_the_inversion_makes_one_evaluation_a_step_where_nothing_is_said():
    denoise = lambda x, t: Prediction(0.5 * x, 0.1 * x)
    schedule, grid = schedules.variance_exploding(0.01, 1.0), np.linspace(1, 0.1, 5)
    x, keys = jnp.ones((1, 2, 2, 1)), jax.random.split(jax.random.key(0), 1)
    default = watermarks.initial_noise(denoise, schedule, x, grid, keys)
    stated = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=1)
    np.testing.assert_array_equal(default, stated)
    twice = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=2)
    assert np.abs(twice - stated).max() > 1e-6


def test_the_rings_of_tree_ring_are_ten_of_sixty_four():
    """By the paper, in the last channel: the values of a ring count up to 80 of 512 as well."""
    key = "0123456789abcdef" * 4
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((1, 512, 512, 2)), jnp.float32)
    marked, said = (
        mark.embed(noise, None) for mark in (watermarks.tree_ring(key), watermarks.tree_ring(key, 0.15625, 1))
    )
    np.testing.assert_array_equal(marked, said)
    rows, columns = np.meshgrid(*[np.fft.fftfreq(512, 1 / 512)] * 2, indexing="ij")
    changed = np.abs(np.fft.fft2(np.asarray(marked - noise)[0, ..., 1], norm="ortho")) > 1e-3
    assert np.hypot(rows, columns)[changed].max() == 80


def test_numbers_of_a_key_lie_in_the_middle_of_their_cells(monkeypatch):
    """Words and their complements have opposite normals, at both ends of the range as well."""
    words = np.array([0, 1, 2**31, 12345], "<u4")
    normals = []
    for said in (words, ~words):
        monkeypatch.setattr(keyed, "_bytes", lambda key, purpose, number, said=said: said.view(np.uint8))
        normals.append(keyed.normals("", "", len(words)))
    np.testing.assert_allclose(normals[0], -normals[1], rtol=1e-9, atol=1e-12)
    assert normals[0][0] < -6


def test_equal_numbers_of_a_key_keep_their_order(monkeypatch):
    """On every machine: sorts that are not stable differ from one processor to another."""
    numbers = np.arange(1000) * 7 % 4 / 4
    monkeypatch.setattr(keyed, "_uniforms", lambda *_: numbers)
    assert keyed.order("", "", 1000).tolist() == sorted(range(1000), key=lambda i: (numbers[i], i))


def test_a_watermark_is_the_same_in_whatever_order_its_file_names_its_arguments():
    entry = {"name": "tree_ring", "key": "0123456789abcdef" * 4, "radius": 0.2}
    marks = [watermarks.from_entry(dict(order)) for order in (entry.items(), reversed(entry.items()))]
    assert marks[0].identity == marks[1].identity
    assert watermarks.from_entry(entry | {"radius": 0.25}).identity != marks[0].identity


def test_white_pictures_stay_white_beside_a_watermark():
    """Beyond 255 a pixel is cut off: as a byte it would begin again at 0."""
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    marked = watermarks.spread_spectrum("0123456789abcdef" * 4, bits=8).embed(white, None)
    assert marked.min() > 128 and marked.max() == 255


def test_the_strength_of_a_spectrum_goes_up_to_all_of_a_byte():
    key = "0123456789abcdef" * 4
    watermarks.spread_spectrum(key, bits=8, strength=255)
    for wrong in (0, 255.5, True):
        with pytest.raises(ValueError, match="strength"):
            watermarks.spread_spectrum(key, bits=8, strength=wrong)


def test_a_channel_beyond_the_last_one_is_refused():
    for channel in (2, -3):
        with pytest.raises(ValueError, match=f"has no channel = {channel}"):
            watermarks.tree_ring("0123456789abcdef" * 4, channel=channel).embed(jnp.zeros((1, 64, 64, 2)), None)


def test_noise_of_a_degradation_has_its_share_of_the_range():
    """On grey, where nothing is cut off: a tenth of 255, to the error of a deviation and of whole numbers."""
    grey = np.full((1, 512, 512, 3), 128, np.uint8)
    spread = (degradations.noisy(grey, 0.1).astype(float) - 128).std()
    assert np.sqrt(spread**2 - 1 / 12) == pytest.approx(25.5, rel=2.5e-3)


def test_pictures_of_a_batch_are_blurred_apart():
    both = degradations.blurred(PICTURES, 1.0)
    for picture, blurry in zip(PICTURES, both):
        np.testing.assert_array_equal(degradations.blurred(picture[None], 1.0)[0], blurry)


def test_a_crop_leaves_as_much_out_on_either_side():
    """1.5 pixels of 5 are rounded to 2 on each: the middle one is left."""
    picture = np.arange(25, dtype=np.uint8).reshape(1, 5, 5, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(degradations.cropped(picture, 0.4), np.full((1, 5, 5, 3), 12))
