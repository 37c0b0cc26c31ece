"""Twisted particles on Gaussian data, where the tilted law, its constant and the sampler's own law are closed forms.

The data is N(0.4, 0.25 I) in two dimensions. Ancestral sampling with the analytic variance draws the process's marginal
at the plan's end exactly, with any number of steps, where this end is not t = 0 (the step onto t = 0 draws nothing). So
the particles' only error is that of their number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers.sample import keys_of_step
from diffusion.sampling.steering.particles import advance, resampled_steps
from tests.conformance import round_denoiser
from tests.sampling.steering import groups

STEPS, NUMBER, END = 4, 8, 0.1
SCHEDULE = schedules.cosine()
DENOISE = round_denoiser(SCHEDULE)
EXACT = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
MEAN = 0.4 * float(SCHEDULE.alpha(END))  # of the marginal at the plan's end
VARIANCE = 0.25 * float(SCHEDULE.alpha(END)) ** 2 + float(SCHEDULE.sigma(END)) ** 2
SLOPE = np.array([1.5, -0.8], np.float32)
CENTRE, WIDTH = np.array([1.0, 0.2], np.float32), 0.6


def linear(x):
    return x @ SLOPE


def quadratic(x):
    return -jnp.sum((x - CENTRE) ** 2, -1) / (2 * WIDTH**2)


def _tilted(reward):
    """(mean, variance, log of the normalising constant) of N(x; MEAN, VARIANCE I) exp(reward(x))."""
    if reward is linear:
        return MEAN + VARIANCE * SLOPE, VARIANCE, MEAN * SLOPE.sum() + VARIANCE * (SLOPE**2).sum() / 2
    joint = VARIANCE + WIDTH**2
    variance = VARIANCE * WIDTH**2 / joint
    mean = variance * (MEAN / VARIANCE + CENTRE / WIDTH**2)
    constant = np.log(WIDTH**2 / joint) - ((CENTRE - MEAN) ** 2).sum() / (2 * joint)
    return mean, variance, constant


def _pulled(reward):
    return guidance.posterior_sampling(DENOISE, SCHEDULE, reward)


CASES = {
    "estimate": (linear, steering.tilt(linear), {}),
    "quadratic": (quadratic, steering.tilt(quadratic), {}),
    "tempered": (quadratic, steering.tilt(quadratic, lambda t: 1 - t), {}),
    "largest": (linear, steering.largest_so_far(lambda x: linear(x) / 3), {"third": True}),
    "sum": (linear, steering.sum_so_far(lambda x: linear(x) / 3), {"third": True}),
    "pulled": (linear, steering.tilt(linear), {"proposal": _pulled(linear)}),
    "pulled, quadratic": (quadratic, steering.tilt(quadratic), {"proposal": _pulled(quadratic)}),
    "multinomial": (quadratic, steering.tilt(quadratic), {"resample": steering.multinomial}),
    "partial": (quadratic, steering.tilt(quadratic), {"resample": steering.partial(steering.stratified)}),
}


def _run(twist, groups, number, steps=STEPS, sampler=EXACT, seed=0, **more):
    @jax.jit
    def run(keys):
        start, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(SCHEDULE, start, (2,))
        plan = timesteps.plan(np.linspace(1, END, steps + 1))
        return steering.twisted(sampler, DENOISE, SCHEDULE, x, plan, walk, twist, number=number, **more)

    return run(jax.random.split(jax.random.key(seed), groups * number))


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_constants_are_unbiased_and_means_are_the_tilted_law_s(name):
    """4,000 groups of eight: E[Z] is the constant, E[Z times the weighted mean] the constant times the mean."""
    reward, twist, more = CASES[name]
    more = dict(more)
    if more.pop("third", False):
        mean, variance, log_constant = MEAN + VARIANCE * SLOPE / 3, VARIANCE, 0
        log_constant = MEAN * SLOPE.sum() / 3 + VARIANCE * (SLOPE**2).sum() / 18
    else:
        mean, variance, log_constant = _tilted(reward)
    particles = _run(twist, 4000, NUMBER, **more)
    weights = np.exp(np.asarray(particles.log_weights, np.float64) - log_constant)
    x = np.asarray(particles.x, np.float64).reshape(-1, NUMBER, 2)
    expected = {"1": (1, 1), "x": (x, mean), "(x - mean)^2": ((x - mean) ** 2, variance)}
    for value, truth in expected.values():
        values = np.mean(weights[..., None] * value, axis=1)
        error = values.std(0, ddof=1) / len(values) ** 0.5
        assert error.max() < 0.05
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error)
    assert np.abs(x.mean((0, 1)) - mean).max() > 0.01  # the plain mean is another


@pytest.mark.extended
def test_the_law_of_one_drawn_particle_is_the_tilted_one():
    mean, variance, _ = _tilted(quadratic)
    particles = _run(steering.tilt(quadratic), 2000, 32)
    x = np.asarray(steering.drawn(particles, jax.random.split(jax.random.key(5), 2000)))
    np.testing.assert_allclose(x.mean(0), mean, atol=4.5 * (variance / 2000) ** 0.5)
    np.testing.assert_allclose(x.var(0), variance, rtol=4.5 * (2 / 2000) ** 0.5)


@pytest.mark.extended
def test_a_pull_along_the_gradient_keeps_the_weights_more_even():
    """Without resampling; a pull of the wrong sign or size has the same constant, and worse weights."""
    never = steering.where_uneven(steering.systematic, 1e-6)
    sizes = {}

    @jax.jit
    def run(sign):
        proposal = guidance.posterior_sampling(DENOISE, SCHEDULE, linear, scale=sign)
        return _run(steering.tilt(linear), 64, 64, steps=16, proposal=proposal, resample=never)

    for name, sign in {"none": 0.0, "pulled": 1.0, "pushed": -1.0}.items():
        sizes[name] = float(run(sign).effective_sizes[-1].mean())
    assert sizes["pulled"] > 1.3 * sizes["none"] > 1.3 * sizes["pushed"]


@pytest.mark.extended
def test_without_a_reward_it_is_sample():
    twist = steering.tilt(lambda x: jnp.zeros(x.shape[0]))
    keys = jax.random.split(jax.random.key(0), 12)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 12), (2,))
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 5))
    particles = steering.twisted(samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys, twist, number=4)
    np.testing.assert_allclose(
        particles.x, samplers.sample(samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(particles.log_weights, 0)
    np.testing.assert_allclose(particles.effective_sizes, 4, rtol=1e-6)
    assert particles.effective_sizes.shape == (5, 3)


@pytest.mark.extended
def test_a_group_does_not_depend_on_the_others():
    twist, keys = steering.tilt(quadratic), jax.random.split(jax.random.key(0), 24)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 24), (2,))
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 5))
    run = jax.jit(
        lambda x, keys: steering.twisted(
            samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys, twist, number=8, resample=steering.systematic
        )
    )
    whole = groups.assert_the_last_stands_alone(run, x, keys)
    assert len(np.unique(np.asarray(whole.x)[:, 0])) == 24  # offspring of one ancestor go separate ways


@pytest.mark.extended
def test_a_group_resamples_by_a_key_that_nothing_else_uses():
    """The hook's key of its first particle; the noise of the steps comes from the sampler's keys."""
    keys = jax.random.split(jax.random.key(0), 6)
    seen = lambda key, log_weights: (jnp.arange(3), jnp.full_like(log_weights, jax.random.normal(key)))
    twist = steering.tilt(lambda x: jnp.zeros(x.shape[0]))
    plan = timesteps.plan(np.array([1.0, 0.6, 0.3]))
    particles = steering.twisted(
        samplers.ddpm(), DENOISE, SCHEDULE, jnp.ones((6, 2)), plan, keys, twist, number=3, resample=seen
    )
    first = keys_of_step(keys, 0)[2][jnp.array([0, 3])]
    np.testing.assert_allclose(particles.log_weights[:, 0], jax.vmap(jax.random.normal)(first), rtol=1e-6)


@pytest.mark.extended
def test_each_step_evaluates_the_denoiser_once():
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return DENOISE(x, t)

    keys = jax.random.split(jax.random.key(0), 4)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 6))
    x = jnp.ones((4, 2))
    jax.block_until_ready(
        steering.twisted(samplers.ddpm(), counted, SCHEDULE, x, plan, keys, steering.tilt(linear), number=2)
    )
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(calls), sorted(plan.t), rtol=1e-6)


def test_the_largest_and_the_sum_remember_what_was():
    x = jnp.zeros((2, 3))
    seen = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([2.0, 1.0])]
    for twist, expected in {
        steering.largest_so_far: [[1, -2], [2, 1], [4, 4]],
        steering.sum_so_far: [[1, -2], [2.5, -1], [6, 1]],
    }.items():
        made = twist(lambda value: value[:, 0])
        memory = made.init(x)
        for value, total in zip(seen, expected):
            log_psi, memory = made.apply(memory, x, 0.5, value[:, None])
            np.testing.assert_allclose(log_psi, total)


def test_a_reward_in_the_place_of_a_twist_is_refused():
    keys, plan = jax.random.split(jax.random.key(0), 2), timesteps.plan(np.array([0.9, END]))
    with pytest.raises(TypeError, match=r"twist must be a Twist, such as steering\.tilt\(.*got the function"):
        steering.twisted(EXACT, DENOISE, SCHEDULE, jnp.zeros((2, 2)), plan, keys, linear, number=2)


def test_none_is_drawn_from_a_group_without_weight():
    particles = steering.Particles(
        jnp.arange(4.0)[:, None], jnp.array([[-jnp.inf, 0], [-jnp.inf] * 2]), jnp.ones((1, 2))
    )
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="all particles of group 1 have the weight 0"):
        steering.drawn(particles, keys)
    alive = particles._replace(x=particles.x[:2], log_weights=particles.log_weights[:1])
    np.testing.assert_array_equal(steering.drawn(alive, keys[:1]), [[1.0]])
    assert jax.jit(steering.drawn)(particles, keys).shape == (2, 1)  # a program cannot raise an error


def test_the_best_of_a_group():
    particles = steering.Particles(jnp.arange(6.0)[:, None], jnp.zeros((2, 3)), jnp.ones((1, 2)))
    np.testing.assert_array_equal(steering.best(particles, jnp.array([0, 5, 1, 9, 2, 3])), [[1.0], [3.0]])
    np.testing.assert_array_equal(steering.best(particles, jnp.array([0, 5, jnp.nan, 9, 2, 3])), [[1.0], [3.0]])


def test_a_step_with_a_proposal_is_drawn_from_it_and_weighed_by_the_ratio():
    """The step of `ddpm` from 0.8 to 0.5 on the rectified flow, for two constant estimates: x ~ q, w = exp(r) p / q."""
    flow, keys = schedules.rectified_flow(), jax.random.split(jax.random.key(0), 3)
    constant = lambda e: lambda x, t: Prediction(jnp.float32(e) + 0 * x, (x - (1 - t) * jnp.float32(e)) / t)
    p, q = np.array([1.0, -2.0]), np.array([0.4, 0.3])
    arguments = (flow, jnp.ones((3, 2)), timesteps.plan([0.8, 0.5]), keys, steering.tilt(linear))
    particles = steering.twisted(samplers.ddpm(), constant(p), *arguments, number=1, proposal=constant(q))
    lost = 1 - (0.2 * 0.5 / (0.5 * 0.8)) ** 2
    mean = lambda e: 0.4 * (0.5 / 0.8) ** 2 + 0.5 * lost * e
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys_of_step(keys, 0)[0]))
    x = mean(q) + 0.5 * lost**0.5 * noise
    log_law = lambda mean: -((x - mean) ** 2).sum(1) / (2 * 0.5**2 * lost)
    np.testing.assert_allclose(particles.x, x, rtol=1e-4, atol=1e-5)
    weight = x @ SLOPE + log_law(mean(p)) - log_law(mean(q))
    np.testing.assert_allclose(particles.log_weights[:, 0], weight, rtol=1e-4, atol=1e-4)


def test_the_last_resampling_is_before_the_last_noise():
    """Of four steps: after the third one there is noise at t = 0.2, and none on the way to the data."""
    noisy, clean = (timesteps.plan(np.append([0.9, 0.7, 0.5, 0.3], end)) for end in (0.2, 0.0))
    assert resampled_steps(SCHEDULE, noisy) == 3 and resampled_steps(SCHEDULE, clean) == 2


REFUSED = {
    "groups": (samplers.ddpm(), {"number": 5}, "number = 5 particles in a group do not divide the 12 samples"),
    "deterministic": (samplers.ddim(), {}, "draws 0 noise arrays"),
    "two evaluations": (samplers.dpm_2_ancestral(), {}, "takes 7 evaluations in 4 steps"),
    "history": (samplers.dpmpp_2m_sde(), {}, "its state is a "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_weighed_is_refused(name):
    sampler, more, message = REFUSED[name]
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 4))
    keys = jax.random.split(jax.random.key(0), 12)
    with pytest.raises(ValueError, match=message):
        steering.twisted(
            sampler, DENOISE, SCHEDULE, jnp.ones((12, 2)), plan, keys, steering.tilt(linear), **({"number": 4} | more)
        )


def test_a_plan_that_renoises_and_rewards_of_another_shape_are_refused():
    keys = jax.random.split(jax.random.key(0), 4)
    run = lambda plan, reward: steering.twisted(
        samplers.ddpm(), DENOISE, SCHEDULE, jnp.ones((4, 2)), plan, keys, steering.tilt(reward), number=2
    )
    up = timesteps.plan([1.0, 0.4, 0.7, 0.0], renoise=[False, True, False])
    with pytest.raises(ValueError, match="steps that renoise"):
        run(up, linear)
    with pytest.raises(ValueError, match="the rewards, one number for each sample,"):
        run(timesteps.plan([1.0, 0.0]), lambda x: x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_particle_whose_weight_is_no_number_is_named(bad):
    stay = lambda x, i, keys: (x, jnp.array([0, 0, 0, -jnp.inf, bad, 0]))
    never = lambda key, log_weights: (jnp.arange(3), log_weights)
    begin, keys = ((jnp.zeros((6, 1)),), jnp.zeros(6)), jax.random.split(jax.random.key(0), 6)
    with jax.disable_jit(), pytest.raises(ValueError, match=rf"of particle 1 in group 1 is {bad}\."):
        advance(begin, stay, keys, 1, 0, 3, never)


@pytest.mark.extended
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused_outside_of_jit(bad):
    x, keys = jnp.arange(12.0).reshape(6, 2), jax.random.split(jax.random.key(0), 6)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 2))
    never = lambda key, log_weights: (jnp.arange(3), log_weights)
    flat = lambda memory, x, t, x0: (jnp.zeros(6), memory)
    twist = steering.Twist(lambda x: (), flat, lambda x: jnp.where(jnp.arange(6) == 4, bad, 0))
    run = lambda: (
        steering.twisted(samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys, twist, number=3, resample=never).log_weights
    )
    with pytest.raises(
        ValueError, match=rf"the log-weight of particle 1 in group 1 is {bad}\. Valid: a denoiser whose"
    ):
        run()
    np.testing.assert_array_equal(jax.jit(run)(), [[0, 0, 0], [0, bad, 0]])


@pytest.mark.extended
def test_a_particle_without_a_weight_has_none_later():
    x, keys = jnp.zeros((6, 2)), jax.random.split(jax.random.key(0), 6)
    plan = timesteps.plan(np.array([1.0, 0.6, 0.3, 0.0]))
    never = lambda key, log_weights: (jnp.arange(3), log_weights)
    for time, reward in ((1.0, 0.0), (0.6, 0.0), (None, -jnp.inf)):  # by a twist on the way, and by the reward
        apply = lambda memory, x, t, x0, time=time: (jnp.where((jnp.arange(6) == 4) & (t == time), -jnp.inf, 0), memory)
        log_reward = lambda x, reward=reward: jnp.where(jnp.arange(6) == 4, reward, 0)
        twist = steering.Twist(lambda x: (), apply, log_reward)
        particles = steering.twisted(samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys, twist, number=3, resample=never)
        np.testing.assert_array_equal(particles.log_weights, [[0, 0, 0], [0, -np.inf, 0]])


@pytest.mark.extended
def test_a_learned_variance_scales_the_pull():
    """The ratio of the densities is that of the step's own spread: the constant is unbiased with it too."""
    wide = lambda x, t: DENOISE(x, t)._replace(variance=jnp.full_like(x, 0.9))
    pulled = lambda x, t: Prediction(
        *guidance.posterior_sampling(wide, SCHEDULE, linear)(x, t)[:2], jnp.full_like(x, 0.9)
    )
    keys = jax.random.split(jax.random.key(3), 32_000)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 32_000), (2,))
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 4))
    run = jax.jit(
        lambda proposal: steering.twisted(
            samplers.ddpm("learned"), wide, SCHEDULE, x, plan, keys, steering.tilt(linear), number=8, proposal=proposal
        ),
        static_argnums=0,
    )
    values = [np.exp(np.asarray(steering.log_normaliser(run(p).log_weights), np.float64)) for p in (None, pulled)]
    error = np.hypot(*(v.std() / len(v) ** 0.5 for v in values))
    assert abs(values[0].mean() - values[1].mean()) < 4.5 * error < 0.1 * values[0].mean()
