"""Gradients through every sampler on every schedule, from its one end to the other, beside finite differences.

With respect to the sample, the times of the plan (a learned grid) and the parameters of a learned schedule. The ends of
a process (alpha = 0, sigma = 0) have no gradient by definition, see `samplers.sample.held_at_ends`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import ALL_SCHEDULES, DATA, QUICK, SAMPLERS, any_schedule, exact_denoiser, slow_but

pytestmark = pytest.mark.usefixtures("x64")
FIXED = {name: schedule for name, schedule in ALL_SCHEDULES.items() if name != "learned"}
NAMES = [*FIXED, "learned"]
# Between the times of the tabulated processes, whose slopes have kinks there.
TIMES = np.array([0.73155, 0.41235, 0.15745])
PARAMS = jax.tree.map(lambda a: np.asarray(a, np.float64), dict(oracles.monotone_network()))
X = np.array([[0.9, -0.5], [-1.1, 1.6]])


def _total(values, name, schedule_of):
    """A sum over what the sampler makes of (parameters, x, times)."""
    params, x, grid = values
    schedule = schedule_of(params)
    plan = timesteps.Plan(grid[:-1], grid[1:], np.zeros(grid.size - 1, bool))
    keys = jax.random.split(jax.random.key(7), len(x))
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    return jnp.sum(jnp.sin(samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)))


def _program(name):
    """(which schedule, (parameters, x, times), twelve of them moved) -> gradients and sums: one program for all."""

    def total(values, which):
        return _total(values, name, lambda params: any_schedule(which, {**FIXED, "learned": schedules.learned(params)}))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def program(which, values, moved):
        return jax.grad(total)(values, which), jax.lax.map(lambda values: total(values, which), moved)

    return program


def _values(schedule):
    grid = np.concatenate([[schedule.t_max], TIMES, [0.0]])
    return PARAMS, float(schedule.sigma(schedule.t_max)) * X, grid


def _directions(values):
    """Three directions, each like the values: of the parameters, of x, and of the times between the ends."""
    generator = np.random.default_rng(1)
    drawn = jax.tree.map(lambda a: generator.standard_normal(np.shape(a)), values)
    drawn[2][[0, -1]] = 0
    zero = jax.tree.map(np.zeros_like, drawn)
    return [tuple(drawn[j] if j == i else zero[j] for j in range(3)) for i in range(3)]


@pytest.mark.extended
@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [("euler_ancestral", "rectified_flow"), ("euler_maruyama", "rectified_flow")],
        [
            ("ddpm", "learned"),
            ("euler_ancestral", "rectified_flow"),
            ("euler_maruyama", "rectified_flow"),
            ("unipc", "linear_beta"),
            ("dpm_2_ancestral", "rectified_flow"),
            ("edm", "rectified_flow"),
            ("dpmpp_sde", "rectified_flow"),
        ],
    ),
)
def test_gradients_are_finite_from_end_to_end(name, schedule_name):
    """Where they have been NaN; in two steps."""
    schedule = ALL_SCHEDULES[schedule_name]
    among = schedules.learned if schedule_name == "learned" else lambda params: schedule
    params, x, grid = _values(schedule)
    program = jax.jit(jax.grad(lambda values: _total(values, name, among)), compiler_options=QUICK)
    gradients = program((params, x, grid[[0, 2, -1]]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), gradients
    assert gradients[2][1] != 0  # (From alpha = 0, with all noise new, the samples may forget x.)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_are_those_of_finite_differences(name):
    """On every schedule."""
    wrong, step, program = [], 1e-6, _program(name)
    for which, schedule_name in enumerate(NAMES):
        values = _values(ALL_SCHEDULES[schedule_name])
        directions = _directions(values)
        moved = [
            jax.tree.map(lambda a, d, by=by: a + by * d, values, direction)
            for direction in directions
            for by in (step, -step, 2 * step, -2 * step)
        ]
        gradients, sums = program(which, values, jax.tree.map(lambda *a: np.stack(a), *moved))
        found = [
            sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction)))
            for direction in directions
        ]
        near = (sums[0::4] - sums[1::4]) / (2 * step)
        far = (sums[2::4] - sums[3::4]) / (4 * step)
        differences = (4 * near - far) / 3  # of fourth order: samples of variance_exploding move fast with t
        assert np.isfinite(differences).all()
        finite = jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), gradients)
        if not all(jax.tree.leaves(finite)):
            wrong.append(f"{schedule_name}: not finite: {finite}")
        elif not np.allclose(found, differences, rtol=1e-4, atol=1e-6):
            wrong.append(f"{schedule_name}: {np.array(found)}, by differences {np.array(differences)}")
    assert not wrong, "\n".join(wrong)


def test_a_learned_variance_has_a_derivative_onto_the_data_where_no_noise_is_drawn():
    schedule = schedules.rectified_flow()
    sampler = samplers.ddpm("learned")
    x = jnp.ones((1, 1))

    def end(variance, t):
        plan = timesteps.Plan(t[None], jnp.zeros(1), jnp.zeros(1, bool))
        denoise = lambda x, t: Prediction(x / 2, 3 * x / 2, jnp.full_like(x, variance))
        state = sampler.init(x, schedule, plan)
        return sampler.step(state, denoise, schedule, plan, 0, jnp.ones((1, 1, 1))).x.sum()

    with jax.disable_jit():
        value, slopes = jax.value_and_grad(end, argnums=(0, 1))(0.3, jnp.asarray(0.5))
    assert float(value) == 0.5 and np.abs(slopes).max() < 1e-12


def _slope_and_difference(total, value):
    """The derivative of a function of one number, and the one by central differences."""
    program = jax.jit(total, compiler_options=QUICK)
    found = jax.jit(jax.grad(total), compiler_options=QUICK)(value)
    return found, (program(value + 1e-6) - program(value - 1e-6)) / 2e-6


@pytest.mark.extended
@pytest.mark.parametrize(
    "make, value",
    [(lambda r: samplers.dpmpp_sde(r=r), 0.4), (lambda scale: samplers.interpolant_sde("flow_grpo", scale), 0.49)],
)
def test_the_parameters_of_a_sampler_have_derivatives_from_pure_noise_on(make, value):
    """The first step is infinitely long in log(alpha / sigma), which hides the parameter or takes its limit."""
    schedule = schedules.rectified_flow()
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    plan = timesteps.plan(np.array([1.0, 0.6, 0.3, 0.0]))
    keys = jax.random.split(jax.random.key(3), 2)
    total = lambda value: jnp.sum(jnp.sin(samplers.sample(make(value), denoise, schedule, jnp.asarray(X), plan, keys)))
    found, expected = _slope_and_difference(total, value)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_frame_that_rests_at_an_end_leaves_the_gradients_finite():
    """The first is at alpha = 0, the last at the data; the derivative of the other's step from 1/2 to 1/4 by hand."""
    schedule = schedules.rectified_flow()
    sampler = samplers.per_frame(samplers.ddim(1.0))
    plan = timesteps.Plan(np.array([[1.0, 0.5, 0.0]]), np.array([[1.0, 0.25, 0.0]]), np.zeros(1, bool))
    x, z = np.array([[0.9, -0.5, 0.3]]), np.array([[[0.2, 0.7, -0.4]]])
    state = sampler.init(jnp.asarray(x), schedule, plan)

    def stepped(a):
        denoise = lambda x_t, t: Prediction(a * x_t, x_t / (2 + a))
        return sampler.step(state, denoise, schedule, plan, 0, jnp.asarray(z)).x

    total = lambda a: (lambda x_s: (x_s @ jnp.array([[1.0], [2.0], [4.0]]))[0, 0])(stepped(a))
    value, slope = jax.jit(jax.value_and_grad(total), compiler_options=QUICK)(0.7)
    down, up = 0.25 / 3, 0.25 * np.sqrt(8) / 3  # the signal-to-noise ratios are 1 and 9
    moved = 0.75 * 0.7 * -0.5 + down * -0.5 / 2.7 + up * 0.7
    np.testing.assert_allclose(value, 0.9 + 2 * moved + 4 * 0.3, rtol=1e-9)
    np.testing.assert_allclose(slope, 2 * (0.75 * -0.5 + down * 0.5 / 2.7**2), rtol=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize(
    "make",
    [
        lambda: samplers.ddim(1.0),
        samplers.ddpm,
        lambda: samplers.ddpm("large"),
        samplers.euler_maruyama,
        samplers.interpolant_sde,
        samplers.reverse_diffusion,
    ],
)
def test_frames_that_wait_or_have_arrived_leave_the_gradients_finite(make):
    """Along a plan, in which the second frame waits for the first."""
    schedule = schedules.rectified_flow()
    plan = timesteps.staggered(np.array([1.0, 0.5, 0.0]), frames=2, delay=2)
    keys = jax.random.split(jax.random.key(3), 2)
    x = jnp.asarray(X)[..., None]

    def total(a):
        denoise = lambda x_t, t: Prediction(a * x_t, x_t / (2 + a))
        return jnp.sum(jnp.sin(samplers.sample(samplers.per_frame(make()), denoise, schedule, x, plan, keys)))

    found, expected = _slope_and_difference(total, 0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
