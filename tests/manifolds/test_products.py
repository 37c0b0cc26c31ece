"""Products, powers and packed points: every function is that of the factors, one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds

SPHERE, CIRCLE, FLAT = manifolds.sphere(2), manifolds.circle(), manifolds.euclidean(2)
FACTORS = (SPHERE, CIRCLE, FLAT)
BOTH = manifolds.product(*FACTORS)
PACKED = manifolds.packed(BOTH)


def drawn(seed):
    """A point of each factor and a tangent vector there, four of each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 3))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    v = rng.normal(size=(4, 3)) / 2
    v -= (v * x).sum(-1, keepdims=True) * x
    points = (x, rng.uniform(-3, 3, 4), rng.normal(size=(4, 2)))
    vectors = (v, rng.normal(size=4) / 2, rng.normal(size=(4, 2)))
    return tuple(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), each) for each in (points, vectors))


(X, V), (Y, W) = drawn(0), drawn(1)
W = tuple(factor.tangent(x, w) for factor, x, w in zip(FACTORS, X, W))


def flat(point):
    """The coordinates one after another."""
    return np.concatenate([np.reshape(part, (4, -1)) for part in point], -1)


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


VALUES = {"exp": (X, V), "log": (X, Y), "project": (X,), "tangent": (X, W), "lift": (X, W), "transport": (X, Y, W)}
SUMS = {"inner": (X, V, W), "log_volume_change": (X, V)}


@pytest.mark.extended
@pytest.mark.parametrize("name", VALUES)
def test_points_and_vectors_are_those_of_the_factors(name):
    arguments = VALUES[name]
    expected = tuple(getattr(factor, name)(*parts) for factor, *parts in zip(FACTORS, *arguments))
    close(getattr(BOTH, name)(*arguments), expected)
    close(getattr(PACKED, name)(*(jnp.asarray(flat(argument)) for argument in arguments)), flat(expected))


@pytest.mark.parametrize("name", SUMS)
def test_numbers_are_sums_over_the_factors(name):
    arguments = SUMS[name]
    expected = sum(getattr(factor, name)(*parts) for factor, *parts in zip(FACTORS, *arguments))
    close(getattr(BOTH, name)(*arguments), expected)
    close(getattr(PACKED, name)(*(jnp.asarray(flat(argument)) for argument in arguments)), expected)


def test_distances_are_the_root_of_squares_and_the_nearest_cut_counts():
    apart = np.stack([factor.distance(x, y) for factor, x, y in zip(FACTORS, X, Y)])
    cuts = np.stack([factor.cut_distance(x, y) for factor, x, y in zip(FACTORS, X, Y)])
    for space, x, y in ((BOTH, X, Y), (PACKED, jnp.asarray(flat(X)), jnp.asarray(flat(Y)))):
        close(space.distance(x, y), np.sqrt((apart**2).sum(0)))
        close(space.cut_distance(x, y), cuts.min(0))
    assert BOTH.dimension == PACKED.dimension == 5 and BOTH.injectivity_radius == pytest.approx(np.pi)
    assert BOTH.log_volume == np.inf  # of the plane
    closed = manifolds.product(SPHERE, CIRCLE)
    assert closed.log_volume == pytest.approx(np.log(4 * np.pi * 2 * np.pi), rel=1e-6)


def test_the_basis_has_the_vectors_of_each_factor_and_zeros_elsewhere():
    basis = BOTH.basis(X)
    for part, factor, x, rows in zip(basis, FACTORS, X, (slice(0, 2), slice(2, 3), slice(3, 5))):
        close(part[:, rows], factor.basis(x))
        rest = np.ones(5, bool)
        rest[rows] = False
        assert not np.any(np.asarray(part)[:, rest])
    gram = sum(
        np.einsum("bid,bjd->bij", part.reshape(4, 5, -1), part.reshape(4, 5, -1)) for part in map(np.asarray, basis)
    )
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(5), (4, 5, 5)), atol=1e-5)
    packed = np.asarray(PACKED.basis(jnp.asarray(flat(X))))
    assert packed.shape == (4, 5, 6)
    close(packed, np.concatenate([np.reshape(part, (4, 5, -1)) for part in basis], -1))


def test_densities_are_sums_with_one_scale_or_one_for_each_factor():
    for scale in (0.7, (0.7, 1.1, 0.4)):
        scales = scale if isinstance(scale, tuple) else (scale,) * 3
        expected = sum(f.wrapped_log_density(x, s, y) for f, x, s, y in zip(FACTORS, X, scales, Y))
        close(BOTH.wrapped_log_density(X, scale, Y), expected)
        close(PACKED.wrapped_log_density(jnp.asarray(flat(X)), scale, jnp.asarray(flat(Y))), expected)


def test_draws_are_tangent_uniform_and_independent_over_the_factors():
    closed = manifolds.product(SPHERE, CIRCLE)
    draws = jax.jit(lambda key: closed.uniform(key, (2000,)))(jax.random.key(0))
    height, angle = np.asarray(draws[0])[:, 2], np.asarray(draws[1])
    assert draws[0].shape == (2000, 3) and angle.shape == (2000,)
    assert abs(np.corrcoef(height, angle)[0, 1]) < 5 / np.sqrt(2000)
    twice = manifolds.product(CIRCLE, CIRCLE).uniform(jax.random.key(0), (2000,))
    assert abs(np.corrcoef(*twice)[0, 1]) < 5 / np.sqrt(2000)
    assert height.var() == pytest.approx(1 / 3, rel=0.1) and angle.var() == pytest.approx(np.pi**2 / 3, rel=0.1)
    packed = jax.jit(lambda key: manifolds.packed(closed).uniform(key, (2000,)))(jax.random.key(0))
    np.testing.assert_array_equal(packed, np.concatenate([draws[0], angle[:, None]], -1))
    assert BOTH.uniform is None and PACKED.uniform is None
    normal = BOTH.tangent_normal(jax.random.key(1), X)
    close(BOTH.tangent(X, normal), normal)
    same = manifolds.product(FLAT, FLAT).tangent_normal(jax.random.key(1), (X[2], X[2]))
    assert np.abs(same[0] - same[1]).min() > 0  # other numbers for each
    close(PACKED.tangent_normal(jax.random.key(1), jnp.asarray(flat(X))), flat(normal))


def test_a_power_is_one_array_of_points_of_one_factor():
    space = manifolds.power(SPHERE, 4)
    x, y, v, w = (jnp.stack([part[0], part[0][::-1]]) for part in (X, Y, V, W))
    w = SPHERE.tangent(x, w)
    close(space.exp(x, v), SPHERE.exp(x, v))
    close(space.inner(x, v, w), SPHERE.inner(x, v, w).sum(-1))
    close(space.distance(x, y), np.sqrt((np.asarray(SPHERE.distance(x, y)) ** 2).sum(-1)))
    close(space.cut_distance(x, y), SPHERE.cut_distance(x, y).min(-1))
    basis = np.asarray(space.basis(x))
    assert basis.shape == (2, 8, 4, 3) and space.dimension == 8
    for i in range(4):
        close(basis[:, 2 * i : 2 * i + 2, i], SPHERE.basis(x[:, i]))
        assert not np.any(np.delete(basis[:, 2 * i : 2 * i + 2], i, axis=2))
    assert space.log_volume == pytest.approx(4 * np.log(4 * np.pi), rel=1e-6)
    assert space.uniform(jax.random.key(0), (5,)).shape == (5, 4, 3)
    assert manifolds.power(FLAT, 2).uniform is None


def test_the_density_of_a_power_is_the_product_with_a_scale_for_each_example():
    space, scales = manifolds.power(CIRCLE, 2), jnp.array([0.4, 0.8])
    x, y = X[1].reshape(2, 2), Y[1].reshape(2, 2)
    close(space.wrapped_log_density(x, 0.5, y), CIRCLE.wrapped_log_density(x, 0.5, y).sum(-1))
    close(space.wrapped_log_density(x, scales, y), CIRCLE.wrapped_log_density(x, scales[:, None], y).sum(-1))


def test_points_of_another_form_are_refused():
    BOTH.check(tuple(map(np.asarray, X)))
    PACKED.check(flat(X))
    with pytest.raises(ValueError, match="a point is a tuple of 3, got a tuple of 2"):
        BOTH.check(X[:2])
    with pytest.raises(ValueError, match="a point is a tuple of 3, got list"):
        BOTH.check(list(X))
    with pytest.raises(ValueError, match=r"have shape \[\.\.\., 6\], got \[4, 5\]"):
        PACKED.check(flat(X)[:, :5])
    with pytest.raises(ValueError, match=r"arrays have shape \[\.\.\., 2, 3\], got \[4, 3\]"):
        manifolds.power(SPHERE, 2).check(np.asarray(X[0]))
    with pytest.raises(ValueError, match="takes two manifolds or more, got 1"):
        manifolds.product(SPHERE)
    with pytest.raises(ValueError, match=r"n = 0 of sphere\(2\) must be positive"):
        manifolds.power(SPHERE, 0)


def test_a_packed_product_of_three_factors_has_the_numbers_of_all():
    together = manifolds.product(manifolds.euclidean(1), manifolds.circle(), manifolds.euclidean(2))
    packed = manifolds.packed(together)
    assert packed.shape == (4,) and packed.name == f"packed({together.name})" and packed.dimension == 4
    x, v = np.array([1.0, 3.0, -2.0, 0.5], np.float32), np.array([0.25, 1.0, 4.0, -1.0], np.float32)
    np.testing.assert_allclose(packed.exp(jnp.asarray(x), v), [1.25, 4 - 2 * np.pi, 2.0, -0.5], rtol=1e-6)
    packed.check(jnp.asarray(x))
    with pytest.raises(ValueError, match=r"shape \[\.\.\., 4\], got \[3\]"):
        packed.check(x[:3])


def test_a_packed_point_with_an_angle_may_be_an_array_of_numpy():
    packed = manifolds.packed(manifolds.product(manifolds.euclidean(1), manifolds.circle()))
    point = np.array([1.0, 3.0])
    packed.check(point)
    np.testing.assert_allclose(packed.exp(point, np.array([0.5, 1.0])), [1.5, 4 - 2 * np.pi], rtol=1e-5)
    with pytest.raises(ValueError, match="angles are radians"):
        packed.check(np.array([1.0, 3.2]))
