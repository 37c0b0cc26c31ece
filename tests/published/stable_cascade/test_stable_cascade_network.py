"""The layers of Stable Cascade's network that are its own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.stable_cascade.network import StableCascade, resized, time_features
from tests.published.stable_cascade.facts import FINER, TINY


@pytest.mark.extended
@pytest.mark.parametrize("to", [(7, 2), (1, 5), (4, 3)])
def test_the_corners_stay_in_place_when_a_picture_is_resized(to):
    """A plane stays a plane: with aligned corners pixel i of m lies at i / (m - 1) of the side."""
    places = lambda number: np.arange(number) / max(number - 1, 1)
    plane = lambda height, width: 2 + 3 * places(height)[:, None] - 5 * places(width)
    x = np.float32(plane(4, 3))[None, ..., None]
    np.testing.assert_allclose(resized(jnp.asarray(x), *to)[0, ..., 0], plane(*to), atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
def test_the_sinusoids_of_a_time_have_ten_thousand_periods(size):
    """Sines first; a feature beyond an even number is 0."""
    t = np.array([0.0, 1e-3, 0.02])
    frequencies = 10_000 ** (-np.arange(3) / 2)
    angles = 10_000 * t[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles), np.zeros((3, size - 6))], axis=1)
    np.testing.assert_allclose(time_features(jnp.asarray(t, jnp.float32), size), expected, atol=5e-5)
    assert math.isclose(frequencies[-1], 1e-4)


@pytest.mark.extended
@pytest.mark.parametrize(
    "module, entry, shape, words",
    [
        (TINY, "text", (2, 5, 11), "'text' must have 3 axes, the first of 2 and the last of 12"),
        (TINY, "pooled", (2, 1, 10), "'pooled' must have 2 axes, the first of 2 and the last of 10"),
        (TINY, "image", (2, 5), "'image' must have 3 axes, the first of 2 and the last of 5"),
        (FINER, "coarse", (1, 3, 3, 3), "'coarse' must have 4 axes, the first of 2 and the last of 3"),
        (FINER, "x", (2, 2, 2, 4), "height 2 and width 2 must be at least 4, and multiples of patch=2"),
        (FINER, "x", (2, 7, 8, 4), "height 7 and width 8 must be at least 4, and multiples of patch=2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(module, entry, shape, words):
    shapes = {"pooled": (2, 10), "x": (2, 8, 8, 4)} | (
        {"text": (2, 5, 12)} if module is TINY else {"coarse": (2, 3, 3, 3)}
    )
    inputs = {name: jnp.zeros(side) for name, side in {**shapes, entry: shape}.items()}
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(module.init, jax.random.key(0), inputs.pop("x"), jnp.zeros(2), inputs)


@pytest.mark.extended
def test_the_tokens_of_a_condition_are_those_of_the_text_the_pooled_text_and_each_image():
    """With a dense layer of ones, a token is the sum of its features; without images there is one of zeros."""

    class Tokens(StableCascade):
        def _dense(self, features, name):
            return lambda x: jnp.repeat(x.sum(-1, keepdims=True), features, axis=-1) * jnp.arange(1, features + 1)

    module = Tokens(
        **{field: getattr(TINY, field) for field in ("condition_width", "tokens", "image_width")}, parent=None
    )
    ones = lambda *shape: jnp.ones(shape, jnp.float32)
    inputs = {"pooled": ones(1, 3), "text": ones(1, 2, 4), "image": jnp.array([[[1.0] * 5, [2.0] * 5]])}
    tokens = lambda inputs: np.asarray(module._tokens(inputs))
    assert tokens(inputs).shape == (1, 2 + 2 + 2 * 2, 12)
    without = tokens(inputs | {"image": None})
    assert without.shape == (1, 2 + 2 + 2, 12)
    np.testing.assert_array_equal(without[:, 4:], 0)
    np.testing.assert_array_equal(without, tokens(inputs | {"image": jnp.zeros((1, 1, 5))}))
