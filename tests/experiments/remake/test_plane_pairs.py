"""The clouds, the couplings, the paths and the figures of the pairs in the plane, each by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.spatial.distance import cdist

from diffusion.experiments.remake import plane_pairs as toy


def clouds(number=64):
    rng = np.random.default_rng(0)
    return rng, toy.normal(rng, number), toy.ring(rng, number)


def test_the_clouds_by_their_moments():
    rng = np.random.default_rng(0)
    ring, large = toy.ring(rng, 20_000), toy.large_ring(rng, 20_000)
    assert (ring**2).sum(1).mean() == pytest.approx(25 + 2, rel=0.02)
    assert (large**2).sum(1).mean() == pytest.approx(144 + 2 * 1.5**2, rel=0.02)
    moons, large_moons = toy.moons(rng, 20_000), toy.large_moons(rng, 20_000)
    np.testing.assert_allclose(moons.mean(0), [0, 0.5], atol=0.03)
    assert large_moons.mean() == pytest.approx(0, abs=1e-9) and large_moons.std(ddof=1) == pytest.approx(7)
    scurve = toy.scurve(rng, 20_000)  # (sin u, sign(u) (cos u - 1)) for u uniform in +-1.5 pi: mean squares 1/2, 1.924
    expected = 2.25 * np.array([0.5, 1.5 + 4 / (3 * math.pi)])
    np.testing.assert_allclose((scurve**2).mean(0), expected + (1.5 * 0.05) ** 2, rtol=0.03)


def test_an_epoch_shows_each_point_once_in_whole_batches():
    rng, source, target = clouds(70)
    rows = toy.pair_rows(rng, source, target, epochs=3, batch=16, coupled=False)
    for taken in rows:
        assert taken.shape == (3 * 4, 16)
        for epoch in taken.reshape(3, 64):
            assert len(set(epoch.tolist())) == 64
    assert (rows.source != rows.target).any()


def test_coupled_rows_are_pairs_of_the_least_cost():
    """The targets of a batch's sources are those of SciPy's assignment of the batch, which serves ten epochs."""
    rng, source, target = clouds()
    rows = toy.pair_rows(rng, source, target, epochs=20, batch=16, coupled=True)
    assert rows.source.shape == rows.target.shape == (20 * 4, 16)
    for batch in range(8):  # two couplings of an epoch's four batches
        pairs = {
            (int(i), int(j))
            for step in range(batch, 80, 8)
            for i, j in zip(rows.source[step], rows.target[step], strict=True)
        }
        assert len(pairs) == 16
        starts, ends = (np.array(side) for side in zip(*pairs))
        assert len(set(starts)) == len(set(ends)) == 16
        costs = cdist(source[starts], target[ends], "sqeuclidean")
        assert np.trace(costs) == pytest.approx(costs[scipy.optimize.linear_sum_assignment(costs)].sum())


@pytest.mark.parametrize("method", [toy.FM, toy.I_CFM, toy.OT_CFM])
def test_the_velocity_is_the_derivative_of_the_point(method):
    x_0, x_1, z = jax.random.normal(jax.random.key(0), (3, 5, 2))
    t = jnp.full((5, 1), 0.3)
    _, velocity = toy.conditional(method, x_0, x_1, z, t)
    derivative = jax.jvp(lambda t: toy.conditional(method, x_0, x_1, z, t)[0], (t,), (jnp.ones_like(t),))[1]
    np.testing.assert_allclose(velocity, derivative, rtol=1e-5)
    end = toy.conditional(method, x_0, x_1, z, jnp.ones((5, 1)))[0]
    np.testing.assert_allclose(end - x_1, 0.1 * (x_0 if method == toy.FM else z), atol=1e-6)


def test_eulers_end_and_the_energy_by_hand():
    x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    end, energy = toy.carry(lambda x, t: jnp.array([3.0, 4.0]) + 0 * x, x, 7)
    np.testing.assert_allclose(end, x + jnp.array([3.0, 4.0]), rtol=1e-5)
    assert float(energy) == pytest.approx(25)
    end, energy = toy.carry(lambda x, t: x * t[:, None], x, 2)  # t = 0, then 1/2: v = 0, then x / 2
    np.testing.assert_allclose(end, 1.25 * x, rtol=1e-6)
    assert float(energy) == pytest.approx((1 + 4) / 2 * 0.25 / 2)


@pytest.mark.extended
def test_a_shift_is_learnt():
    """For sources that are paired with themselves, moved, the velocity is the shift at every point and time."""
    source = jax.random.normal(jax.random.key(1), (256, 2))
    rows = np.random.default_rng(1).integers(256, size=(600, 64))
    shift = jnp.array([2.0, -1.0])
    params = jax.jit(toy.train, static_argnums=0)(
        toy.I_CFM, jax.random.key(0), source, source + shift, toy.Rows(rows, rows)
    )
    x, t = source[:50] + 0.5 * shift, jnp.full(50, 0.5)
    np.testing.assert_allclose(toy.VelocityNet().apply(params, x, t), np.tile(shift, (50, 1)), atol=0.2)


@pytest.mark.extended
@pytest.mark.parametrize("method", [toy.FM, toy.OT_CFM])
def test_a_part_measures_what_the_paper_prints(method):
    values = toy.measure(f"{method}, N to moons, 0", True)
    assert set(values) == {name.format("N to moons", method) for name in (toy.W2, toy.ENERGY)}
    assert set(values) <= {published.figure for published in toy.REMAKE.published}
    assert all(math.isfinite(value) and value > 0 for value in values.values())


def test_seeds_have_clouds_of_their_own_and_methods_the_same():
    first, second = toy.clouds_of("N to moons", 0, 32), toy.clouds_of("N to moons", 1, 32)
    assert (first.source != second.source).all() and (first.source != first.test_source).all()
    costs = cdist(first.test_source, first.test_target, "sqeuclidean")
    assert first.least == pytest.approx(costs[scipy.optimize.linear_sum_assignment(costs)].mean(), rel=1e-5)
