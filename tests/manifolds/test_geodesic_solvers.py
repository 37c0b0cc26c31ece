"""Solvers on manifolds: order by exact flows, samples on the manifold, and Brownian motion reversed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from diffusion import samplers, schedules, timesteps
from diffusion.manifolds import (
    TangentField,
    circle,
    frame_prior,
    frames,
    geodesic_euler,
    geodesic_heun,
    geodesic_random_walk,
    geodesic_rk4,
    geodesic_solvers,
    heat_kernels,
    mixtures,
    packed,
    product,
    so3,
    sphere,
    torus,
)

NUMBER = 4
SLOW = pytest.mark.slow  # on manifolds whose programs take seconds to compile
ORDERS = {geodesic_euler: (1, (8, 16)), geodesic_heun: (2, (8, 16)), geodesic_rk4: (4, (3, 6))}


def spiral():
    """On S^2 a rotation about z and a descent towards -z, tan(theta / 2) growing as exp(t): no isometry."""
    pole = jnp.array([0.0, 0.0, 1.0])
    field = TangentField(sphere(2), lambda x, t: 1.5 * jnp.cross(pole, x) - sphere(2).tangent(x, pole))

    def flow(x, t):
        theta = 2 * np.arctan(np.tan(np.arccos(x[:, 2]) / 2) * math.exp(t))
        phi = np.arctan2(x[:, 1], x[:, 0]) + 1.5 * t
        return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)

    return field, flow


def turning():
    """On SO(3) dR/dt = A R + R B, whose flow is exp(t A) R exp(t B): no geodesic."""
    hat = lambda w: np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    a, b = hat([0.8, 0.5, -0.3]), hat([-0.4, 1.0, 0.6])
    field = TangentField(so3(), lambda x, t: jnp.asarray(a, x.dtype) @ x + x @ jnp.asarray(b, x.dtype))
    return field, lambda x, t: expm(t * a) @ x @ expm(t * b)


def pendulum():
    """On the torus da/dt = sin(a), where tan(a / 2) grows as exp(t)."""
    field = TangentField(torus(2), lambda x, t: jnp.sin(x))
    return field, lambda x, t: 2 * np.arctan(np.tan(x / 2) * math.exp(t))


def together():
    """On S^2 x S^1 in one vector: the spiral, and an angle with da/dt = sin(a)."""
    (spiralling, spiral_flow), (_, swing_flow) = spiral(), pendulum()
    velocity = lambda x, t: jnp.concatenate([spiralling(x[:, :3], t), jnp.sin(x[:, 3:])], -1)
    flow = lambda x, t: np.concatenate([spiral_flow(x[:, :3], t), swing_flow(x[:, 3:], t)], -1)
    return TangentField(packed(product(sphere(2), circle())), velocity), flow


CASES = (
    pytest.param(together, marks=SLOW),
    pytest.param(spiral, marks=SLOW),
    pytest.param(turning, marks=SLOW),
    pendulum,
)


@pytest.mark.parametrize("solver", ORDERS, ids=lambda solver: solver.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_each_solver_has_its_order_and_stays_on_the_manifold(case, solver):
    field, flow = case()
    manifold = field.manifold
    order, steps = ORDERS[solver]
    keys = jax.random.split(jax.random.key(1), NUMBER)
    x = manifold.uniform(jax.random.key(0), (NUMBER,))
    exact = jnp.asarray(flow(np.asarray(x, np.float64), -1.0), jnp.float32)
    errors = []
    for number in steps:
        plan = timesteps.plan(np.linspace(1.0, 0.0, number + 1))
        walk = jax.jit(lambda x, plan=plan: samplers.sample(solver(), field, schedules.rectified_flow(), x, plan, keys))
        end = walk(x)
        manifold.check(end)
        errors.append(float(manifold.distance(end, exact).max()))
    measured = math.log2(errors[0] / errors[1])
    assert abs(measured - order) < 0.35 + 0.1 * order, errors


def test_the_stages_of_a_step_are_at_their_own_times():
    """Without a movement the classical method is Simpson's rule, which is exact for cubic functions of time."""
    still = lambda x, t: (jnp.zeros_like(x), jnp.full(len(x), t**3))
    stages, weights = [[1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]
    pole = jnp.array([[0.0, 0.0, 1.0]])
    x, integral = geodesic_solvers.carried(sphere(2), still, pole, 0.5, 0.9, stages, weights)
    np.testing.assert_array_equal(x, pole)
    np.testing.assert_allclose(integral, [(0.9**4 - 0.5**4) / 4], rtol=1e-6)


@SLOW
def test_the_random_walk_reverses_brownian_motion():
    """From the exact end of a diffusion on S^2 back to its start, by the exact score: the mean is that of the data."""
    kernel = heat_kernels.sphere(2)
    mean = jnp.array([0.6, 0.0, 0.8])
    schedule = schedules.variance_exploding(0.05, 1.5)
    data_variance = 0.15
    field = mixtures.exact_field(kernel, [mean], [data_variance], [1.0], schedule)
    keys = jax.random.split(jax.random.key(0), (2, 600))
    begin = jax.jit(jax.vmap(lambda key: kernel.sample(key, mean, data_variance + 1.5**2)))(keys[0])
    plan = timesteps.plan(timesteps.uniform(schedule, steps=40))
    end = jax.jit(lambda x: samplers.sample(geodesic_random_walk(), field, schedule, x, plan, keys[1]))(begin)
    kernel.manifold.check(end)
    heights = np.asarray(end @ mean, np.float64)
    assert abs(heights.mean() - math.exp(-data_variance)) < 4 * heights.std() / math.sqrt(600) + 5e-3


def test_a_step_of_the_random_walk_has_the_variance_that_the_schedule_loses():
    """On the flat circle: the drift is that variance times the score, beside normal noise of that variance."""
    schedule = schedules.variance_exploding(0.05, 0.5)
    plan = timesteps.plan([1.0, 0.5])
    variance = 0.5**2 - 0.05 * 0.5  # sigma(1 / 2) is the geometric mean of both ends
    keys = jax.random.split(jax.random.key(2), 4000)

    def walked(score):
        field = TangentField(torus(1), lambda x, t: x, lambda x, t: jnp.full_like(x, score))
        return np.asarray(samplers.sample(geodesic_random_walk(), field, schedule, jnp.zeros((4000, 1)), plan, keys))

    still = walked(0.0)
    np.testing.assert_allclose(torus(1).log(still, walked(0.4)), 0.4 * variance, rtol=1e-4)
    assert (still**2).mean() == pytest.approx(variance, rel=5 * math.sqrt(2 / 4000))


@pytest.mark.parametrize(("solver", "stages"), [(geodesic_euler, 1), (geodesic_heun, 2), (geodesic_rk4, 4)])
def test_a_solver_evaluates_the_field_in_each_stage_of_each_step(solver, stages):
    assert solver().nfe(1) == stages and solver().nfe(7) == 7 * stages
    assert geodesic_random_walk().nfe(7) == 7


def test_a_random_walk_needs_a_score():
    field, _ = spiral()
    plan = timesteps.plan([1.0, 0.0])
    x = field.manifold.uniform(jax.random.key(0), (1,))
    with pytest.raises(ValueError, match="only a velocity"):
        samplers.sample(
            geodesic_random_walk(), field, schedules.rectified_flow(), x, plan, jax.random.split(jax.random.key(0), 1)
        )


def test_a_random_walk_needs_brownian_motion():
    """A schedule that shrinks the data is refused, whose differences of variances are not those of the walk."""
    field = TangentField(torus(1), lambda x, t: x, lambda x, t: -x)
    rest = jnp.zeros((1, 1)), timesteps.plan([1.0, 0.0]), jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="geodesic_random_walk: this schedule shrinks the data"):
        samplers.sample(geodesic_random_walk(), field, schedules.rectified_flow(), *rest)
    with pytest.raises(ValueError, match="cannot invert"):
        up = timesteps.plan([0.5, 1.0])
        samplers.sample(geodesic_random_walk(), field, schedules.variance_exploding(), rest[0], up, rest[2])


def test_a_standard_normal_tangent_is_the_same_with_few_bases_at_a_time(monkeypatch):
    """Of frames: as many standard normal coordinates as dimensions, whose squared length is that of the tangent."""
    manifold = frames(3)
    x = jax.jit(frame_prior(3).sample)(jax.random.split(jax.random.key(0), 5))
    noise = jax.random.normal(jax.random.key(1), x.shape)
    normal = lambda: jax.jit(lambda x, noise: geodesic_solvers.standard_normal(manifold, x, noise))(x, noise)
    whole = normal()
    together, mapped = [], jax.lax.map
    noted = lambda function, xs, batch_size: together.append(batch_size) or mapped(function, xs, batch_size=batch_size)
    monkeypatch.setattr(jax.lax, "map", noted)
    for bases, batch_size in ((2 * manifold.dimension * 36, 2), (1, 1)):  # one basis at least, however large it is
        monkeypatch.setattr(geodesic_solvers, "BASES", bases)
        np.testing.assert_allclose(normal(), whole, atol=1e-6)
        assert together.pop() == batch_size and not together
    numbers = noise.reshape(5, -1)[:, : manifold.dimension]
    np.testing.assert_allclose(manifold.inner(x, whole, whole), jnp.sum(numbers**2, 1), rtol=1e-5)


def test_samplers_of_one_kind_refuse_fields_of_the_other():
    field, _ = spiral()
    x = field.manifold.uniform(jax.random.key(0), (1,))
    rest = (schedules.rectified_flow(), x, timesteps.plan([1.0, 0.0]), jax.random.split(jax.random.key(0), 1))
    with pytest.raises(TypeError, match="stays on the manifold"):
        samplers.sample(samplers.heun(), field, *rest)
    with pytest.raises(TypeError, match="takes TangentField"):
        samplers.sample(geodesic_heun(), lambda x, t: x, *rest)
