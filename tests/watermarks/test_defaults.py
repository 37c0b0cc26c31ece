"""What the names of degradations say, and what watermarks take where nothing is said."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusion import schedules, watermarks
from diffusion.parameterizations import Prediction
from diffusion.watermarks import degradations

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


def test_the_inversion_makes_one_evaluation_a_step_where_nothing_is_said():
    denoise = lambda x, t: Prediction(0.5 * x, 0.1 * x)
    schedule, grid = schedules.variance_exploding(0.01, 1.0), np.linspace(1, 0.1, 5)
    x, keys = jnp.ones((1, 2, 2, 1)), jax.random.split(jax.random.key(0), 1)
    default = watermarks.initial_noise(denoise, schedule, x, grid, keys)
    stated = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=1)
    np.testing.assert_array_equal(default, stated)
    twice = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=2)
    assert np.abs(twice - stated).max() > 1e-6
