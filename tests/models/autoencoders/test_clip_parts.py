"""Clips in parts: those of a stream are the whole, blended ones are weighted means of parts coded alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders import clip_parts
from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.budget import peak_memory

COGVIDEOX = AutoencoderKLCogVideoX((4, 4, 4), 1, 2, 2, 3, 2)
LTX = AutoencoderKLLTX(
    widths=(4, 4, 8, 8, 8),
    layers=(1, 0, 0, 0, 0),
    halve=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    decoder_widths=(8, 16, 32),
    decoder_layers=(1, 0, 1, 0),
    double=(True,) * 3,
    narrowing=(2,) * 3,
    residual=(True,) * 3,
    noise=(False,) * 4,
    timed=True,
    latent_channels=2,
)
LTX_0_9_0 = AutoencoderKLLTX(
    widths=(4, 4, 8),
    layers=(0, 1, 0),
    halve=("conv", "conv"),
    decoder_widths=(8, 8),
    decoder_layers=(1, 1, 0),
    double=(True,) * 2,
    narrowing=(1,) * 2,
    residual=(False,) * 2,
    noise=(True,) * 3,
    timed=False,
    latent_channels=2,
)
LTX_BY_AXES = LTX.clone(timed=False, doubling=("spatial", "temporal", "spatiotemporal"),
                        halve=("spatial", "temporal", "spatiotemporal", ""), residual=(True, False, True))  # fmt: skip
HUNYUAN = AutoencoderKLHunyuanVideo((4, 4, 4), 1, 2, 2, 3, 2)


def params_of(vae):
    one = jnp.zeros((1, 1, vae.factor, vae.factor, 3))
    shapes = jax.eval_shape(lambda: vae.init(jax.random.key(0), one))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), shapes)


def clip(vae, method, groups):
    """Of one frame and so many groups."""
    sizes = (1 + groups * vae.time_factor, vae.factor, 2 * vae.factor, 3) if method == "encode" else None
    sizes = sizes or (1 + groups, 1, 2, vae.latent_channels)
    return jnp.asarray(np.random.default_rng(1).normal(size=(1, *sizes)), jnp.float32)


SLOW = pytest.mark.slow


@pytest.mark.extended
@pytest.mark.parametrize(
    "vae, method, groups, chunks",
    [
        pytest.param(COGVIDEOX, "encode", 6, (None,), marks=SLOW, id="CogVideoX encodes"),
        pytest.param(COGVIDEOX, "decode", 8, (None, 4), marks=SLOW, id="CogVideoX decodes"),
        pytest.param(LTX, "encode", 4, (1, 3), marks=SLOW, id="LTX encodes"),
        pytest.param(LTX, "decode", 8, (1, 3), marks=SLOW, id="LTX decodes"),
        pytest.param(LTX_BY_AXES, "decode", 8, (1, 3), id="LTX by axes decodes"),
        pytest.param(LTX_0_9_0, "encode", 3, (1,), marks=SLOW, id="LTX 0.9.0 encodes"),
        pytest.param(LTX_0_9_0, "decode", 8, (1,), id="LTX 0.9.0 decodes"),
    ],
)
def test_a_clip_in_chunks_is_the_whole(vae, method, groups, chunks):
    params, x = params_of(vae), clip(vae, method, groups)
    assert method == "encode" or not hasattr(vae, "lag") or 1 + groups * vae.time_factor > vae.lag

    @jax.jit
    def run(x):
        how = [() if chunk is None else (chunk,) for chunk in chunks]
        return vae.apply({"params": params}, x, method=method), [
            vae.in_parts(vae, params, method, *chunk)(x) for chunk in how
        ]

    whole, parts = run(x)
    for part in parts:
        for one, other in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            assert np.std(other) > 0.01
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.extended
def test_a_blended_clip_is_parts_of_five_frames_whose_first_group_turns_into_that_of_the_part_before():
    """By hand, with an autoencoder that repeats frames and adds the number of those that it sees."""

    class Counts:
        time_factor = 2
        apply = staticmethod(lambda variables, z, method: jnp.repeat(z, 2, axis=1)[:, 1:] + 100.0 * z.shape[1])

    def by_hand(z):
        count = len(z) - 1
        tiles = []
        for start in range(0, count, 3):
            part = z[start : start + 5]
            made = np.repeat(part, 2)[1:] + 100.0 * len(part)
            tiles.append(made[1:] if start else made)
        out = [tiles[0][:7]]
        for before, tile in itertools.pairwise(tiles):
            last, tile = before[-2:], tile.copy()
            tile[:2] = [last[0], 0.5 * (last[1] + tile[1])]
            out.append(tile[:6])
        return np.concatenate(out)[: 1 + 2 * count]

    for frames in (5, 7, 9, 12):
        z = np.arange(frames, dtype=np.float32) ** 2
        found = clip_parts.blended(Counts, {}, "decode")(jnp.asarray(z)[None, :, None, None, None])
        np.testing.assert_allclose(found.reshape(-1), by_hand(z), err_msg=str(frames))
    z = jnp.arange(4.0)[None, :, None, None, None]
    np.testing.assert_array_equal(clip_parts.blended(Counts, {}, "decode")(z), Counts.apply({}, z, "decode"))


@pytest.mark.extended
@pytest.mark.parametrize(
    "vae",
    [
        pytest.param(COGVIDEOX, marks=SLOW, id="CogVideoX"),
        pytest.param(LTX, id="LTX"),
        pytest.param(HUNYUAN, marks=SLOW, id="HunyuanVideo"),
    ],
)
def test_the_memory_of_parts_grows_with_the_clip_alone(vae):
    """From 40 to 80 groups: by the clip, a few times; whole, by more, here of few channels by twice as much."""
    params = jax.eval_shape(lambda: params_of(vae))

    def peak(decode, groups):
        z = jax.ShapeDtypeStruct(clip(vae, "decode", groups).shape, jnp.float32)
        return peak_memory.peak(jax.make_jaxpr(decode)(params, z).jaxpr)

    parts = lambda params, z: vae.in_parts(vae, params, "decode")(z)
    whole = lambda params, z: vae.apply({"params": params}, z, method="decode")
    grown = peak(parts, 80) - peak(parts, 40)
    own = 40 * (vae.time_factor * 2 * vae.factor**2 * 3 + 2 * vae.latent_channels) * 4
    assert grown <= 5 * own
    assert peak(whole, 80) - peak(whole, 40) > 1.9 * grown


def test_refusals_name_the_chunk():
    with pytest.raises(ValueError, match="chunk=3 must be 1 or more frames of the latent, a multiple of 2"):
        clip_parts.streamed(COGVIDEOX, {}, "decode", 3)
    with pytest.raises(ValueError, match="chunk=0 must be 1 or more frames of the latent"):
        clip_parts.lagging(LTX, {}, "decode", 0)
    with pytest.raises(ValueError, match="method='code' is not known"):
        clip_parts.blended(HUNYUAN, {}, "code")
