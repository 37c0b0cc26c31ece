"""LTX-Video's autoencoder: what its noise is, what it refuses; its outputs are compared in the tests of families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX, ResidualBlock
from tests import numpy_programs


@pytest.mark.extended
def test_noise_is_one_picture_for_all_frames_times_a_scale_of_each_channel():
    block = ResidualBlock(3, False, noise=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    sizes = jnp.array([0.5, -1.0, 2.0])
    params["noise_2"] = sizes
    np.testing.assert_array_equal(block.apply({"params": params}, x), x)
    added = (block.apply({"params": params}, x, rngs={"noise": jax.random.key(1)}) - x) / sizes
    np.testing.assert_allclose(added, np.broadcast_to(added[:1, :1, ..., :1], x.shape), atol=1e-5)
    assert 0.8 < added[0, 0, ..., 0].std() < 1.2


def test_the_time_of_a_decoder_is_multiplied_by_its_files_number():
    """Twice the number and half of the time are the same."""
    decoder = AutoencoderKLLTX((4, 4), (0, 0), ("",), (4,), (1, 0), (False,), (1,), (False,), (False,) * 2, timed=True,
                               latent_channels=2, patch=1)  # fmt: skip
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, 1, 2, 2, 2)).astype(np.float32)
    shapes = jax.eval_shape(lambda z: decoder.init(jax.random.key(0), z, method="decode"), z)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def decode(params, z, clock, t):
        own = params["decoder"] | {"clock": clock}
        return decoder.apply({"params": {"decoder": own}}, z, t, method="decode")

    times = np.array([[500, 0.5], [1000, 0.25], [1000, 0.5]], np.float32)
    run = lambda params, z, times: [decode(params, z, clock, t) for clock, t in times]
    once, same, other = numpy_programs.outputs(run, params, z, times)
    np.testing.assert_allclose(once, same, rtol=1e-5, atol=1e-6)
    assert np.abs(once - other).max() > 1e-3


def test_refusals_name_what_fits():
    autoencoder = AutoencoderKLLTX()
    assert (autoencoder.factor, autoencoder.time_factor) == (32, 8)
    encode = lambda *shape: jax.eval_shape(
        lambda x: autoencoder.init_with_output(jax.random.key(0), x, method="encode"), jnp.zeros((1, *shape, 3))
    )
    with pytest.raises(ValueError, match=r"8 frames does not fit. Valid: 1, 9, 17"):
        encode(8, 32, 32)
    with pytest.raises(ValueError, match=r"32 does not divide 32 x 40; the nearest valid size is 32 x 32"):
        encode(9, 32, 40)
    with pytest.raises(ValueError, match="decoder receives no time"):
        jax.eval_shape(
            lambda z: autoencoder.init_with_output(jax.random.key(0), z, 0.1, method="decode"),
            jnp.zeros((1, 1, 1, 1, 128)),
        )
    with pytest.raises(ValueError, match="level 0 divides 128 channels by narrowing=2"):
        halves = {"double": (True, True), "narrowing": (2, 2), "residual": (False, False), "noise": (False,) * 3}
        AutoencoderKLLTX(decoder_widths=(512, 256), decoder_layers=(1, 1, 1), **halves)
