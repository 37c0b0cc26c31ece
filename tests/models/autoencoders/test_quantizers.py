"""Quantizers against their definitions, and moving averages against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.quantizers import (
    Codebook,
    FiniteScalar,
    codebook_init,
    codebook_update,
    histogram,
    nearest,
    perplexity,
    quantize,
    restart_dead,
    usage,
)

LEVELS = [(8, 5, 5, 5), *(pytest.param(x, marks=pytest.mark.slow) for x in [(3,), (2, 2, 2), (7, 5, 5, 5, 5), (4, 3)])]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_nearest_is_the_least_distance():
    z = drawn(2, 3, 5, 4)
    codes = drawn(7, 4, seed=1)
    indices, found = nearest(jnp.asarray(z), jnp.asarray(codes))
    expected = np.square(z[..., None, :] - codes).sum(-1).argmin(-1)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(found, codes[expected])
    assert indices.dtype == jnp.int32
    assert len(np.unique(expected)) > 3


@pytest.mark.extended
def test_values_are_codes_and_their_gradient_is_the_inputs():
    z = jnp.asarray(drawn(2, 3, 4))
    codes = jnp.asarray(drawn(5, 4, seed=1))
    weights = jnp.asarray(drawn(2, 3, 4, seed=2))
    np.testing.assert_array_equal(quantize(z, codes).values, codes[quantize(z, codes).indices])
    through = lambda z, codes: jnp.sum(weights * quantize(z, codes).values)
    to_z, to_codes = jax.grad(through, (0, 1))(z, codes)
    np.testing.assert_array_equal(to_z, weights)
    np.testing.assert_array_equal(to_codes, jnp.zeros_like(codes))


@pytest.mark.slow
def test_each_loss_of_quantize_moves_one_side():
    z = jnp.asarray(drawn(2, 3, 4))
    codes = jnp.asarray(drawn(5, 4, seed=1))
    quantized = quantize(z, codes)
    error = np.asarray(z - codes[quantized.indices])
    np.testing.assert_allclose(quantized.codebook, np.square(error).mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(quantized.commitment, quantized.codebook, rtol=1e-6)
    to_z, to_codes = jax.grad(lambda z, e: jnp.sum(quantize(z, e).commitment), (0, 1))(z, codes)
    np.testing.assert_allclose(to_z, 2 * error / 12, rtol=1e-5)
    assert not to_codes.any()
    to_z, to_codes = jax.grad(lambda z, e: jnp.sum(quantize(z, e).codebook), (0, 1))(z, codes)
    assert not to_z.any()
    expected = np.zeros((5, 4))
    np.add.at(expected, np.asarray(quantized.indices), -2 * error / 12)
    np.testing.assert_allclose(to_codes, expected, atol=1e-6)


@pytest.mark.slow
def test_fixed_assignments_lead_to_their_means_as_the_closed_form_says():
    """N_k = g^t + (1 - g^t) n_k and m_k = g^t e_k + (1 - g^t) sum z, so that without smoothing e_k is their ratio."""
    z = jnp.asarray(drawn(6, 2))
    indices = jnp.array([0, 0, 2, 2, 2, 0])
    decay = 0.8
    steps = 40
    codes = drawn(3, 2, seed=1)
    state = codebook_init(codes)
    totals = np.stack([np.asarray(z)[np.asarray(indices) == k].sum(0) for k in range(3)])
    n = np.array([3.0, 0.0, 3.0])
    for step in range(1, steps + 1):
        state = codebook_update(state, z, indices, decay, epsilon=0.0)
        if step in (1, 2, steps):
            old = decay**step
            expected = (old * codes + (1 - old) * totals) / (old + (1 - old) * n)[:, None]
            np.testing.assert_allclose(state.codes, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(state.codes[0], totals[0] / 3, atol=1e-3)  # k-means' centroid
    np.testing.assert_allclose(state.codes[1], codes[1], rtol=1e-4)  # nobody's: it stays


def test_smoothing_is_laplaces():
    state = Codebook(jnp.zeros((3, 1)), jnp.array([5.0, 1.0, 0.0]), jnp.array([[10.0], [4.0], [0.0]]))
    z = jnp.zeros((0, 1))
    indices = jnp.zeros(0, jnp.int32)
    epsilon = 0.5
    state = codebook_update(state, z, indices, decay=0.0 + 0.5, epsilon=epsilon)
    counts = np.array([2.5, 0.5, 0.0])
    smoothed = (counts + epsilon) / (3.0 + 3 * epsilon) * 3.0
    assert smoothed.sum() == pytest.approx(counts.sum())  # it moves mass to the rare, and adds none
    np.testing.assert_allclose(state.codes[:, 0], np.array([5.0, 2.0, 0.0]) / smoothed, rtol=1e-6)


def test_dead_codes_become_vectors_of_the_batch():
    codes = drawn(4, 2)
    state = Codebook(jnp.asarray(codes), jnp.array([3.0, 0.1, 0.0, 0.5]), jnp.asarray(codes * 7))
    z = jnp.asarray(drawn(2, 5, 2, seed=1))
    new, dead = restart_dead(state, z, jax.random.key(0), threshold=0.5)
    assert dead == 2
    np.testing.assert_array_equal(new.counts, [3.0, 0.5, 0.5, 0.5])
    for kept in (0, 3):  # at the threshold a code lives
        np.testing.assert_array_equal(new.codes[kept], codes[kept])
        np.testing.assert_array_equal(new.sums[kept], codes[kept] * 7)
    rows = np.asarray(z).reshape(-1, 2)
    where = [np.flatnonzero((rows == np.asarray(new.codes[k])).all(1)).tolist() for k in (1, 2)]
    assert len(where[0]) == len(where[1]) == 1 and where[0] != where[1]
    np.testing.assert_allclose(new.sums[1:3], 0.5 * new.codes[1:3])
    again, _ = restart_dead(state, z, jax.random.key(1), threshold=0.5)
    assert not np.array_equal(again.codes[1:3], new.codes[1:3])


@pytest.mark.slow
def test_restarts_let_two_clusters_be_found_from_one_place():
    """Both codes begin far off at one side, so that the second is nobody's nearest: only a restart can help."""
    z = jnp.concatenate([drawn(50, 2) * 0.01 + 1, drawn(50, 2, seed=1) * 0.01 - 1])

    def step(state, key, restart):
        state = codebook_update(state, z, nearest(z, state.codes)[0], 0.5)
        return restart_dead(state, z, key)[0] if restart else state

    ends = {}
    for restart in (False, True):
        state = codebook_init(jnp.array([[5.0, 5.0], [9.0, 9.0]]))
        for key in jax.random.split(jax.random.key(0), 20):
            state = step(state, key, restart)
        ends[restart] = float(jnp.mean(jnp.square(z - nearest(z, state.codes)[1])))
    assert ends[True] < 1e-3 and ends[False] > 0.1


@pytest.mark.slow
def test_usage_and_perplexity():
    even = histogram(jnp.array([[0, 1], [2, 3]]), 8)
    np.testing.assert_array_equal(even, [1, 1, 1, 1, 0, 0, 0, 0])
    assert float(perplexity(even)) == pytest.approx(4.0)
    assert float(usage(even)) == 0.5
    assert float(perplexity(jnp.array([0.0, 9.0]))) == pytest.approx(1.0)
    p = np.array([0.5, 0.25, 0.25])
    assert float(perplexity(jnp.asarray(p * 12))) == pytest.approx(2**1.5)


@pytest.mark.parametrize("levels", LEVELS)
def test_finite_scalar_codes_and_indices_are_a_bijection(levels):
    fsq = FiniteScalar(levels)
    codes = np.asarray(fsq.codebook)
    assert codes.shape == (np.prod(levels), len(levels))
    np.testing.assert_array_equal(fsq.indices(fsq.codebook), np.arange(fsq.size))
    values = [sorted((np.arange(L) - L // 2) / (L // 2)) for L in levels]
    assert {tuple(code) for code in np.round(codes, 5)} == {
        tuple(np.round(np.float32(code), 5)) for code in itertools.product(*values)
    }
    # The last number changes slowest.
    np.testing.assert_array_equal(codes[0], np.float32([v[0] for v in values]))
    assert codes[1, 0] == np.float32(values[0][1])


def test_an_index_out_of_range_has_no_code():
    fsq = FiniteScalar((2, 3))
    codes = np.asarray(fsq.codes(jnp.array([[5, 6], [-1, 0]])))
    np.testing.assert_array_equal(np.isnan(codes).all(-1), [[False, True], [True, False]])
    np.testing.assert_array_equal(codes[0, 0], [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("levels", LEVELS)
def test_finite_scalar_reaches_every_level_and_no_other(levels):
    fsq = FiniteScalar(levels)
    z = np.linspace(-9, 9, 4001, dtype=np.float32)[:, None] * np.ones(len(levels), np.float32)
    values, indices = fsq.quantize(jnp.asarray(z))
    for d, L in enumerate(levels):
        np.testing.assert_allclose(np.unique(values[:, d]), (np.arange(L) - L // 2) / np.float32(L // 2), atol=1e-6)
    np.testing.assert_array_equal(fsq.codes(indices), values)
    odd = fsq.quantize(jnp.zeros(len(levels)))[0]
    np.testing.assert_array_equal(odd[np.asarray(levels) % 2 == 1], 0)


@pytest.mark.slow
def test_finite_scalar_of_the_papers_listing():
    """Its formulas for L = 8 and 5, written out in float64; and its gradient, that of the bound alone."""
    fsq = FiniteScalar((8, 5))
    z = drawn(40, 2) * 2
    half = np.array([7, 4]) * 0.999 / 2
    offset = np.array([0.5, 0.0])
    bound = np.tanh(z + np.tan(offset / half)) * half - offset
    np.testing.assert_allclose(fsq.bound(jnp.asarray(z)), bound, atol=1e-5)
    values, indices = fsq.quantize(jnp.asarray(z))
    np.testing.assert_allclose(values, np.round(bound) / np.array([4, 2]), atol=1e-6)
    np.testing.assert_array_equal(indices, (np.round(bound) + np.array([4, 2])) @ np.array([1, 8]))
    slope = jax.grad(lambda z: fsq.quantize(z)[0].sum())(jnp.asarray(z))
    expected = half * (1 - np.tanh(z + np.tan(offset / half)) ** 2) / np.array([4, 2])
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match=r"z \(3, 4\) and codebook \(5, 2\)"):
        nearest(jnp.zeros((3, 4)), jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"decay = 1.0 must be in \[0, 1\)"):
        codebook_update(codebook_init(jnp.zeros((2, 2))), jnp.zeros((3, 2)), jnp.zeros(3, int), decay=1.0)
    with pytest.raises(ValueError, match="threshold = 0 must be positive"):
        restart_dead(codebook_init(jnp.zeros((2, 2))), jnp.zeros((3, 2)), jax.random.key(0), threshold=0)
    with pytest.raises(ValueError, match="at least 2 for each number"):
        FiniteScalar((8, 1))
    with pytest.raises(ValueError, match=r"each vector of z \(4, 3\) has 3 numbers, but there are levels for 2"):
        FiniteScalar((8, 5)).quantize(jnp.zeros((4, 3)))
