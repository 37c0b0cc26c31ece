"""Heat kernels against their series in float64, the mean of their first eigenfunction, and their scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import eval_gegenbauer

from diffusion.manifolds import heat_kernels, sphere

ANGLES = np.array([0.02, 0.4, 1.0, 1.7, 2.3])


def sphere_series(n, theta, v):
    """The kernel of S^n by 200 zonal harmonics."""
    total = sum(
        math.exp(-l * (l + n - 1) * v / 2) * (2 * l + n - 1) / (n - 1) * eval_gegenbauer(l, (n - 1) / 2, np.cos(theta))
        for l in range(200)
    )
    return total / (2 * math.pi ** ((n + 1) / 2) / math.gamma((n + 1) / 2))


def sphere_slope(n, theta, v):
    """The derivative of the logarithm of `sphere_series` in theta: that of C_l^a is 2 a C_(l - 1)^(a + 1)."""
    index = (n - 1) / 2
    total = sum(
        math.exp(-l * (l + n - 1) * v / 2) * (2 * l + n - 1) * eval_gegenbauer(l - 1, index + 1, np.cos(theta))
        for l in range(1, 200)
    )
    volume = 2 * math.pi ** ((n + 1) / 2) / math.gamma((n + 1) / 2)
    return -np.sin(theta) * total / volume / sphere_series(n, theta, v)


def rotation_series(omega, v):
    """The kernel of SO(3) by 200 characters."""
    l = np.arange(200)[:, None]
    characters = np.sin((l + 0.5) * omega) / np.sin(omega / 2)
    return np.sum((2 * l + 1) * np.exp(-l * (l + 1) * v / 2) * characters, 0) / (8 * math.pi**2)


def circle_series(angle, v):
    """The kernel of the circle by 81 images."""
    images = [np.exp(-((angle + 2 * math.pi * k) ** 2) / (2 * v)) for k in range(-40, 41)]
    return np.sum(images, 0) / math.sqrt(2 * math.pi * v)


def rotations(angles):
    """Rotations about z `[N, 3, 3]`."""
    c, s, o = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([np.stack([c, -s, o], -1), np.stack([s, c, o], -1), np.stack([o, o, o + 1], -1)], -2)


def circles(n):
    """Points of S^n at the angles from the first axis."""
    return lambda angles: np.stack([np.cos(angles), np.sin(angles), *np.zeros((n - 1, len(angles)))], -1)


SLOW = pytest.mark.slow  # kernels whose programs take seconds to compile
CASES = {  # kernel, angles -> points, density by angle in float64, largest error of the logarithm
    "sphere2": (heat_kernels.sphere(2), circles(2), lambda a, v: sphere_series(2, a, v), 2e-5),
    "sphere5": (heat_kernels.sphere(5), circles(5), lambda a, v: sphere_series(5, a, v), 2e-5),
    "so3": (heat_kernels.so3(), rotations, rotation_series, 2e-5),
    "torus": (heat_kernels.torus(1), lambda a: a[:, None], circle_series, 2e-5),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in ("sphere2", "sphere5", "so3")] + ["torus"])
def test_density_and_score_are_those_of_the_series(name):
    kernel, points, series, tolerance = CASES[name]
    start = jnp.asarray(points(np.zeros(1)), jnp.float32)
    ends = jnp.asarray(points(ANGLES), jnp.float32)
    starts = jnp.broadcast_to(start, ends.shape)
    direction = kernel.manifold.log(ends, jnp.asarray(points(ANGLES + 1e-3), jnp.float32))  # away from the start
    both = jax.jit(lambda v: (kernel.log_density(starts, ends, v), kernel.score(starts, ends, v)))
    for v in (0.2, 0.3, 0.9, 1.1, 2.9, 3.1, 9.0):  # on both sides of where each changes its form
        density, score = both(jnp.full(ANGLES.shape, v, jnp.float32))
        log_series = lambda angle, v=v: np.log(series(angle, v))
        assert np.max(np.abs(density - log_series(ANGLES))) < tolerance, v
        slope = (log_series(ANGLES + 1e-4) - log_series(ANGLES - 1e-4)) / 2e-4
        along = kernel.manifold.inner(ends, score, direction) / 1e-3
        assert np.max(np.abs(along - slope) / (1 + np.abs(slope))) < 5 * tolerance + 1e-3, v


@pytest.mark.parametrize("name", [pytest.param("sphere2", marks=SLOW), pytest.param("so3", marks=SLOW), "torus"])
def test_draws_have_the_mean_of_the_first_eigenfunction(name):
    """E cos theta = exp(-v) on S^2, E trace R = 3 exp(-v) on SO(3), E cos a = exp(-v / 2) on the circle."""
    kernel, points, _, _ = CASES[name]
    start = jnp.asarray(points(np.zeros(1))[0], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3000)
    draw = jax.jit(lambda v: jax.vmap(lambda key: kernel.sample(key, start, v))(keys))
    of = {
        "sphere2": (lambda x: x[:, 0], lambda v: math.exp(-v)),
        "so3": (lambda x: np.trace(x, axis1=1, axis2=2), lambda v: 3 * math.exp(-v)),
        "torus": (lambda x: np.cos(x[:, 0]), lambda v: math.exp(-v / 2)),
    }
    function, mean = of[name]
    for v in (0.1, 0.8, 3.0):
        x = np.asarray(draw(v), np.float64)
        kernel.manifold.check(x)
        values = function(x)
        assert abs(values.mean() - mean(v)) < 4 * values.std() / math.sqrt(len(values)), v


FROM_THE_ANTIPODE = np.array([0.0, 0.002, 0.01, 0.05, 0.2, 0.6])


@pytest.mark.extended
@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=SLOW), 3, pytest.param(4, marks=SLOW), pytest.param(5, marks=SLOW)]
)
def test_density_and_score_of_the_sphere_up_to_the_antipode(n):
    """Against the harmonics in float64, which hold a density of exp(-16) of its maximum; the score vanishes there."""
    angles = math.pi - FROM_THE_ANTIPODE
    both = jax.jit(lambda x, y, v: (heat_kernels.sphere(n).log_density(x, y, v), heat_kernels.sphere(n).score(x, y, v)))
    ends = jnp.asarray(circles(n)(angles), jnp.float32)
    starts = jnp.broadcast_to(jnp.eye(n + 1, dtype=jnp.float32)[0], ends.shape)
    away = circles(n)(angles + math.pi / 2)
    for v in (0.3, 0.45, 0.7, 0.99, 1.01, 2.0):
        density, score = both(starts, ends, jnp.full(angles.shape, v, jnp.float32))
        np.testing.assert_allclose(density, np.log(sphere_series(n, angles, v)), rtol=3e-6, atol=1e-6)
        slope = np.sum(np.asarray(score, np.float64) * away, -1)
        np.testing.assert_allclose(slope, sphere_slope(n, angles, v), rtol=3e-4, atol=1e-5, err_msg=f"v = {v}")


def test_the_score_near_the_antipode_is_that_of_images_for_small_variances():
    """S^3 in closed form: K ~ N(a) / sin a, N = (pi - a) exp(pi a / v) - (pi + a) exp(-pi a / v), by its derivative."""
    kernel = heat_kernels.sphere(3)
    a = np.array([1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0])
    ends = jnp.asarray(circles(3)(math.pi - a), jnp.float32)
    starts = jnp.broadcast_to(jnp.eye(4, dtype=jnp.float32)[0], ends.shape)
    score = jax.jit(kernel.score)
    for v in (0.005, 0.02, 0.1):
        z = math.pi * a / v
        value = (math.pi - a) - (math.pi + a) * np.exp(-2 * z)
        slope = math.pi / v * ((math.pi - a) + (math.pi + a) * np.exp(-2 * z)) - 1 - np.exp(-2 * z)
        exact = a / v - slope / value + 1 / np.tan(a)  # away from the start a falls
        found = np.asarray(score(starts, ends, jnp.full(a.shape, v, jnp.float32)), np.float64)
        np.testing.assert_allclose(np.sum(found * circles(3)(1.5 * math.pi - a), -1), exact, rtol=5e-4)


@SLOW
def test_varadhan_is_the_limit_of_small_variances():
    exact, approximate = heat_kernels.sphere(2), heat_kernels.varadhan(sphere(2), steps=3)
    x = jnp.array([[0.0, 0.0, 1.0]])
    y = sphere(2).exp(x, jnp.array([[0.3, 0.0, 0.0]]))
    error = lambda v: float(jnp.max(jnp.abs(exact.score(x, y, v) - approximate.score(x, y, v)) * v))
    errors = [error(v * jnp.ones(1)) for v in (0.2, 0.02)]
    assert errors[1] < errors[0] / 5  # its relative error falls in proportion to v
    assert errors[0] < 0.05


def test_the_kernel_of_the_three_sphere_is_that_of_its_closed_form():
    """e^(v / 2) (2 pi v)^(-3/2) sum_k (theta + 2 pi k) / sin(theta) exp(-(theta + 2 pi k)^2 / (2 v)), by images."""
    kernel = heat_kernels.sphere(3)
    ends = jnp.asarray(circles(3)(ANGLES), jnp.float32)
    starts = jnp.broadcast_to(jnp.eye(4, dtype=jnp.float32)[0], ends.shape)
    density = jax.jit(lambda v: kernel.log_density(starts, ends, v))
    for v in (0.08, 0.15, 0.18, 0.3, 0.35, 2.0):
        images = ANGLES + 2 * math.pi * np.arange(-9, 10)[:, None]
        total = np.sum(images * np.exp(-(images**2) / (2 * v)), 0) / np.sin(ANGLES)
        exact = np.log(total) + v / 2 - 1.5 * math.log(2 * math.pi * v)
        np.testing.assert_allclose(density(jnp.full(ANGLES.shape, v, jnp.float32)), exact, atol=5e-5)


def test_near_the_start_the_score_is_in_proportion_to_the_distance():
    """Of SO(3), in both of its forms: no jump where its derivative is taken at a fixed distance."""
    kernel = heat_kernels.so3()
    angles = np.array([1e-3, 9e-3, 9.9e-3, 1.01e-2, 1.1e-2])
    ends = jnp.asarray(rotations(angles), jnp.float32)
    starts = jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), ends.shape)
    score = jax.jit(lambda v: kernel.score(starts, ends, v))
    for v in (0.5, 2.0):
        step = 1e-2 * np.array([0.5, 1.0, 1.5])
        low, _, high = np.log(rotation_series(step, v))
        exact = (high - low) / step[1] ** 2  # slope at 0.01, over 0.01
        found = np.asarray(score(jnp.full(angles.shape, v, jnp.float32)), np.float64)
        ratio = found[:, 1, 0] / angles
        np.testing.assert_allclose(ratio, exact, rtol=2e-2)


def test_a_sphere_of_too_few_or_too_many_dimensions_is_refused():
    for dimension in (1, 6):
        with pytest.raises(ValueError, match=rf"dimension = {dimension} must be in .* For the circle use torus\(1\)"):
            heat_kernels.sphere(dimension)
    with pytest.raises(ValueError, match="varadhan: steps = 0 must be at least 1"):
        heat_kernels.varadhan(sphere(2), steps=0)


@pytest.mark.parametrize("name", [pytest.param("so3", marks=pytest.mark.extended), "torus"])
def test_both_forms_of_a_kernel_hold_in_float64(name):
    """Density and slope at every distance, on both sides of where the form changes: so much that no term is missing."""
    kernel, points, series, _ = CASES[name]
    angles = np.array([0.03, 0.3, 1.2, 2.2, 3.0])
    with jax.enable_x64(True):
        ends = jnp.asarray(points(angles))
        starts = jnp.broadcast_to(jnp.asarray(points(np.zeros(1))), ends.shape)
        both = jax.jit(lambda v: (kernel.log_density(starts, ends, v), kernel.score(starts, ends, v)))
        away = kernel.manifold.log(ends, jnp.asarray(points(angles + 1e-3))) / 1e-3
        for v in (0.3, 0.99, 1.01, 2.99, 3.01):
            density, score = both(jnp.full(angles.shape, v))
            np.testing.assert_allclose(density, np.log(series(angles, v)), rtol=0, atol=3e-12)
            logs = [np.log(series(angles + shift, v)) for shift in (-1e-4, 1e-4)]
            slopes = kernel.manifold.inner(ends, score, away)
            np.testing.assert_allclose(slopes, (logs[1] - logs[0]) / 2e-4, rtol=0, atol=2e-6)


def test_after_a_short_time_the_quantiles_of_the_distance_are_those_of_flat_space(monkeypatch):
    """Of the plane: sqrt(v) times those of the chi distribution, up to the one draw in 100,000."""
    kernel, v = heat_kernels.sphere(2), 1e-4
    start = jnp.asarray([0.0, 0.0, 1.0])
    quantiles = np.array([0.01, 0.5, 0.9, 0.999, 0.99999])

    def farther(quantile):
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: quantile.astype(dtype))
        return kernel.manifold.distance(start, kernel.sample(jax.random.key(0), start, v))

    distances = jax.jit(jax.vmap(farther))(jnp.asarray(quantiles, jnp.float32))
    np.testing.assert_allclose(distances, math.sqrt(v) * stats.chi(2).ppf(quantiles), rtol=5e-3)


def test_after_a_long_time_draws_are_uniform_over_the_area():
    """Of heights on the sphere the mean is 0 and the mean square 1 / 3: near both poles there is little area.

    The two other coordinates are like the height and independent of it, so the mean of x x^T is 1 / 3.
    """
    kernel = heat_kernels.sphere(2)
    start = jnp.asarray([0.0, 0.0, 1.0])
    draw = jax.jit(jax.vmap(lambda key: kernel.sample(key, start, 12.0)))
    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)), np.float64)
    np.testing.assert_allclose(draws.T @ draws / 4000, np.eye(3) / 3, atol=4 * math.sqrt(4 / 45 / 4000))
    heights = draws[:, 2]
    assert abs(heights.mean()) < 4 * math.sqrt(1 / 3 / 4000)
    assert abs((heights**2).mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / 4000)


def radial(monkeypatch, make):
    """The arguments that a kernel has which depends on the distance alone: (manifold, reach, density, area, ...)."""
    monkeypatch.setattr(heat_kernels, "_isotropic", lambda *arguments: arguments)
    return make()


def test_both_forms_of_the_kernel_of_rotations_hold_by_their_angle(monkeypatch):
    """Density and slope on both sides of v = 1, by 200 characters; the area of a sphere grows as sin(omega / 2)^2."""
    manifold, reach, log_density, log_area = radial(monkeypatch, heat_kernels.so3)
    assert manifold.name == "so3" and reach == math.pi
    angles = np.array([0.03, 0.3, 1.2, 2.2, 3.0])
    with jax.enable_x64(True):
        for v in (0.3, 0.99, 1.01, 3.0):
            variance = jnp.full(angles.shape, v)
            both = jax.jit(lambda a, v: jax.jvp(lambda a: log_density(a, v), (a,), (jnp.ones_like(a),)))
            density, slope = both(jnp.asarray(angles), variance)
            np.testing.assert_allclose(density, np.log(rotation_series(angles, v)), rtol=0, atol=3e-12)
            low, high = (np.log(rotation_series(angles + shift, v)) for shift in (-1e-4, 1e-4))
            np.testing.assert_allclose(slope, (high - low) / 2e-4, rtol=0, atol=2e-6)
        areas = log_area(jnp.asarray(angles))
        np.testing.assert_allclose(areas - areas[0], 2 * np.log(np.sin(angles / 2) / np.sin(0.015)), rtol=1e-9)


def test_the_area_of_a_sphere_of_a_sphere_grows_as_a_power_of_the_sine(monkeypatch):
    angles = np.array([0.5, 1.0, 3.0])
    for n in (2, 5):
        manifold, reach, _, log_area, entries = radial(monkeypatch, lambda n=n: heat_kernels.sphere(n))
        assert (manifold.name, reach, entries) == (f"sphere({n})", math.pi, 512)
        areas = np.asarray(log_area(jnp.asarray(angles, jnp.float32)))
        np.testing.assert_allclose(areas - areas[0], (n - 1) * np.log(np.sin(angles) / np.sin(0.5)), rtol=1e-5)
