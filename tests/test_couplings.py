"""Couplings: who is paired with whom, against scipy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffusion import couplings

couple_by_two = jax.jit(couplings.optimal_transport(block=2))
couple_by_eight = jax.jit(couplings.optimal_transport(block=8))  # compiled once for each shape


def _batch(size, shape=(3,), seed=0):
    x0, eps = np.random.default_rng(seed).standard_normal((2, size, *shape)).astype(np.float32)
    return jnp.asarray(x0), jnp.asarray(eps)


def test_independent_changes_nothing():
    x0, eps = _batch(6)
    np.testing.assert_array_equal(couplings.independent()(x0, eps), eps)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block, blocks, shape", [(8, 3, (3,)), (2, 2, (2, 2, 1))])
def test_optimal_transport_permutes_within_blocks_at_the_least_cost(block, blocks, shape, seed):
    x0, eps = _batch(block * blocks, shape, seed)
    couple = couple_by_eight if block == 8 else couple_by_two
    paired = np.asarray(couple(x0, eps))
    assert paired.shape == eps.shape
    for start in range(0, block * blocks, block):
        mine, theirs, noise = (np.asarray(a)[start : start + block].reshape(block, -1) for a in (x0, paired, eps))
        order = [int(np.flatnonzero((noise == row).all(1)).item()) for row in theirs]
        assert sorted(order) == list(range(block))
        cost = np.square(mine[:, None].astype(np.float64) - noise[None]).sum(-1)
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        np.testing.assert_allclose(cost[np.arange(block), order].sum(), cost[rows, columns].sum(), rtol=1e-6)


def test_optimal_transport_undoes_a_shuffle():
    """Noise that is a permutation of the data itself finds its way back, within each block."""
    x0, _ = _batch(24)
    order = np.concatenate([8 * k + np.random.default_rng(k).permutation(8) for k in range(3)])
    np.testing.assert_array_equal(couple_by_eight(x0, x0[order]), x0)


def test_optimal_transport_of_a_block_does_not_depend_on_the_others():
    """So that devices and micro-batches, if they hold whole blocks, change nothing."""
    x0, eps = _batch(24)
    couple = couplings.optimal_transport(block=8)  # not compiled: also the same as the compiled one
    np.testing.assert_array_equal(couple_by_eight(x0, eps)[8:16], couple(x0[8:16], eps[8:16]))


def test_optimal_transport_is_exact_for_data_far_from_zero():
    """A constant added to the data must not drown the differences that decide the pairs."""
    x0, eps = _batch(24)
    np.testing.assert_array_equal(couple_by_eight(x0 + 100.0, eps), couple_by_eight(x0, eps))


@pytest.mark.parametrize("block", [0, 1, -3])
def test_a_block_needs_two_examples(block):
    with pytest.raises(ValueError, match="block"):
        couplings.optimal_transport(block=block)


def test_a_batch_that_is_not_whole_blocks_is_refused():
    with pytest.raises(ValueError, match=r"10.*4"):
        couplings.optimal_transport(block=4)(*_batch(10))
