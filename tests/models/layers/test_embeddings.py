"""Embeddings against the loops of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.embeddings import (
    FourierEmbedding,
    LabelEmbedding,
    rope_angles,
    rotate,
    sincos_positions,
    sinusoid,
)


def test_sinusoid_is_dits():
    times = np.array([0.0, 0.25, 1.0, 500.5, 999.0])
    expected = np.zeros((5, 256))
    for n, t in enumerate(times):
        for i in range(128):
            w = 10000.0 ** (-i / 128)
            expected[n, i] = np.cos(t * w)
            expected[n, 128 + i] = np.sin(t * w)
    # 999 is known in float32 to 3e-5, and so is its cosine.
    np.testing.assert_allclose(sinusoid(jnp.asarray(times, jnp.float32)), expected, atol=3e-4)
    np.testing.assert_allclose(sinusoid(jnp.asarray(times[:3], jnp.float32)), expected[:3], atol=1e-6)


def test_sinusoid_of_half_precision_times_is_float32():
    assert sinusoid(jnp.zeros(1, jnp.bfloat16)).dtype == jnp.float32


def test_positions_are_those_of_mae():
    height, width, size = 3, 5, 16
    out = sincos_positions(height, width, size)
    for row in range(height):
        for column in range(width):
            expected = []
            for place in (column, row):  # "here w goes first" in the MAE and DiT code
                for function in (np.sin, np.cos):
                    expected += [function(place / 10000 ** (i / 4)) for i in range(4)]
            np.testing.assert_allclose(out[row * width + column], expected, atol=1e-7)


def test_rotation_is_a_complex_product():
    height, width, size = 2, 3, 8
    x = np.random.default_rng(0).normal(size=(1, height * width, 1, size))
    out = rotate(jnp.asarray(x, jnp.float32), rope_angles(height, width, size))
    for row in range(height):
        for column in range(width):
            n = row * width + column
            for axis, place in enumerate((row, column)):
                half = x[0, n, 0, 4 * axis : 4 * axis + 4]
                turned = (half[:2] + 1j * half[2:]) * np.exp(1j * place / 10000 ** (np.arange(2) / 2))
                expected = np.concatenate([turned.real, turned.imag])
                np.testing.assert_allclose(out[0, n, 0, 4 * axis : 4 * axis + 4], expected, atol=1e-6)


def test_rotary_scores_see_displacements_alone():
    height, width = 4, 5
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
    angles = rope_angles(height, width, 16)
    q, k = (rotate(jnp.tile(x, (1, height * width, 1, 1)), angles)[0, :, 0] for x in (q, k))
    scores = np.asarray(q @ k.T).reshape(height, width, height, width)
    np.testing.assert_allclose(scores[:-1, :-1, :-1, :-1], scores[1:, 1:, 1:, 1:], atol=1e-5)
    assert np.ptp(scores[0, 0]) > 0.1  # they do see them


def test_label_embedding_has_a_null_row_and_no_other():
    module = LabelEmbedding(num_classes=3, width=2)
    variables = module.init(jax.random.key(0), jnp.zeros(1, int))
    table = variables["params"]["embedding"]
    assert table.shape == (4, 2)
    out = module.apply(variables, jnp.array([0, 3, 4, -1]))
    np.testing.assert_array_equal(out[:2], table[jnp.array([0, 3])])
    assert np.isnan(out[2:]).all()


@pytest.mark.parametrize("function", [sincos_positions, rope_angles])
def test_sizes_that_4_does_not_divide(function):
    with pytest.raises(ValueError, match="multiple of 4; got 6"):
        function(2, 2, 6)


def test_frequencies_of_random_fourier_features_are_standard_normal():
    """256 of them: their deviation within five standard errors."""
    drawn = FourierEmbedding(4).init(jax.random.key(0), jnp.ones(1))["params"]["frequencies"]
    assert np.std(drawn) == pytest.approx(1, rel=5 / np.sqrt(2 * 256))
