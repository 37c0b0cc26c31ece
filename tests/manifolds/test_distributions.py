"""Densities integrate to one by closed area elements, and draws have the moments of their densities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from diffusion import manifolds


def shells(m, mean, direction, scale, element, farthest, count=4001):
    """Integral of a density that depends on the distance from the mean alone, over shells of known area."""
    r = np.linspace(0, farthest, count)[1:-1]
    normal = manifolds.wrapped_normal(m, mean, scale)
    log_density = jax.jit(lambda v: normal.log_density(m.exp(jnp.asarray(mean, jnp.float32), v)))
    density = np.exp(np.asarray(log_density(jnp.asarray(r[:, None] * direction, jnp.float32)), np.float64))
    values = np.concatenate([[0], density * element(r), [0]])
    return integrate.simpson(values, dx=r[1] - r[0])


slow = lambda *values: [pytest.param(value, marks=pytest.mark.slow) for value in values]
NORTH, EAST = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])


@pytest.mark.parametrize("scale", [1.0, *slow(0.2, 3.0)])
def test_wrapped_normals_on_spheres_integrate_to_one(scale):
    """Area elements 2 pi sin(r) of S^2 and 4 pi sin(r)^2 of S^3."""
    two = shells(manifolds.sphere(2), NORTH, EAST, scale, lambda r: 2 * np.pi * np.sin(r), np.pi)
    assert two == pytest.approx(1, abs=2e-3)
    ends = np.eye(4)
    three = shells(manifolds.sphere(3), ends[0], ends[1], scale, lambda r: 4 * np.pi * np.sin(r) ** 2, np.pi)
    assert three == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("scale", [1.0, *slow(0.3)])
def test_wrapped_normals_in_hyperbolic_space_integrate_to_one(scale):
    """Area element 2 pi sinh(r) of H^2."""
    area = lambda r: 2 * np.pi * np.sinh(r)
    assert shells(manifolds.lorentz(2), EAST, NORTH, scale, area, 8 * scale) == pytest.approx(1, abs=1e-4)
    ball = shells(manifolds.poincare(2), np.zeros(2), np.array([0.5, 0]), scale, area, 8 * scale)
    assert ball == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, *slow(0.2, 3.0)])
def test_wrapped_normals_of_rotations_integrate_to_one(scale):
    """By the Haar measure of the angle, 8 pi^2 (1 - cos r) / pi."""
    so3 = manifolds.so3()
    r = np.linspace(0, np.pi, 2001)[1:]
    normal = manifolds.wrapped_normal(so3, np.eye(3), scale)
    log_density = jax.jit(lambda w: normal.log_density(manifolds.from_rotation_vector(w)))
    density = np.exp(np.asarray(log_density(jnp.asarray(r[:, None] * NORTH, jnp.float32)), np.float64))
    values = np.concatenate([[0], density * 8 * np.pi * (1 - np.cos(r))])
    assert integrate.simpson(values, dx=np.pi / 2000) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [2.0, *slow(0.3)])
def test_the_wrapped_normal_of_a_torus_is_the_product_of_sums_over_wraps(scale):
    grid = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    x = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    mean = np.array([3.0, -1.0])
    images = x[..., None] - mean[:, None] + 2 * np.pi * np.arange(-20, 21)
    exact = np.log(np.exp(-0.5 * (images / scale) ** 2).sum(-1) / (scale * math.sqrt(2 * math.pi))).sum(-1)
    found = manifolds.wrapped_normal(manifolds.torus(2), mean, scale).log_density(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, exact, atol=2e-4)
    assert np.exp(found).mean() * (2 * np.pi) ** 2 == pytest.approx(1, abs=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("scale", [1.5, *slow(0.3)])
def test_a_wrapped_normal_of_the_simplex_sums_the_reflections_at_its_faces(scale):
    """On p = (sin^2 a, cos^2 a) it is the normal of the angle 2 a, folded at 0 and pi: by the sum over its images."""
    a = np.linspace(0, np.pi / 2, 801)[1:-1]
    p = np.stack([np.sin(a) ** 2, np.cos(a) ** 2], -1)
    mean = 0.4
    images = np.concatenate([sign * 2 * a[:, None] + 2 * np.pi * np.arange(-20, 21) for sign in (1, -1)], 1)
    exact = np.exp(-0.5 * ((images - 2 * mean) / scale) ** 2).sum(1) / (scale * math.sqrt(2 * math.pi))
    normal = manifolds.wrapped_normal(manifolds.simplex(1), np.array([math.sin(mean) ** 2, math.cos(mean) ** 2]), scale)
    np.testing.assert_allclose(np.exp(normal.log_density(jnp.asarray(p, jnp.float32))), exact, rtol=1e-3, atol=1e-5)


@pytest.mark.extended
def test_the_wrapped_normal_of_positive_definite_matrices_integrates_to_one():
    """Over the three entries of a 2 x 2 matrix, whose volume element is 2^(1/2) det(P)^(-3/2)."""
    spd = manifolds.positive_definite(2)
    scale = 0.5
    a, b = np.meshgrid(np.linspace(-3, 3, 81), np.linspace(-3, 3, 81), indexing="ij")
    share = np.linspace(-1, 1, 161)[1:-1]
    a, b, c = a[..., None], b[..., None], share
    # entries e^a, e^b on the diagonal and c e^((a + b) / 2) beside it
    beside = c * np.exp((a + b) / 2)
    p = np.stack([np.exp(a) + 0 * beside, beside, beside, np.exp(b) + 0 * beside], -1).reshape(*beside.shape, 2, 2)
    element = math.sqrt(2) * (np.exp(a + b) * (1 - c**2)) ** -1.5 * np.exp(1.5 * (a + b))
    density = np.exp(np.asarray(jax.jit(manifolds.wrapped_normal(spd, np.eye(2), scale).log_density)(p), np.float64))
    steps = (6 / 80) ** 2 * (2 / 160)
    assert (density * element).sum() * steps == pytest.approx(1, abs=2e-3)


N = 4000
COMPACT = {
    "torus(2)": (lambda: manifolds.torus(2), lambda x: jnp.concatenate([jnp.cos(x), jnp.sin(x)], -1), 0.0, 0.5),
    "sphere(2)": (lambda: manifolds.sphere(2), lambda x: x, 0.0, 1 / 3),
    "so3": (manifolds.so3, lambda x: x.reshape(-1, 9), 0.0, 1 / 3),
    "simplex(2)": (lambda: manifolds.simplex(2), lambda x: x - 1 / 3, 0.0, 4 / 45),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", ["so3", *slow("torus(2)", "sphere(2)", "simplex(2)")])
def test_uniform_draws(name):
    """Their first two moments; and the mean of a density over them is 1 / volume."""
    make, coordinates, first, second = COMPACT[name]
    m = make()
    keys = jax.random.split(jax.random.key(0), N)
    draws = manifolds.uniform(m)

    @jax.jit
    def drawn(keys):
        x = draws.sample(keys)
        return x, coordinates(x), draws.log_density(x), manifolds.wrapped_normal(m, x[0], 1.0).log_density(x)

    x, found, level, density = map(np.asarray, drawn(keys))
    m.check(x)
    np.testing.assert_allclose(x[7], draws.sample(keys[7:8])[0], atol=1e-6)
    for values, mean in ((found, first), (found**2, second)):
        assert np.all(np.abs(values.mean(0) - mean) < 5 * values.std(0) / math.sqrt(N)), values.mean(0)
    np.testing.assert_allclose(level, -m.log_volume, rtol=1e-6)
    density = np.exp(density.astype(np.float64)) * m.volume
    assert density.mean() == pytest.approx(1, abs=5 * density.std() / math.sqrt(N))


def test_volumes_of_many_dimensions_are_logarithms():
    """(8 pi^2)^500 and (2 pi)^400 are beyond a float, and the volume of S^400 is below one."""
    so3, torus, sphere = manifolds.power(manifolds.so3(), 500), manifolds.torus(400), manifolds.sphere(400)
    assert so3.log_volume == pytest.approx(500 * math.log(8 * math.pi**2))
    x = jnp.zeros((2, 400))
    np.testing.assert_allclose(manifolds.uniform(torus).log_density(x), -400 * math.log(2 * math.pi), rtol=1e-6)
    # vol S^n = vol S^(n - 2) 2 pi / (n - 1)
    steps = sum(math.log(2 * math.pi / (n - 1)) for n in range(4, 401, 2))
    assert sphere.log_volume == pytest.approx(math.log(4 * math.pi) + steps)
    assert manifolds.frames(500).dimension == 6 * 500 - 3
    assert manifolds.poincare(2).volume == math.inf


MEMBERS = {
    "sphere(2)": (lambda: manifolds.sphere(2), NORTH),
    "so3": (manifolds.so3, np.eye(3)),
    "poincare(2)": (lambda: manifolds.poincare(2), np.array([0.2, -0.3])),
    "lorentz(2)": (lambda: manifolds.lorentz(2), EAST),
    "positive_definite(2)": (lambda: manifolds.positive_definite(2), np.diag([1.0, 2.0])),
    "se3": (manifolds.se3, (np.eye(3), np.ones(3))),
}


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", ["so3", *slow("sphere(2)", "poincare(2)", "lorentz(2)", "positive_definite(2)", "se3")]
)
def test_wrapped_draws_have_the_moments_of_the_tangent_normal(name):
    """log takes the draws of a narrow one back: mean 0 and covariance scale^2 in the basis; each from its own key."""
    make, mean = MEMBERS[name]
    m = make()
    scale = 0.3
    keys = jax.random.split(jax.random.key(0), N)
    normal = manifolds.wrapped_normal(m, mean, scale)
    mean = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mean)

    @jax.jit
    def drawn(keys):
        x = normal.sample(keys)
        v = m.log(mean, x)
        return x, jax.vmap(lambda b: m.inner(mean, v, b), out_axes=1)(m.basis(mean))

    x, z = drawn(keys)
    z = np.asarray(z) / scale
    np.testing.assert_allclose(z.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(z.T), np.eye(m.dimension), atol=0.12)
    alone = normal.sample(keys[3:4])
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(x)):
        np.testing.assert_allclose(a[0], b[3], atol=1e-6)


@pytest.mark.extended
def test_a_product_takes_a_scale_for_each_factor():
    se3 = manifolds.se3()
    mean = (np.eye(3), np.zeros(3))
    normal = manifolds.wrapped_normal(se3, mean, (0.1, 10.0))
    rotation, translation = jax.jit(normal.sample)(jax.random.split(jax.random.key(0), 500))
    angles = jax.jit(manifolds.so3().distance)(jnp.eye(3), rotation)
    assert math.sqrt((angles**2).mean() / 3) == pytest.approx(0.1, rel=0.1)
    assert float(translation.std()) == pytest.approx(10, rel=0.1)
    parts = (
        jax.jit(manifolds.wrapped_normal(manifolds.so3(), np.eye(3), 0.1).log_density)(rotation)
        - 0.5 * (translation**2).sum(-1) / 100
        - 1.5 * math.log(2 * math.pi * 100)
    )
    np.testing.assert_allclose(jax.jit(normal.log_density)((rotation, translation)), parts, rtol=1e-4)


def test_what_is_not_a_distribution_is_refused():
    sphere = manifolds.sphere(2)
    with pytest.raises(ValueError, match=r"poincare\(2\) has no uniform distribution"):
        manifolds.uniform(manifolds.poincare(2))
    with pytest.raises(ValueError, match=r"sphere\(2\): point \[.*by 1\..*: points are unit vectors"):
        manifolds.wrapped_normal(sphere, 2 * NORTH, 1.0)
    with pytest.raises(ValueError, match="scale = -1"):
        manifolds.wrapped_normal(sphere, NORTH, -1.0)
    for scale in ((0.5, 0.0), np.array([0.5, -0.5])):  # of each factor, or of each direction
        with pytest.raises(ValueError, match="must be positive"):
            manifolds.wrapped_normal(manifolds.se3(), (np.eye(3), np.zeros(3)), scale)
    with pytest.raises(ValueError, match=r"scale = 4 of a wrapped normal must be in \(0, pi\]"):
        manifolds.wrapped_normal(sphere, NORTH, 4.0).log_density(jnp.asarray(EAST, jnp.float32))
    with pytest.raises(ValueError, match=r"scale = 7 of a wrapped normal must be in \(0, 2 pi\]"):
        manifolds.wrapped_normal(manifolds.simplex(1), np.full(2, 0.5), 7.0).log_density(jnp.full(2, 0.5))
    ball = manifolds.poincare(2)
    with pytest.raises(ValueError, match=r"draws of scale = 4 reach 25\.7 from the origin,.*to 13\.9"):
        manifolds.wrapped_normal(ball, np.zeros(2, np.float32), 4.0).log_density(jnp.zeros(2))
    away = np.array([math.tanh(1.5), 0], np.float32)  # its distance from the origin is 3
    with pytest.raises(ValueError, match=r"draws of scale = 2 reach 15\.8 from the origin"):
        manifolds.wrapped_normal(ball, away, 2.0).log_density(jnp.zeros(2))
    for m, mean, scale in (
        (manifolds.power(sphere, 2), np.stack([NORTH, EAST]), np.array([0.1, 0.2])),
        (manifolds.euclidean(2), np.zeros(2), np.array([0.1, 0.2])),
        (manifolds.packed(manifolds.se3()), np.append(np.eye(3), np.zeros(3)), (0.1, 0.2)),
        (manifolds.se3(), (np.eye(3), np.zeros(3)), (0.1, 0.2, 0.3)),
        (manifolds.product(sphere, manifolds.se3()), (NORTH, (np.eye(3), np.zeros(3))), (0.1, (0.2,))),
    ):
        with pytest.raises(ValueError, match="must be one number, or, for a product, a tuple with one for each factor"):
            manifolds.wrapped_normal(m, mean, scale)
    with pytest.raises(ValueError, match="one point of sphere"):
        manifolds.wrapped_normal(sphere, np.stack([NORTH, EAST]), 1.0)


def test_a_mean_of_integers_is_a_point():
    sphere = manifolds.sphere(2)
    keys = jax.random.split(jax.random.key(0), 3)
    by_integers, by_floats = (
        manifolds.wrapped_normal(sphere, np.array([0, 0, 1], dtype), 0.4).sample(keys) for dtype in (int, float)
    )
    np.testing.assert_array_equal(by_integers, by_floats)


def test_a_wrapped_normal_of_flat_space_is_a_normal_of_that_mean_and_scale():
    draws = manifolds.wrapped_normal(manifolds.euclidean(2), np.array([3.0, -1.0]), 0.5).sample
    x = np.asarray(draws(jax.random.split(jax.random.key(0), N)), np.float64)
    np.testing.assert_allclose(x.mean(0), [3, -1], atol=5 * 0.5 / math.sqrt(N))
    np.testing.assert_allclose(np.cov(x.T), 0.25 * np.eye(2), atol=5 * 0.25 * math.sqrt(2 / N))
