"""Conformance of every sampler in what it does as a program; see `test_sampler_orders` and `test_sampler_moments`.

Two programs a sampler, compiled once: its own steps on any schedule, float32, with network evaluations counted while
they run; and `sample` with its gradient under `vmap`, float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import (
    DETERMINISTIC,
    PARAMETERIZATIONS,
    QUICK,
    SAMPLERS,
    SCHEDULES,
    any_schedule,
    published,
    round_denoiser,
    slow_but,
    start,
)

# Those that differ from another by a number or a weight: slow.
VARIANTS = {
    "ddpm(large)",
    "ddpm(analytic)",
    "ddim(0.5)",
    "dpm_2",
    "dpmpp_2s(grid)",
    "unipc(1, bh1)",
    "unipc(2, bh1)",
    "deis(4)",
    "lms(2)",
    "dpmpp_2m_sde(heun)",
    "predictor_corrector(sigma)",
}
every_name = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in SAMPLERS if name not in VARIANTS], [(name,) for name in SAMPLERS])
)
# Those that ask the network at a point of their own before they ask it at (x_t, t), if they do at all.
LOOK_ELSEWHERE = {"edm(churn)"}


# A few steps, at both ends of every schedule, in float32.


LONGEST = 5


@functools.cache
def _steps(name):
    """(schedule's name, grid, x, noise) -> x after the steps, and the evaluations made: one compilation for all."""
    sampler = SAMPLERS[name]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def follow(which, grid, steps, x, noise):
        schedule = any_schedule(which)
        exact = round_denoiser(schedule)
        calls = jax.new_ref(jnp.zeros((), jnp.int32))  # counts as the program runs, and no callback forbids to keep it

        def denoise(x, t):
            calls[...] += 1
            return exact(x, t)

        plan = timesteps.Plan(grid[:-1], grid[1:], jnp.zeros(LONGEST, bool))
        step = lambda i, state: sampler.step(state, denoise, schedule, plan, i, noise[i])
        return jax.lax.fori_loop(0, steps, step, sampler.init(x, schedule, plan)).x, calls[...]

    def run(schedule_name, grid, x, noise=None):
        if noise is None:
            noise = np.random.default_rng(0).standard_normal((LONGEST, sampler.draws, *x.shape))
        padded = np.append(grid, [grid[-1]] * (LONGEST + 1 - len(grid))).astype(np.float32)
        which = list(SCHEDULES).index(schedule_name)
        out, calls = follow(which, padded, len(grid) - 1, x, np.asarray(noise, np.float32))
        return np.asarray(out), int(calls)

    return run


_start = functools.cache(lambda schedule_name: np.asarray(start(SCHEDULES[schedule_name])[0]))


@pytest.mark.parametrize("name, most", [("pndm", 5), ("predictor_corrector", 3)])
def test_the_last_step_makes_one_evaluation(name, most):
    """One step, and the last of two, are onto sigma = 0 of a rectified flow."""
    schedule = SCHEDULES["rectified_flow"]
    exact = round_denoiser(schedule)
    calls = []
    denoise = lambda x, t: calls.append(t) or exact(x, t)
    for steps, evaluations in ((1, 1), (2, most)):
        calls.clear()
        plan = timesteps.plan(timesteps.uniform(schedule, steps))
        with jax.disable_jit():
            keys = jax.random.split(jax.random.key(0), 1)
            x = samplers.sample(SAMPLERS[name], denoise, schedule, jnp.ones((1, 2)), plan, keys)
        assert len(calls) == SAMPLERS[name].nfe(steps) == evaluations and np.isfinite(x).all()


@pytest.mark.extended
@every_name
def test_a_few_steps_are_finite_and_make_the_documented_evaluations(name):
    """From t_max to 0 in float32; one step is the estimate of x_0 and nothing else, with no noise left in it."""
    for schedule_name, schedule in SCHEDULES.items():
        x = _start(schedule_name)
        for steps in (1, 2, 3, 5):
            out, calls = _steps(name)(schedule_name, timesteps.uniform(schedule, steps), x)
            case = f"{schedule_name}, {steps} steps"
            assert out.dtype == np.float32, case
            assert np.isfinite(out).all(), case
            assert calls == SAMPLERS[name].nfe(steps) == published(name)[1](steps), case
            if steps == 1:
                with jax.disable_jit():
                    expected = round_denoiser(schedule)(x, schedule.t_max).x0
                np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5, err_msg=case)


@pytest.mark.extended
@every_name
def test_a_step_from_the_smallest_time_and_a_tiny_step_are_finite(name):
    for schedule_name, schedule in SCHEDULES.items():
        smallest = max(schedule.t_min, 1e-4)
        out, _ = _steps(name)(schedule_name, [smallest * 1.5, smallest, 0.0], _start(schedule_name))
        assert np.isfinite(out).all(), schedule_name


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", slow_but([(name,) for name in DETERMINISTIC if name not in VARIANTS], [(name,) for name in DETERMINISTIC])
)
def test_going_up_from_the_data_to_pure_noise_is_finite(name):
    for schedule_name in SCHEDULES:
        for grid in ([0.0, 0.1, 0.3, 0.6, 1.0], [0.0, 1.0]):
            assert np.isfinite(_steps(name)(schedule_name, grid, _start("cosine"))[0]).all(), schedule_name


# Options that no other conformance test has: each changes which of a method's formulas a step takes.
FORMS = {
    "dpmpp_2s(grid, lower_order_final)": samplers.dpmpp_2s("grid", lower_order_final=True),
    "dpmpp_2m(lower_order_final)": samplers.dpmpp_2m(lower_order_final=True),
    "dpmpp_3m(lower_order_final)": samplers.dpmpp_3m(lower_order_final=True),
    "unipc(3, lower_order_final)": samplers.unipc(3, lower_order_final=True),
    "deis(log-SNR)": samplers.deis(3, "log-SNR"),
    "clipped(dpmpp_3m)": samplers.clipped(samplers.dpmpp_3m(), 9.0, keeps_eps=False),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("dpmpp_2s(grid)",)], [(name,) for name in (*DETERMINISTIC, *FORMS)]))
def test_a_known_sample_and_its_noise_are_followed_exactly_between_both_ends(name):
    """The estimate (A, E) stays as it is, so the flow is alpha A + sigma E, whatever the steps, up or down.

    In t it is a straight line on these schedules. At t = 0, E is nothing that could be read off the sample.
    """
    sampler = (SAMPLERS | FORMS)[name]
    A, E = np.array([[0.9, -0.5]], np.float32), np.array([[-1.2, 0.7]], np.float32)
    denoise = lambda x, t: Prediction(jnp.asarray(A), jnp.asarray(E))
    for schedule_name in ("rectified_flow", "edm"):
        schedule = SCHEDULES[schedule_name]
        at = lambda t: np.float32(schedule.alpha(t)) * A + np.float32(schedule.sigma(t)) * E  # noqa: B023
        for grid in ([0.0, 0.15, 0.4, 0.65, 1.0], [0.0, 0.2, 1.0], [1.0, 0.65, 0.4, 0.15, 0.0]):
            plan = timesteps.Plan(*np.float32([grid[:-1], grid[1:]]), np.zeros(len(grid) - 1, bool))
            with jax.disable_jit():
                state = sampler.init(jnp.asarray(at(grid[0])), schedule, plan)
                for i, s in enumerate(grid[1:]):
                    state = sampler.step(state, denoise, schedule, plan, i, jnp.zeros((0, 1, 2)))
                    scale = max(float(schedule.sigma(s)), 1)
                    np.testing.assert_allclose(state.x, at(s), atol=2e-5 * scale, err_msg=f"{schedule_name}, {s}")


@pytest.mark.extended
@pytest.mark.parametrize(
    "parameterization, name",
    slow_but(
        [(parameterization, "ddim") for parameterization in PARAMETERIZATIONS if parameterization != "clipped_x0"],
        [
            (parameterization, name)
            for parameterization in PARAMETERIZATIONS
            for name in ("ddim", "ddpm", "heun", "dpmpp_2m", "dpm_solver_3", "unipc", "deis", "pndm")
        ],
    ),
)
def test_networks_of_every_parameterization_sample_finitely(parameterization, name):
    """Whatever a denoiser accepts, a sampler can start at t_max and end at 0."""
    p = PARAMETERIZATIONS[parameterization]()
    sampler = SAMPLERS[name]
    network = lambda x, clock, condition: jnp.tanh(x) * jnp.cos(clock)[:, None]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(which, grid, x, keys):
        schedule = any_schedule(which)
        predict = lambda x, t: parameterizations.predict(network, schedule, p, x, t)
        denoise = lambda x, t: predict(x, t)._replace(variance=jnp.full_like(x, 0.3))
        plan = timesteps.Plan(grid[:-1], grid[1:], np.zeros(3, bool))
        return samplers.sample(sampler, denoise, schedule, x, plan, keys)

    accepted = 0
    for which, schedule in enumerate(SCHEDULES.values()):
        try:
            parameterizations.denoiser(network, schedule, p)
        except ValueError:
            continue
        accepted += 1
        x, keys = start(schedule)
        assert np.isfinite(run(which, timesteps.uniform(schedule, 3), x, keys)).all()
    assert accepted >= 3


# What `sample` does with it: the way, batches, `vmap`, derivatives, compilation. (Fast for one or two of a file.)

FAMILIES = (
    "ddpm",
    "ddim",
    "rk4",
    "dpm_solver_3",
    "dpmpp_2m",
    "unipc",
    "deis",
    "pndm",
    "dpm_2_ancestral",
    "edm(churn)",
    "dpmpp_2m_sde",
    "predictor_corrector",
    "interpolant_sde",
)
every_family = pytest.mark.parametrize("name", slow_but([(name,) for name in FAMILIES], [(name,) for name in SAMPLERS]))


@functools.cache
def _sampled(name):
    """(x `[G, B, D]`, keys `[G, B]`) -> samples, ways and gradients of four steps on the cosine schedule, in groups.

    The gradient is that of the first sample's sum in each group, with respect to the group.
    """
    schedule, denoise, plan = _four_steps()

    def run(x, keys):
        def first(x):
            out, way = samplers.sample_trajectory(SAMPLERS[name], denoise, schedule, x, plan, keys)
            return out[0].sum(), (out, way)

        (_, (out, way)), gradient = jax.value_and_grad(first, has_aux=True)(x)
        return out, way, gradient

    return jax.jit(jax.vmap(run), compiler_options=QUICK)


def _four_steps():
    schedule = SCHEDULES["cosine"]
    return schedule, round_denoiser(schedule), timesteps.plan(timesteps.uniform(schedule, 4))


def _groups():
    """Two groups of two samples in two dimensions, with keys, in float64."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 2)))
    return x, jax.random.split(jax.random.key(0), (2, 2))


@pytest.mark.extended
@every_family
def test_trajectory_has_every_step(name, x64):
    _, denoise, plan = _four_steps()
    x, keys = _groups()
    out, way, _ = _sampled(name)(x, keys)
    assert way.x.shape == (2, 5, 2, 2)
    assert way.x0.shape == (2, 4, 2, 2)
    np.testing.assert_array_equal(way.x[:, 0], x)
    np.testing.assert_array_equal(way.x[:, -1], out)
    if name not in LOOK_ELSEWHERE:
        with jax.disable_jit():
            for i in range(4):
                np.testing.assert_allclose(way.x0[:, i], denoise(way.x[:, i], plan.t[i]).x0, rtol=1e-7, atol=1e-9)


@functools.cache
def _noise(draws):
    """The noise that `sample` hands out in four steps, `[4, draws, G, B, D]`."""
    schedule, _, plan = _four_steps()
    x, keys = _groups()
    x = x.reshape(4, 2)
    keys = keys.reshape(4)

    def draw(k):
        step = lambda state, denoise, schedule, plan, i, noise: samplers.State(noise[k], state.x0)
        recorder = samplers.Sampler(SAMPLERS["ddim"].init, step, draws, lambda steps: 0)
        return samplers.sample_trajectory(recorder, lambda x, t: None, schedule, x, plan, keys)[1].x[1:]

    return np.stack([draw(k) for k in range(draws)], axis=1) if draws else np.zeros((4, 0, 4, 2))


@pytest.mark.extended
@every_family
def test_vmapped_samples_are_those_of_the_sampler_s_own_steps(name, x64):
    """`sample`, two batch axes and a gradient beside it change nothing in the steps, which have the same noise."""
    x, keys = _groups()
    out, _, _ = _sampled(name)(x, keys)
    noise = np.zeros((LONGEST, SAMPLERS[name].draws, 4, 2))
    noise[:4] = _noise(SAMPLERS[name].draws)
    with jax.enable_x64(False):
        expected, _ = _steps_of_four(name)(np.asarray(x, np.float32).reshape(4, 2), noise)
    np.testing.assert_allclose(out.reshape(4, 2), expected, rtol=1e-3, atol=1e-4)


def _steps_of_four(name):
    return lambda x, noise: _steps(name)("cosine", timesteps.uniform(SCHEDULES["cosine"], 4), x, noise)


@pytest.mark.extended
@every_family
def test_a_sample_depends_on_its_own_seed_alone(name, x64):
    """Sample i is the same in any company and in any order."""
    run = _sampled(name)
    x, keys = _groups()
    out, _, _ = run(x, keys)
    order = np.array([2, 0, 3, 1])
    among = lambda array: array.reshape(4, *array.shape[2:])[order].reshape(array.shape)
    np.testing.assert_allclose(run(among(x), among(keys))[0], among(out), rtol=1e-12, atol=1e-12)
    company = run(x.at[:, 1].add(1.0), keys)[0]
    np.testing.assert_array_equal(company[:, 0], out[:, 0])
    changed = run(x, keys.at[0, 0].set(jax.random.key(99)))[0]
    assert np.array_equal(np.asarray(changed[0, 0] != out[0, 0]), [SAMPLERS[name].draws > 0] * 2)
    np.testing.assert_array_equal(changed.reshape(4, 2)[1:], out.reshape(4, 2)[1:])


@every_family
def test_gradient_through_sampling(name, x64):
    """The derivative is the difference of two samples; most are affine in x, where this is exact."""
    run = _sampled(name)
    x, keys = _groups()
    _, _, gradient = run(x, keys)
    direction = jnp.asarray(np.random.default_rng(1).standard_normal(x.shape))
    first = lambda scale: run(x + scale * direction, keys)[0][:, 0].sum(-1)
    difference = (first(1e-4) - first(-1e-4)) / 2e-4
    # (From pure noise the ancestral samplers draw x_s without a look at x_t.)
    assert SAMPLERS[name].draws or np.abs(difference).min() > 1e-4
    np.testing.assert_allclose((gradient * direction).sum((1, 2)), difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(gradient[:, 1], 0)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("dpmpp_2m_sde",)], [(name,) for name in SAMPLERS]))
def test_compiled_program_equals_the_eager_one(name):
    schedule, denoise, plan = _four_steps()
    x, keys = start(schedule)
    run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
    compiled = jax.jit(run, compiler_options=QUICK)(x, keys)
    with jax.disable_jit():
        np.testing.assert_allclose(compiled, run(x, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_gradient_through_a_learned_variance_is_finite():
    """The last step adds no noise; its variance of zero must not make the gradient of network or times NaN."""
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)

    def loss(weight, middle):
        plan = timesteps.Plan(jnp.stack([1.0, middle]), jnp.stack([middle, 0.0]), np.zeros(2, bool))
        denoise = lambda x, t: Prediction(weight * x, weight * x, jax.nn.sigmoid(weight * x))
        return samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, plan, keys).sum()

    assert np.isfinite(jax.jit(jax.grad(loss, (0, 1)))(0.5, 0.5)).all()


def test_a_sampler_around_another_keeps_what_that_one_is():
    """Its clip, by which a watermark in the noise is detected, its mask and its reading of a variance."""
    inner = samplers.padded(samplers.clipped(samplers.ddpm("learned"), 2.0, keeps_eps=False), jnp.ones((1, 2), bool))
    for wrapped in (samplers.predictor_corrector(inner), samplers.per_frame(inner)):
        assert wrapped.clip == (2.0, False) and wrapped.real is inner.real and wrapped.reads_variance
