"""The autoencoder of HunyuanVideo 1.5 sees no later frame, so that a picture is a clip of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video_15 import AutoencoderKLHunyuanVideo15

SMALL = AutoencoderKLHunyuanVideo15((8, 16, 16), 1, 1, 4)


@pytest.mark.extended
def test_a_picture_has_the_first_latent_of_a_clip_and_comes_back_alone():
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.normal(size=(1, 3, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), clip))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), shapes)

    @jax.jit
    def coded(clip):
        latents, alone = (SMALL.apply(params, x, method="encode") for x in (clip, clip[:, :1]))
        z = jax.tree.leaves(latents)[0]
        frames, picture = (SMALL.apply(params, x, method="decode") for x in (z, z[:, :1]))
        return [*jax.tree.leaves(latents), frames], [*jax.tree.leaves(alone), picture]

    of_clip, of_picture = coded(clip)
    assert [a.shape for a in of_clip] == [(1, 2, 2, 2, 4)] * (len(of_clip) - 1) + [(1, 3, 8, 8, 3)]
    for many, one in zip(of_clip, of_picture, strict=True):
        assert np.std(one) > 0.01
        np.testing.assert_allclose(one, many[:, :1], rtol=0, atol=1e-5 * np.abs(many).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": ()}, "one or more positive widths"),
        ({"halvings": 3}, "no more halvings of time than of the sides"),
        ({"widths": (8, 16, 12)}, "12 must be a multiple of the 8 pixels of a box, and divide 4 x 16"),
        ({"widths": (8, 12, 16)}, "12 must be a multiple of the 4 pixels of a box, and divide 4 x 8"),
        ({"widths": (8, 64, 64)}, "64 must be a multiple of the 4 pixels of a box, and divide 4 x 8"),
        ({"latent_channels": 16}, "latent_channels=16: twice that must divide the last width, 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    """A fold has the pixels of its box in the channels; the means and copies around it are of whole channels."""
    assert (SMALL.factor, SMALL.time_factor) == (4, 2)
    with pytest.raises(ValueError, match=message):
        SMALL.clone(**fields)
