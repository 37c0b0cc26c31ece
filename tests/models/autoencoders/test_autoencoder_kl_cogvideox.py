"""CogVideoX's autoencoder: the statistics of its norms, what it refuses; its outputs: see tests of families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX, ChunkNorm


@pytest.mark.extended
def test_a_norm_has_the_statistics_of_one_chunk_the_first_of_which_has_one_frame_more():
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 2, 4)).astype(np.float32)
    x[:, 3:5] *= 5
    params = {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    normal = ChunkNorm(2, 2).apply({"params": params}, x)
    for frames in (slice(0, 3), slice(3, 5), slice(5, 7)):
        groups = x[:, frames].reshape(2, -1, 2, 2)
        expected = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
        np.testing.assert_allclose(normal[:, frames], expected.reshape(x[:, frames].shape), atol=1e-4)


def test_refusals_name_what_fits():
    autoencoder = AutoencoderKLCogVideoX()
    assert (autoencoder.factor, autoencoder.time_factor) == (8, 4)

    def call(method, *shape):
        called = lambda x: autoencoder.init_with_output(jax.random.key(0), x, method=method)
        jax.eval_shape(called, jnp.zeros((1, *shape)))

    with pytest.raises(
        ValueError, match=r"makes 2 frames of every 8 .* video of 5 frames does not fit. Valid: 1, 9, 17"
    ):
        call("encode", 5, 8, 8, 3)
    with pytest.raises(ValueError, match=r"latents of 1, 3, 5 .. frames; got 4"):
        call("decode", 4, 1, 1, 16)


@pytest.mark.extended
def test_later_chunks_have_two_frames_of_the_latent():
    """Without the first frame, so that a clip of three chunks has the shape that it has as a whole."""
    small = AutoencoderKLCogVideoX((2,), 1, 0, 2, groups=1)
    x, z = (jax.ShapeDtypeStruct((1, 7, 1, 1, channels), jnp.float32) for channels in (3, 2))
    params = jax.eval_shape(lambda: small.init(jax.random.key(0), jnp.zeros((1, 1, 1, 1, 3))))["params"]
    shape = lambda method, a: jax.eval_shape(lambda params, a: small.in_parts(small, params, method)(a), params, a)
    assert shape("encode", x).mean.shape == z.shape
    assert shape("decode", z).shape == x.shape
