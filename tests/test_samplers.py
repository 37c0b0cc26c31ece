"""Conformance of every sampler in what it does as a program; see `test_sampler_orders` and `test_sampler_moments`.

Network evaluations are counted while the program runs, not while it is traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import parameterizations, samplers, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import (
    DATA,
    PARAMETERIZATIONS,
    SAMPLERS,
    SCHEDULES,
    STOCHASTIC,
    every_sampler,
    every_schedule,
    exact_denoiser,
    slow_but,
    start,
)

# A few steps, at both ends of every schedule, in float32.


def _round(schedule):
    """The exact denoiser of N(0.4, 0.5^2 I), in a few operations: these tests are not compiled."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scaled = (x - alpha * 0.4) / (0.25 * alpha**2 + sigma**2)
        return Prediction(0.4 + 0.25 * alpha * scaled, sigma * scaled, 0.3 + 0 * x)

    return denoise


@every_sampler
@every_schedule
def test_one_two_and_three_steps_are_finite(name, schedule_name):
    """From t_max to 0 in float32; one step is the estimate of x_0 and nothing else, with no noise left in it."""
    schedule = SCHEDULES[schedule_name]
    x, keys = start(schedule)
    denoise = _round(schedule)
    with jax.disable_jit():
        for steps in (1, 2, 3):
            plan = timesteps.plan(timesteps.uniform(schedule, steps))
            out = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
            assert out.dtype == jnp.float32
            assert out.shape == x.shape
            assert np.isfinite(out).all()
            if steps == 1:
                np.testing.assert_allclose(out, denoise(x, schedule.t_max).x0, rtol=1e-4, atol=1e-5)


@every_sampler
@every_schedule
def test_a_step_from_the_smallest_time_and_a_tiny_step_are_finite(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    smallest = max(schedule.t_min, 1e-4)
    x, keys = start(schedule)
    with jax.disable_jit():
        plan = timesteps.plan(np.array([smallest * 1.5, smallest, 0.0], np.float32))
        out = samplers.sample(SAMPLERS[name], _round(schedule), schedule, x, plan, keys)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("parameterization", list(PARAMETERIZATIONS))
@every_schedule
def test_networks_of_every_parameterization_sample_finitely(parameterization, schedule_name):
    """Whatever a denoiser accepts, every sampler that reads it can start at t_max and end at 0."""
    schedule, p = SCHEDULES[schedule_name], PARAMETERIZATIONS[parameterization]()
    network = lambda x, clock, condition: jnp.tanh(x) * jnp.cos(clock)[:, None]
    try:
        denoise = parameterizations.denoiser(network, schedule, p)
    except ValueError:
        pytest.skip(f"{parameterization} is refused on {schedule_name}")
    x, keys = start(schedule)
    with jax.disable_jit():
        for name in ("ddpm", "heun", "dpmpp_2m"):
            plan = timesteps.plan(timesteps.uniform(schedule, 3))
            assert np.isfinite(samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)).all(), name


# What the program does: evaluations, batches, compilation, derivatives, the way.


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_nfe_counted_while_running_is_the_documented_one(name, steps):
    schedule, calls = SCHEDULES["cosine"], []
    exact = exact_denoiser(DATA["gaussian"], schedule)

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    x, keys = start(schedule)
    plan = timesteps.plan(timesteps.uniform(schedule, steps))
    with jax.disable_jit():
        samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        jax.effects_barrier()
    assert len(calls) == SAMPLERS[name].nfe(steps)
    published = {"heun": 2 * steps - 1}.get(name, steps)
    assert len(calls) == published


@functools.cache
def _compiled(name):
    """(x, keys) -> four steps on the cosine schedule, compiled, with its evaluations counted as it runs."""
    schedule, calls = SCHEDULES["cosine"], []
    exact = exact_denoiser(DATA["gaussian"], schedule)

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    plan = timesteps.plan(timesteps.uniform(schedule, 4))
    run = jax.jit(lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys, trajectory=True))
    return run, calls, denoise, schedule, plan


@every_sampler
def test_compiled_program_equals_the_eager_one_and_makes_as_many_evaluations(name):
    run, calls, denoise, schedule, plan = _compiled(name)
    x, keys = start(schedule)
    jax.effects_barrier()
    calls.clear()
    compiled, _ = run(x, keys)
    jax.block_until_ready(compiled)
    jax.effects_barrier()
    assert len(calls) == SAMPLERS[name].nfe(4)
    with jax.disable_jit():
        eager = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


@every_sampler
def test_trajectory_has_every_step(name):
    run, _, denoise, schedule, plan = _compiled(name)
    x, keys = start(schedule)
    out, trajectory = run(x, keys)
    assert trajectory.x.shape == (5, *x.shape)
    assert trajectory.x0.shape == (4, *x.shape)
    np.testing.assert_array_equal(trajectory.x[0], x)
    np.testing.assert_array_equal(trajectory.x[-1], out)
    for i in range(4):
        expected = denoise(trajectory.x[i], plan.t[i]).x0
        np.testing.assert_allclose(trajectory.x0[i], expected, rtol=1e-4, atol=1e-5)


@every_sampler
def test_a_sample_depends_on_its_own_seed_alone(name):
    """Sample i is the same in any company and in any order."""
    run, _, denoise, schedule, plan = _compiled(name)
    x, keys = start(schedule)
    out, _ = run(x, keys)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(x[order], keys[order])[0], out[order], rtol=1e-5, atol=1e-6)
    with jax.disable_jit():
        alone = samplers.sample(SAMPLERS[name], denoise, schedule, x[1:2], plan, keys[1:2])
    np.testing.assert_allclose(alone, out[1:2], rtol=1e-4, atol=1e-5)
    changed, _ = run(x, keys.at[0].set(jax.random.key(99)))
    np.testing.assert_array_equal(changed[1:], out[1:])
    assert (np.asarray(changed[0] != out[0]).all()) == (SAMPLERS[name].draws > 0)


@pytest.mark.parametrize("name", slow_but([("ddpm",)], [("ddpm",), ("heun",), ("dpmpp_2m",)]))
def test_samplers_vmap(name):
    """A second batch axis by `vmap` is the batch again."""
    schedule = SCHEDULES["cosine"]
    denoise, plan = exact_denoiser(DATA["gaussian"], schedule), timesteps.plan(timesteps.uniform(schedule, 3))
    x, keys = start(schedule)
    run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
    mapped = jax.vmap(run)(x.reshape(2, 2, 2), keys.reshape(2, 2))
    np.testing.assert_allclose(mapped.reshape(4, 2), run(x, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", slow_but([("ddpm(learned)",), ("heun",)], [(name,) for name in SAMPLERS]))
def test_gradient_through_sampling(name, x64):
    """On Gaussian data the whole walk is affine in x: its derivative is the difference of two samples."""
    schedule = SCHEDULES["cosine"]
    denoise, plan = exact_denoiser(DATA["gaussian"], schedule), timesteps.plan(timesteps.uniform(schedule, 3))
    keys = jax.random.split(jax.random.key(0), 2)
    x, direction = jnp.asarray([[0.4, -1.0], [0.2, 0.6]]), jnp.asarray([[1.0, 0.5], [-0.3, 2.0]])
    run = lambda x: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)

    @jax.jit
    def both(x):
        difference = run(x + direction) - run(x)
        _, derivative = jax.jvp(run, (x,), (direction,))
        gradient = jax.grad(lambda x: run(x)[0].sum())(x)
        return difference, derivative, gradient

    difference, derivative, gradient = both(x)
    np.testing.assert_allclose(derivative, difference, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((gradient * direction).sum(), difference[0].sum(), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(gradient[1], 0)


def test_gradient_through_a_learned_variance_is_finite():
    """The last step adds no noise; its variance of zero must not make the network's gradient NaN."""
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.5, 0.0]))
    x, keys = start(schedule)

    def loss(weight):
        denoise = lambda x, t: Prediction(weight * x, weight * x, jax.nn.sigmoid(weight * x))
        return samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, plan, keys).sum()

    assert np.isfinite(jax.jit(jax.grad(loss))(0.5))


def _count(jaxpr, primitive):
    """How often a primitive stands in a program, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _count(inner, primitive)
    return total


@every_sampler
def test_program_holds_a_constant_number_of_networks(name):
    """Whatever the number of steps; the tangent stands for the network."""
    schedule = SCHEDULES["edm"]
    x, keys = start(schedule)

    def copies(steps):
        plan = timesteps.plan(timesteps.uniform(schedule, steps))
        denoise = lambda x, t: Prediction(jnp.tan(x), x, 0.5 + 0 * x)
        run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        return _count(jax.make_jaxpr(run)(x, keys).jaxpr, "tan")

    assert copies(2) == copies(30)
    assert 1 <= copies(2) <= 2


@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
@pytest.mark.parametrize("name", ["ddpm", "heun", "dpmpp_2m"])
def test_any_rank_and_promotion_of_half_precision(name, shape):
    schedule, keys = SCHEDULES["cosine"], jax.random.split(jax.random.key(0), 2)
    denoise = lambda x, t: Prediction(0.5 * x, x / 2, None)
    with jax.disable_jit():
        plan = timesteps.plan(timesteps.uniform(schedule, 2))
        out = samplers.sample(SAMPLERS[name], denoise, schedule, jnp.ones((2, *shape), jnp.bfloat16), plan, keys)
    assert out.shape == (2, *shape)
    assert out.dtype == jnp.float32


# Bad input.


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: samplers.ddpm("medium"), "medium"),
        (lambda: samplers.ddim(-0.1), "eta"),
        (lambda: samplers.ddim(1.5), "eta"),
        (lambda: samplers.ddim(float("nan")), "eta"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_do_not_invert(name):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    denoise, plan = exact_denoiser(DATA["gaussian"], schedule), timesteps.plan(np.array([0.1, 0.5]))
    with pytest.raises(ValueError, match="invert"):
        samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)


def test_learned_variance_must_be_learned():
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    denoise = lambda x, t: Prediction(x, x)
    with pytest.raises(ValueError, match="learned"):
        samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, timesteps.plan(np.array([1.0, 0.0])), keys)


def test_one_key_a_sample():
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.0]))
    for wrong in (keys[:3], keys[0]):
        with pytest.raises(ValueError, match="key"):
            samplers.sample(samplers.ddim(), exact_denoiser(DATA["gaussian"], schedule), schedule, x, plan, wrong)


def test_prior_draws_each_example_from_its_own_key():
    schedule, keys = SCHEDULES["edm"], jax.random.split(jax.random.key(0), 500)
    x = samplers.prior(schedule, keys, (4, 4, 1))
    assert x.shape == (500, 4, 4, 1)
    np.testing.assert_array_equal(samplers.prior(schedule, keys[7:9], (4, 4, 1)), x[7:9])
    assert scipy.stats.kstest(np.asarray(x).ravel() / 80.0, "norm").pvalue > 1e-3
