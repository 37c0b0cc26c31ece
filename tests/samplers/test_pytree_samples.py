"""Every sampler on a pytree: leaves by one schedule are one array, leaves by schedules of their own as many runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, padding, parameterizations, pytrees, samplers, schedules, steering, timesteps
from diffusion.samplers.gaussian_steps import gaussian_step
from diffusion.samplers.leaves import over_leaves
from diffusion.samplers.padded import over_real
from tests.conformance import QUICK, SAMPLERS, SCHEDULES, round_denoiser, slow_but

SHAPE = {"positions": (2, 2), "types": (3,)}
OWN = {"positions": SCHEDULES["cosine"], "types": SCHEDULES["edm"]}
COLUMNS = {"positions": slice(0, 4), "types": slice(4, 7)}
STEPS = 3


def joint():
    return schedules.per_leaf(OWN, SHAPE)


@functools.cache
def _both(name):
    """Three steps of a pytree with a schedule each, and of each leaf alone by its own, with the same noise."""
    sampler = SAMPLERS[name]
    schedule = joint()
    plan = timesteps.plan(timesteps.uniform(schedule, STEPS))
    plan = timesteps.Plan(*(jnp.asarray(part) for part in plan))

    def follow(sampler, schedule, denoise, x, noise):
        step = lambda state, i: (sampler.step(state, denoise, schedule, plan, i, noise[i]), None)
        return jax.lax.scan(step, sampler.init(x, schedule, plan), jnp.arange(STEPS))[0].x

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(x, noise):
        whole = follow(over_leaves(sampler, schedule), schedule, round_denoiser(schedule), x, noise)
        alone = [
            follow(sampler, OWN[leaf], round_denoiser(OWN[leaf]), x[:, of], noise[..., of])
            for leaf, of in COLUMNS.items()
        ]
        return whole, jnp.concatenate(alone, axis=1)

    x = samplers.prior(schedule, jax.random.split(jax.random.key(1), 3), (7,))
    noise = np.random.default_rng(0).standard_normal((STEPS, sampler.draws, 3, 7))
    return run(x, jnp.asarray(noise, jnp.float32))


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("dpmpp_2m_sde",)], [(name,) for name in SAMPLERS]))
def test_leaves_with_a_schedule_each_are_the_runs_of_each_alone(name):
    whole, alone = _both(name)
    assert np.isfinite(whole).all() and np.abs(whole).max() > 0.1
    np.testing.assert_allclose(whole, alone, rtol=2e-4, atol=2e-5)


def test_a_change_of_the_samples_of_leaves_after_a_step_counts():
    """Samples that are zero after the first step end as those that begin there with zero."""
    keys = jax.random.split(jax.random.key(0), 2)
    run = functools.partial(samplers.sample, samplers.ddim(), round_denoiser(joint()), joint())
    zero = lambda x, s, i, keys: jnp.where(i == 0, 0, x)
    changed = run(jnp.ones((2, 7)), timesteps.plan([0.8, 0.5, 0.2]), keys, after_step=zero)
    np.testing.assert_allclose(changed, run(jnp.zeros((2, 7)), timesteps.plan([0.5, 0.2]), keys), rtol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", pytest.param("interpolant_sde(flow_grpo)", marks=pytest.mark.extended)])
def test_a_gaussian_step_of_leaves_is_that_of_each_alone(name):
    """With as many examples as numbers, where a factor of each number could be taken for one of each example."""
    sampler, plan = SAMPLERS[name], timesteps.plan([0.8, 0.5, 0.2])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(x):
        def step(schedule, x):
            return jnp.stack(gaussian_step(sampler, round_denoiser(schedule)(x, 0.8), schedule, x, plan, 0))

        return step(joint(), x), jnp.concatenate([step(OWN[leaf], x[:, of]) for leaf, of in COLUMNS.items()], axis=-1)

    whole, alone = run(np.random.default_rng(0).standard_normal((7, 7)).astype(np.float32))
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_particles_of_leaves_without_a_reward_are_samples():
    schedule, keys = joint(), jax.random.split(jax.random.key(0), 7)
    denoise, plan = round_denoiser(schedule), timesteps.plan(timesteps.uniform(schedule, STEPS))
    x = samplers.prior(schedule, jax.random.split(jax.random.key(1), 7), (7,))
    nothing = steering.tilt(lambda x: jnp.zeros(len(x)))
    arguments = (samplers.ddpm(), denoise, schedule, x, plan, keys)
    run = lambda: (steering.twisted(*arguments, nothing, number=7).x, samplers.sample(*arguments))
    np.testing.assert_allclose(*jax.jit(run, compiler_options=QUICK)(), rtol=2e-4, atol=2e-5)


@pytest.mark.extended
def test_guided_particles_of_leaves_do_not_depend_on_their_number():
    """Seven particles of seven numbers, and fourteen: the coefficients of a guidance belong to the numbers."""
    schedule, keys = joint(), jax.random.split(jax.random.key(0), 14)
    denoise, plan = round_denoiser(schedule), timesteps.plan([0.8, 0.5, 0.2])
    reward = lambda x: -jnp.sum((x - 0.3) ** 2, axis=1)
    pulled = guidance.posterior_sampling(denoise, schedule, reward)

    def run(x, keys):
        arguments = (samplers.ddpm(), denoise, schedule, x, plan, keys)
        return steering.twisted(*arguments, steering.tilt(reward), number=7, proposal=pulled)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((14, 7)), jnp.float32)
    compiled = jax.jit(run, compiler_options=QUICK)
    both, alone = compiled(x, keys), compiled(x[:7], keys[:7])
    np.testing.assert_allclose(both.x[:7], alone.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.log_weights[:1], alone.log_weights, rtol=1e-4, atol=1e-4)


def test_what_has_one_variance_for_all_numbers_is_refused():
    schedule, keys, plan = joint(), jax.random.split(jax.random.key(0), 7), timesteps.plan([0.8, 0.5, 0.2])
    denoise, x = round_denoiser(schedule), jnp.ones((7, 7))
    every = guidance.measurements.masked(np.ones(7, bool))
    arguments = (schedule, x, plan, keys)
    for call in (
        lambda: steering.mcgdiff(samplers.ddpm(), denoise, *arguments, every, x, 0.1, number=7),
        lambda: steering.corrected(samplers.ddpm(), guidance.separately(denoise), (1.0,), *arguments, number=7),
        lambda: samplers.path_weights(denoise, schedule, plan, keys, (7,), lambda x: x[:, 0]),
    ):
        with pytest.raises(ValueError, match="has one variance for all numbers of a step, but leaves with a schedule"):
            call()


@pytest.mark.extended
def test_a_pytree_by_one_schedule_is_the_array_bit_for_bit():
    """Of one leaf, whose shape the network sees, all draws included; on padding all is 0."""
    schedule = SCHEDULES["rectified_flow"]
    plan = timesteps.plan(timesteps.uniform(schedule, 2))
    first, rest = (jax.random.split(jax.random.key(seed), 3) for seed in (0, 1))
    flow = parameterizations.velocity()
    of_array = lambda x, clock, condition: jnp.tanh(x.mean(1, keepdims=True)) + x * clock[:, None, None]
    of_tree = lambda x, clock, condition: {"points": of_array(x["points"], clock, condition)}
    real = jnp.array([[True, True, False], [True, False, False], [True, True, True]])
    made = []
    for shape, network in (
        ((3, 2), of_array),
        ({"points": (3, 2)}, pytrees.vector_network(of_tree, {"points": (3, 2)})),
    ):
        x = samplers.prior(schedule, first, pytrees.packed_shape(shape))
        mask = pytrees.mask(real, shape) if isinstance(shape, dict) else real
        denoise = parameterizations.denoiser(padding.network(network, mask), schedule, flow)
        for sampler in (samplers.ddpm(), samplers.padded(samplers.ddpm(), mask)):
            made.append(np.reshape(samplers.sample(sampler, denoise, schedule, x, plan, rest), (3, 3, 2)))
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[1], made[3])
    assert (made[1][~np.asarray(real)] == 0).all() and (made[1][np.asarray(real)] != 0).all()
    np.testing.assert_allclose(made[0][2], made[1][2], rtol=1e-5, atol=1e-6)  # without padding a mask changes nothing


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("dpmpp_2m",)], [(name,) for name in SAMPLERS]))
def test_padding_takes_no_part_whatever_stands_there(name):
    """What is real moves as it does alone, with the same noise, under two masks; padding of x and noise is garbage."""
    sampler, schedule = SAMPLERS[name], SCHEDULES["cosine"]
    plan = timesteps.plan(timesteps.uniform(schedule, STEPS))
    plan = timesteps.Plan(*(jnp.asarray(part) for part in plan))
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((2, 7)), jnp.float32)
    noise = jnp.asarray(random.standard_normal((STEPS, sampler.draws, 2, 7)), jnp.float32)

    def follow(sampler, denoise, x, noise):
        step = lambda state, i: (sampler.step(state, denoise, schedule, plan, i, noise[i]), None)
        return jax.lax.scan(step, sampler.init(x, schedule, plan), jnp.arange(STEPS))[0].x

    def garbled(real):
        made = round_denoiser(schedule)
        return lambda x, t: jax.tree.map(lambda part: jnp.where(real, part, 1e3), made(x, t))

    for columns in (slice(0, 4), slice(3, 5)):
        real = jnp.zeros((2, 7), bool).at[0].set(True).at[1, columns].set(True)
        run = functools.partial(follow, over_real(samplers.padded(sampler, real)), garbled(real))
        made = jax.jit(run, compiler_options=QUICK)(jnp.where(real, x, 1e3), jnp.where(real, noise, 1e3))
        alone = jax.jit(functools.partial(follow, sampler, round_denoiser(schedule)), compiler_options=QUICK)
        np.testing.assert_allclose(made[0], alone(x[:1], noise[..., :1, :])[0], rtol=1e-4, atol=1e-5)
        expected = alone(x[1:, columns], noise[..., 1:, columns])[0]
        np.testing.assert_allclose(made[1, columns], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(made[~real], 0)


def test_samplers_of_a_learned_variance_read_it():
    learned = samplers.ddpm("learned")
    assert samplers.per_frame(learned).reads_variance and samplers.predictor_corrector(learned).reads_variance
    assert not (samplers.per_frame(samplers.ddpm()).reads_variance or samplers.predictor_corrector().reads_variance)


@pytest.mark.extended
def test_samplers_of_a_padded_one_are_padded():
    real = jnp.array([[True, False], [True, True]])
    assert samplers.per_frame(samplers.padded(samplers.ddim(), real)).real is real
    corrected = samplers.predictor_corrector(samplers.padded(samplers.ddpm(), real))
    schedule = SCHEDULES["cosine"]
    keys = jax.random.split(jax.random.key(0), 2)
    plan = timesteps.plan(timesteps.uniform(schedule, 2))
    made = samplers.sample(corrected, round_denoiser(schedule), schedule, jnp.ones((2, 2)), plan, keys)
    np.testing.assert_array_equal(np.asarray(made) == 0, ~real)


@pytest.mark.slow
def test_other_drivers_take_leaves_with_a_schedule_each():
    """Parallel steps, adaptive ones, and noise drawn on the way, all against the runs of each leaf alone."""
    schedule = joint()
    grid = timesteps.uniform(schedule, STEPS)
    plan = timesteps.plan(grid)
    keys = jax.random.split(jax.random.key(1), 3)
    x = samplers.prior(schedule, jax.random.split(jax.random.key(0), 3), (7,))
    denoise = lambda x, t: round_denoiser(schedule)(x, schedules.at_each(schedule, t, x))
    run = lambda plan: samplers.sample(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys)
    made, _ = samplers.picard(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys, tolerance=0.0)
    np.testing.assert_allclose(made, run(plan), rtol=1e-4, atol=1e-5)
    again = timesteps.plan([1.0, 0.5, 0.8, 0.0], renoise=[False, True, False])
    assert np.isfinite(run(again)).all() and (run(again) != run(plan)).all()
    ends = samplers.adaptive(denoise, schedule, x, 1e-6, 1e-6)[0]
    for leaf, of in COLUMNS.items():
        own = OWN[leaf]
        of_own = lambda x, t, own=own: round_denoiser(own)(x, jnp.reshape(t, (-1, 1)))  # t is [] or [B]
        alone = samplers.adaptive(of_own, own, x[:, of], 1e-6, 1e-6)[0]
        np.testing.assert_allclose(ends[:, of], alone, rtol=1e-3, atol=1e-3)


def test_what_leaves_with_a_schedule_each_do_not_take_is_refused():
    schedule = joint()
    plan = timesteps.plan(timesteps.uniform(schedule, 2))
    x, keys = jnp.zeros((2, 7)), jax.random.split(jax.random.key(0), 2)
    memory = guidance.Memory(jnp.zeros_like, lambda m, x, t: (None, m))
    with pytest.raises(ValueError, match=r"guidance with memory\. Valid: a sampler without"):
        samplers.sample(samplers.ddim(), memory, schedule, x, plan, keys)
    with pytest.raises(ValueError, match=r"a time for each of the 7 numbers.* got \(3,\)"):
        schedule.alpha(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"end at.*= 0\.9 and 1,.*; lower the larger one.*, 0\.9\)"):
        schedules.per_leaf(OWN | {"types": schedules.edm()._replace(t_max=0.9)}, SHAPE)
    with pytest.raises(ValueError, match="give one schedule for each leaf"):
        schedules.per_leaf({"positions": schedules.cosine()}, SHAPE)
    with pytest.raises(ValueError, match="schedule that trains with the model,"):
        schedules.per_leaf(OWN | {"types": OWN["types"]._replace(trained=schedules.Trained(dict, None))}, SHAPE)
    with pytest.raises(TypeError, match="must be a NoiseSchedule"):
        schedules.per_leaf(OWN | {"types": schedules.edm}, SHAPE)
    empty = jnp.array([[True, True], [False, False]])
    with pytest.raises(ValueError, match="the mask is empty for example 1"):
        samplers.sample(samplers.padded(samplers.ddim(), empty), lambda x, t: None, schedules.cosine(),
                        jnp.zeros((2, 2, 3)), plan, keys)  # fmt: skip
    with pytest.raises(TypeError, match="an array of Bool; got an array of float32"):
        padding.check(jnp.ones((2, 2)), jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="is not a prefix of the shape of x"):
        padding.check(jnp.ones((2, 3), bool), jnp.zeros((2, 2)))
