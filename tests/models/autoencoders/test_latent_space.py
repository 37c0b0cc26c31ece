"""Between an autoencoder and a diffusion model: draws, scales and shifts, estimates, ranges of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders import latent_space


def test_draws_have_the_moments_and_belong_to_their_example():
    mean = np.stack([np.full((32, 32, 2), -3.0), np.full((32, 32, 2), 5.0)]).astype(np.float32)
    moments = latent_space.Moments(mean, np.log(np.abs(mean)))  # variances 3 and 5
    keys = jax.random.split(jax.random.key(0), 2)
    alone = jax.tree.map(lambda a: a[1:], moments)
    drawn, alone = jax.jit(lambda: (latent_space.draw(moments, keys), latent_space.draw(alone, keys[1:])))()
    assert drawn.shape == mean.shape
    for one, expected in zip(np.asarray(drawn, np.float64), (-3.0, 5.0)):
        error = 5 * np.sqrt(abs(expected) / one.size)
        assert abs(one.mean() - expected) < error and abs(one.var() / abs(expected) - 1) < 5 * np.sqrt(2 / one.size)
    np.testing.assert_allclose(drawn[1:], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"one key for each example, \[B\] = \(2,\); got keys of shape \(1,\)"):
        latent_space.draw(moments, keys[:1])


def test_published_scales():
    flux, each = (0.3611, 0.1159), ((2.0, 3.0), (0.1159, 0.5))

    @jax.jit
    def run(z):
        there = [latent_space.to_diffusion(z, *scaling) for scaling in (flux, each)]
        return there, [latent_space.from_diffusion(w, *scaling) for w, scaling in zip(there, (flux, each))]

    z = np.array([[0.1159, 1.0]], np.float32)
    (one, other), back = run(z)
    np.testing.assert_allclose(one, [[0, 0.3611 * 0.8841]], atol=1e-7)
    np.testing.assert_allclose(other, [[0, 1.5]], atol=1e-7)
    for again in back:
        np.testing.assert_allclose(again, z, rtol=1e-6)
    half = jax.ShapeDtypeStruct((1, 2), jnp.bfloat16)
    assert jax.eval_shape(lambda z: latent_space.to_diffusion(z, *each), half).dtype == jnp.bfloat16


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_estimate_is_that_of_the_whole_stream(per_channel):
    rng = np.random.default_rng(0)
    # Far from zero, where sums of squares in float32 have no digits left, and in batches of unequal size.
    spread = np.array([1.0, 3.0], np.float32)
    batches = [rng.normal(4000, spread, (size, 4, 4, 2)).astype(np.float32) for size in (1, 7, 3)]
    batches.insert(1, np.zeros((0, 4, 4, 2), np.float32))
    whole = np.concatenate(batches).astype(np.float64)
    scale, shift = latent_space.estimate(iter(batches), per_channel)
    over = (0, 1, 2) if per_channel else None
    np.testing.assert_allclose(shift, whole.mean(over), rtol=1e-12)
    np.testing.assert_allclose(scale, 1 / whole.std(over), rtol=1e-9)
    assert isinstance(scale, tuple if per_channel else float) and isinstance(shift, type(scale))


def test_streams_without_a_scale_are_refused():
    for stream, message in (
        ([], "the stream was empty"),
        ([np.ones((2, 2, 2, 1))], "must be finite and positive"),
        ([np.array([[[[np.nan], [1.0]]]])], "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            latent_space.estimate(stream)


def test_ranges_of_pixels():
    x = np.array([-1.0, 0.0, 1.0], np.float32)
    for ends, expected in (((0.0, 1.0), [0, 0.5, 1]), ((-2.0, 6.0), [-2, 2, 6])):
        np.testing.assert_allclose(latent_space.to_range(x, ends), expected)
        np.testing.assert_allclose(latent_space.from_range(np.array(expected, np.float32), ends), x)
    assert latent_space.to_range(x, (-1.0, 1.0)) is x
