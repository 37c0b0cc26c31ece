"""Tiles: a function of the whole picture and the same function tile by tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders import tiles


def picture(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def convolution(stride):
    """3 x 3, with zeros around the picture."""
    kernel = picture(3, 3, 2, 3)
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lambda x: jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), None, None, dimensions)


def enlarged(x):
    """Twice the sides: a function of single pixels."""
    return jnp.exp(x.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("step", [1, 4])
def test_tiles_cover_every_side_and_their_weights_sum_to_one(step):
    for tile, overlap, margin in ((8, 2, 0), (8, 4, 1), (12, 4, 1), (5, 0, 0)):
        for side in range(1, 60):
            one = tiles.cut(step * side, step * tile, step * overlap, step)
            assert (one.starts % step == 0).all() and one.starts[0] == 0 and one.starts[-1] + one.size == step * side
            assert (np.diff(one.starts) <= one.size - step * overlap).all() and (np.diff(one.starts) > 0).all()
            assert len(one.starts) == max(1, -(-(side - overlap) // (tile - overlap)))  # no more than are needed
            ramps = tiles.weights(one.size, one.starts, step * side, step * overlap, step * margin)
            total = np.zeros(step * side)
            for start, ramp in zip(one.starts, ramps):
                total[start : start + one.size] += ramp
            np.testing.assert_allclose(total, 1, atol=1e-6)
            assert ramps.min() >= 0
            if margin and len(one.starts) > 1:
                assert not ramps[1:, : step * margin].any() and not ramps[:-1, -step * margin :].any()
                assert ramps[0, 0] == ramps[-1, -1] == 1  # the picture's own edges are no tile's


def test_the_overlap_of_two_tiles_is_blended_linearly():
    ramps = tiles.weights(8, np.array([0, 4]), 12, overlap=4, margin=0)
    np.testing.assert_allclose(ramps[0], [1, 1, 1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8], atol=1e-7)
    np.testing.assert_allclose(ramps[1], ramps[0][::-1], atol=1e-7)


def test_tiles_that_overlap_by_more_are_blended_behind_the_margin():
    """Six pixels of two tiles, for an overlap of at least four: ramps 0, 1/4, 3/4, 1, divided by their sum."""
    left, right = tiles.weights(8, np.array([0, 2]), 10, overlap=4, margin=1)
    ramp = np.array([0, 1 / 4, 3 / 4, 1, 1, 1])
    np.testing.assert_allclose(right, [*ramp / (ramp + ramp[::-1]), 1, 1], rtol=1e-6)
    np.testing.assert_allclose(left, right[::-1], rtol=1e-6)


def test_local_functions_come_out_exactly():
    half = convolution(2)
    twice = lambda x: (enlarged(x), -enlarged(x))
    exact = {
        "enlarged": (enlarged, {"tile": 6, "overlap": 2}),
        "two outputs, tiles that do not overlap": (twice, {"tile": 9, "overlap": 0}),
        "convolution": (convolution(1), {"tile": 8, "overlap": 3, "margin": 1}),
        "halved": (half, {"tile": 16, "overlap": 6, "margin": 2, "step": 2}),
    }

    @jax.jit
    def run(x):
        pairs = {name: (tiles.tiled(one, **options)(x), one(x)) for name, (one, options) in exact.items()}
        return pairs, tiles.tiled(half, tile=16, overlap=6, step=2)(x) - half(x)

    pairs, error = run(picture(2, 26, 20, 2))
    for found, expected in pairs.values():
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert np.abs(error).max() > 0.1  # without a margin the zeros at the edge of a tile are seen


def test_a_picture_that_fits_one_tile_is_computed_in_one_call():
    seen = []
    whole = tiles.tiled(lambda x: seen.append(x) or enlarged(x), tile=16, overlap=4)
    x = jax.ShapeDtypeStruct((1, 16, 9, 1), jnp.float32)
    assert jax.eval_shape(whole, x).shape == (1, 32, 18, 1)
    assert len(seen) == 1 and seen[0].shape == x.shape


def test_memory_is_that_of_one_tile():
    kernels = jnp.ones((3, 3, 2, 16)), jnp.ones((3, 3, 16, 2))

    def function(x):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x

    def temporary(function, side):
        x = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
        return jax.jit(function).lower(x).compile().memory_analysis().temp_size_in_bytes

    tiled = tiles.tiled(function, tile=16, overlap=4)
    small = temporary(tiled, 64)
    large = temporary(tiled, 256)
    assert large < 1.1 * small < 0.1 * temporary(function, 256)


def test_bad_sizes_are_refused():
    for options, message in (
        ({"tile": 8, "overlap": 5}, "tile=8, overlap=5, margin=0: the overlap may be at most half"),
        ({"tile": 8, "overlap": 4, "margin": 2}, "margin must be less than half of the overlap"),
        ({"tile": 12, "overlap": 4, "step": 8}, "step=8 does not divide each of .*12"),
    ):
        with pytest.raises(ValueError, match=message):
            tiles.tiled(enlarged, **options)
    with pytest.raises(ValueError, match=r"whose sides must be multiples of step=4; got \(1, 18, 16, 1"):
        tiles.tiled(convolution(4), tile=8, overlap=4, step=4)(picture(1, 18, 16, 1))
    with pytest.raises(ValueError, match=r"became \(.*Both sides must change by.*same ratio,"):
        tiles.tiled(lambda x: x[:, ::4, ::2], tile=8, overlap=4)(picture(1, 18, 16, 1))
