"""What `sample` carries from step to step for a guidance with memory, and which samplers take which guidance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, timesteps
from diffusion.guidance import Memory
from diffusion.parameterizations import Prediction
from diffusion.samplers import Sampler, State
from tests.conformance import SCHEDULES, slow_but

SCHEDULE = SCHEDULES["cosine"]
X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
GRID = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.1])
RENOISE = np.array([False, False, True, False, False])


def _sample(sampler, denoise, plan, **more):
    keys = jax.random.split(jax.random.key(0), 3)
    return samplers.sample_trajectory(sampler, denoise, SCHEDULE, jnp.asarray(X), plan, keys, **more)[1]


def _white(mean, schedule=SCHEDULE, seen=lambda: None):
    """The denoiser of N(mean, I), which calls `seen` while it runs."""

    def denoise(x, t):
        jax.debug.callback(seen)
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        eps = sigma * (x - alpha * mean) / (alpha**2 + sigma**2)
        return Prediction(mean + alpha * (x - alpha * mean) / (alpha**2 + sigma**2), eps)

    return denoise


def _diary():
    """Remembers where it was evaluated, and predicts what it remembers: at the start twice x."""

    def apply(memory, x_t, t):
        return Prediction(memory, (x_t - SCHEDULE.alpha(t) * memory) / SCHEDULE.sigma(t)), x_t

    return Memory(lambda x: 2 * x, apply)


@pytest.mark.parametrize(
    "name, compiled", slow_but([("heun", True)], [("heun", True), ("heun", False), ("ddim", True), ("ddim", False)])
)
def test_the_first_evaluation_of_a_step_writes_and_all_read_the_last_steps(name, compiled):
    """Heun evaluates twice in a step, at another x: were the second one written or read, the diary would hold that."""
    plan = timesteps.plan(np.array([0.9, 0.6, 0.3, 0.1]))
    run = lambda: _sample(getattr(samplers, name)(), _diary(), plan)
    with jax.disable_jit(not compiled):
        way = run()
    np.testing.assert_array_equal(way.x0[0], 2 * X)
    np.testing.assert_array_equal(way.x0[1:], way.x[:2])
    if name == "heun":  # both slopes of the first step are of x0 = 2 x
        (a_t, s_t), (a_s, s_s) = ((SCHEDULE.alpha(t), SCHEDULE.sigma(t)) for t in (0.9, 0.6))
        slopes = [jax.jvp(f, (t,), (1.0,))[1] for t in (0.9, 0.6) for f in (SCHEDULE.alpha, SCHEDULE.sigma)]
        first = slopes[0] * 2 * X + slopes[1] * (X - a_t * 2 * X) / s_t
        euler = X + (0.6 - 0.9) * first
        second = slopes[2] * 2 * X + slopes[3] * (euler - a_s * 2 * X) / s_s
        np.testing.assert_allclose(way.x[1], X - 0.3 * (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_renoising_starts_the_memory_afresh():
    """And a hook does not touch it."""
    hook = lambda x, s, i, keys: x + 1.0
    way = _sample(samplers.ddim(), _diary(), timesteps.plan(GRID, RENOISE), after_step=hook)
    np.testing.assert_array_equal(way.x0[1], way.x[0])
    np.testing.assert_allclose(way.x0[3], 2 * (way.x[3] - 1.0), rtol=1e-6, atol=1e-6)  # made before the hook
    np.testing.assert_array_equal(way.x0[4], way.x[3])


def test_momentum_is_the_papers_running_average():
    """Sadat et al. 2024, algorithm 1 with its momentum buffer, along DDIM's steps in numpy."""
    schedule = SCHEDULES["variance_exploding"]
    beta = -0.5
    w = 4.0
    r = 0.8
    grid = np.array([0.7, 0.6, 0.45, 0.3])
    x = 3.0 * X
    average = 0.0
    denoisers = [_white(jnp.array(mean), schedule) for mean in ([0.7, -0.4], [-0.2, 0.3])]
    guided = guidance.adaptive_projected(guidance.separately(*denoisers), schedule, w, 0.2, r, beta)
    keys = jax.random.split(jax.random.key(0), 3)
    out = samplers.sample(samplers.ddim(), guided, schedule, jnp.asarray(x), timesteps.plan(grid), keys)
    for t, s in itertools.pairwise(grid):
        cond, uncond = (np.asarray(d(jnp.asarray(x), float(t)).x0) for d in denoisers)
        average = cond - uncond + beta * average
        step = average * np.minimum(1, r / np.linalg.norm(average, axis=1, keepdims=True))
        unit = cond / np.linalg.norm(cond, axis=1, keepdims=True)
        parallel = (step * unit).sum(1, keepdims=True) * unit
        x0 = cond + (w - 1) * (step - parallel + 0.2 * parallel)
        x = x0 + float(schedule.sigma(s) / schedule.sigma(t)) * (x - x0)
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-5)


def test_a_trajectory_with_memory_costs_what_it_says():
    calls = []
    branches = guidance.separately(*(_white(mean, seen=lambda: calls.append(1)) for mean in (0.5, -0.5)))
    guided = guidance.adaptive_projected(branches, SCHEDULE, 3.0, norm_threshold=2.0, momentum=-0.6)
    _sample(samplers.heun(), guided, timesteps.plan(GRID, RENOISE))
    jax.effects_barrier()
    assert len(calls) == 2 * 2 * 4  # branches, evaluations a step, steps that do not renoise


def test_a_first_evaluation_inside_control_flow_is_refused():
    """From there nothing can be carried on; plain denoisers may be evaluated anywhere."""

    def step(state, denoise, schedule, plan, i, noise):
        ask = lambda x: denoise(x, plan.t[i]).x0
        return State(jax.lax.cond(plan.s[i] > 0, ask, ask, state.x), state.x0)

    sampler = Sampler(samplers.ddim().init, step, 0, lambda steps: steps)
    plan = timesteps.plan(GRID[:3])
    with pytest.raises(ValueError, match="first evaluation"):
        _sample(sampler, _diary(), plan)
    _sample(sampler, _white(0.5), plan)


def test_guidance_that_breaks_the_pair_needs_a_sampler_that_takes_it():
    branches = guidance.separately(_white(0.5), _white(-0.5))
    guided = guidance.classifier_free_plus_plus(branches, 0.6)
    plan = timesteps.plan(GRID[:3])
    for sampler in (samplers.euler(), samplers.heun(), samplers.dpmpp_2m(), samplers.ddpm()):
        with pytest.raises(TypeError, match=r"got a value of type Unpaired.*ddim"):
            _sample(sampler, guided, plan)
    assert np.isfinite(_sample(samplers.ddim(), guided, plan).x).all()


@pytest.mark.parametrize("guided", [_diary(), guidance.Unpaired(_white(0.5))])
def test_plain_calls_of_either_are_refused_in_words(guided):
    with pytest.raises(TypeError, match=r"samplers\.sample"):
        guided(jnp.asarray(X), 0.5)


def test_later_evaluations_of_a_step_read_the_same_memory_and_write_none():
    """The first evaluation is `apply`, and the others `later` if there is one, of the memory from before the step."""
    apply = lambda memory, x_t, t: (("apply", memory, x_t, t), memory + 1)
    later = lambda memory, x_t, t: ("later", memory, x_t, t)
    for more, second in (((later,), "later"), ((), "apply")):
        read, after = guidance.memory.within_step(guidance.Memory(lambda x: 0, apply, *more), 7)
        assert after() == 7
        assert read("x", 0.5) == ("apply", 7, "x", 0.5) and after() == 8
        assert read("y", 0.3) == (second, 7, "y", 0.3) and after() == 8
    plain = lambda x_t, t: x_t
    read, after = guidance.memory.within_step(plain, 7)
    assert read is plain and after() == 7
