"""The causal autoencoder of videos: no frame sees a later one, and chunks and tiles give what the whole gives.

Its outputs are compared with diffusers' in tests/models/interchange/test_families.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders import causal_layers as layers, tiles
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.autoencoders.clip_parts import streamed

VAE = AutoencoderKLVideo(widths=(4, 4, 6), layers=1, temporal=(True, True), latent_channels=2)
SHAPE = (1, 13, 8, 12, 3)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: VAE.init(jax.random.key(0), jnp.zeros((1, 5, 4, 4, 3))))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def video():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, SHAPE), jnp.float32)


class Chain(nn.Module):
    """Every layer that looks along the frames."""

    @nn.compact
    def __call__(self, x):
        x = layers.HalveTime()(layers.CausalConv(2)(x))
        return layers.CausalConv(2)(layers.DoubleTime()(x))


def test_each_layer_along_the_frames_is_causal_and_goes_on_from_chunk_to_chunk():
    module = Chain()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 3, 3, 2)), jnp.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)

    @jax.jit
    def run(x):
        whole = lambda x: module.apply({"params": params}, x)
        stream, chunks = {}, []
        for start, stop in ((0, 1), (1, 3), (3, 7)):
            part, stream = module.apply({"params": params, **stream}, x[:, start:stop], mutable=["stream"])
            chunks.append(part)
        return whole(x), whole(x.at[:, 3:].multiply(-1)), jnp.concatenate(chunks, axis=1)

    found, later, chunks = run(x)
    assert found.shape == x.shape
    np.testing.assert_allclose(chunks, found, rtol=1e-5, atol=1e-4)
    changed = np.abs(later - found).reshape(7, -1).max(axis=1) > 1e-3  # frames 3 and 4 are made of 1 to 4 of the input
    np.testing.assert_array_equal(changed, [False] * 3 + [True] * 4)


def test_a_causal_convolution_is_that_of_volumes():
    """JAX's convolution of volumes, with two frames of zeros in front."""
    drawn = lambda *shape: jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    x, kernel = drawn(1, 3, 4, 5, 2), drawn(3, 3, 3, 2, 3)
    found = layers.CausalConv(3).apply({"params": {"kernel": kernel, "bias": jnp.arange(3.0)}}, x)
    padding, names = ((2, 0), (1, 1), (1, 1)), ("NDHWC", "DHWIO", "NDHWC")
    volumes = jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=names)
    np.testing.assert_allclose(found, volumes + jnp.arange(3.0), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_frames_see_no_later_frames_and_chunks_are_the_whole(params):
    """Whole, with other late frames, the first frame alone, and streams of 1 and 2 frames of the latent."""

    @jax.jit
    def run(x):
        call = lambda x, method: VAE.apply({"params": params}, x, method=method)
        moments = call(x, "encode")
        z = moments.mean
        later = x.at[:, 6:].multiply(-1)  # frames 5 to 8 make frame 2 of the latent
        streams = [(streamed(VAE, params, "encode", n)(x), streamed(VAE, params, "decode", n)(z)) for n in (1, 2)]
        changed = call(later, "encode").mean, call(z.at[:, 2:].multiply(-1), "decode")
        return moments, call(z, "decode"), changed, call(x[:, :1], "encode").mean, streams

    moments, decoded, (later, decoded_later), first, streams = run(video())
    z = moments.mean
    assert z.shape == (1, 4, 2, 3, 2) and decoded.shape == SHAPE
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    changes = lambda one, other: np.abs(one - other).reshape(one.shape[1], -1).max(axis=1) > 1e-3
    np.testing.assert_array_equal(changes(later, z), [False, False, True, True])
    np.testing.assert_array_equal(changes(decoded_later, decoded), [False] * 5 + [True] * 8)
    close(first, z[:, :1])
    for encoded, video_of in streams:
        jax.tree.map(close, encoded, moments)
        close(video_of, decoded)
    assert np.std(z) > 0.05 and np.std(decoded) > 0.05


@pytest.mark.slow
def test_a_stream_goes_on_where_it_stopped_and_keeps_two_frames_a_layer(params):
    """Memory does not grow with the chunks that were coded."""
    call = lambda stream, x: VAE.apply({"params": params, **stream}, x, method="encode", mutable=["stream"])
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    _, one = jax.eval_shape(call, {}, jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32))
    made, two = jax.eval_shape(call, one, jax.ShapeDtypeStruct((1, 8, 8, 8, 3), jnp.float32))
    assert shapes(one) == shapes(two) and made.mean.shape == (1, 2, 2, 2, 2)
    assert {shape[1] for shape in jax.tree.leaves(shapes(one), is_leaf=lambda leaf: isinstance(leaf, tuple))} == {1, 2}
    with pytest.raises(
        ValueError, match=r"5 frames does not fit\. Valid: a multiple of 4 for a later chunk of a stream"
    ):
        jax.eval_shape(call, one, jax.ShapeDtypeStruct((1, 5, 8, 8, 3), jnp.float32))


@pytest.mark.slow
def test_tiles_of_frames_are_the_whole_where_no_attention_joins_pixels(params):
    """The attention of the middle silent, the decoder is local: its tiles, by chunks, are the whole."""
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "project" in jax.tree_util.keystr(path) else leaf, params
    )
    z = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 40, 3, 2)), jnp.float32)
    whole = lambda z: VAE.apply({"params": silent}, z, method="decode")
    parts = tiles.tiled(streamed(VAE, silent, "decode"), tile=32, overlap=16, margin=7)
    one, other = jax.jit(lambda z: (whole(z), parts(z)))(z)
    assert one.shape == (1, 5, 160, 12, 3)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())


@pytest.mark.extended
def test_halving_begins_as_a_mean_and_doubling_as_a_repetition():
    x = jnp.arange(3.0).reshape(1, 3, 1, 1, 1)
    half, _ = layers.HalveTime().init_with_output(jax.random.key(0), x)
    twice, _ = layers.DoubleTime().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(half.ravel(), [0, 1.5])
    np.testing.assert_allclose(twice.ravel(), [0, 1, 1, 2, 2])


def test_bad_fields_and_videos_are_refused():
    for options, message in (
        ({"widths": ()}, "at least one level"),
        ({"widths": (4, 3, 6)}, "half of the channels leave where the sides double"),
        ({"temporal": (True,)}, r"for each of the 2 halvings"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"attention": "flash"}, "attention='flash'"),
    ):
        with pytest.raises(ValueError, match=message):
            VAE.clone(**options)
    call = lambda shape, method: jax.eval_shape(
        lambda x: VAE.init_with_output(jax.random.key(0), x, method=method)[0], jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    for shape, method, message in (
        ((1, 8, 8, 3), "encode", r"takes videos \[B, F, H, W, 3\]; got .*\(1, 8, 8, 3\)"),
        ((1, 4, 8, 8, 3), "encode", r"a video of 4 frames does not fit. Valid: 1, 5, 9"),
        ((1, 5, 8, 6, 3), "encode", "4 does not divide 8 x 6; the nearest valid size is 8 x 8"),
        ((1, 2, 2, 2, 3), "decode", r"decodes latents \[B, F, h, w, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call(shape, method)
    for method, chunk, message in (("encod", 1, "method='encod'"), ("encode", 0, "chunk=0")):
        with pytest.raises(ValueError, match=message):
            streamed(VAE, {}, method, chunk)
