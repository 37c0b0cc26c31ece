"""Adjoint sampling on Gaussian targets, where its loss and its fixed point have closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives.objective import Second
from diffusion.objectives.unnormalised_targets import Target
from diffusion.training.ema import exponential_moving_average
from diffusion.training.state import create
from diffusion.training.step import make_train_step

FLOW, X0, V = schedules.rectified_flow(), parameterizations.x0(), parameterizations.velocity()
MEAN, STD, SIZE = -0.4, 0.7, 2
TARGET = Target(lambda x: 0.2 - jnp.sum((x - MEAN) ** 2, -1) / (2 * STD**2), (SIZE,))
UNIFORM = timesteps.uniform_density(FLOW, t_min=0.05)
rate = lambda schedule, t: 1 + t


def exact(x, t, schedule=FLOW):
    """x0 of the exact denoiser of the target."""
    alpha, sigma = (level(jnp.reshape(t, (-1, 1))) for level in (schedule.alpha, schedule.sigma))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


@pytest.mark.extended
@pytest.mark.parametrize("noises", [1, 3])
def test_a_reference_as_wide_as_the_target_leaves_the_shift_alone(noises):
    """The gradient of the reward is then m / v for every sample: the aim is the exact denoiser, and a shift remains."""
    shift = 0.3
    made = objectives.adjoint_sampling(V, rate, UNIFORM, (1.0, 0.4, 0.0), TARGET, STD, noises)
    network = lambda x, t, c: (x - exact(x, t) - shift) / t[:, None]  # x0 = x - t v
    keys = jax.random.split(jax.random.key(0), 6)
    losses, metrics = made({"model": network}, FLOW, keys, {"x": jnp.zeros((6, SIZE))}, 0)
    np.testing.assert_allclose(losses, (1 + metrics["t"]) * shift**2, rtol=1e-3)
    assert len(np.unique(np.asarray(metrics["t"]))) == 6
    assert len(np.unique(np.asarray(metrics["log_density"]))) == 6


@pytest.mark.extended
def test_another_schedule_leaves_the_shift_alone_too():
    """And each loss has the importance of its time."""
    schedule, shift = schedules.cosine(), 0.3
    drawn = timesteps.uniform_density(schedule, t_min=0.05)
    thrice = drawn._replace(sample=lambda *draws: (drawn.sample(*draws)[0], jnp.full(6, 3.0)))
    made = objectives.adjoint_sampling(X0, rate, thrice, (1.0, 0.4, 0.0), TARGET, STD, 2)
    keys, batch = jax.random.split(jax.random.key(0), 6), {"x": jnp.zeros((6, SIZE))}
    losses, metrics = made({"model": lambda x, t, c: exact(x, t, schedule) + shift}, schedule, keys, batch, 0)
    np.testing.assert_allclose(losses, 3 * (1 + metrics["t"]) * shift**2, rtol=1e-3)


def test_the_exact_denoiser_is_a_fixed_point_whatever_the_reference():
    """Its samples are exact here, as the network is the target's quantile at t = 1. The mean gradients of a shift and
    of a slope are then 0, since none goes through the samples."""
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, 1.5, 1)
    number = 2**14
    keys = jax.random.split(jax.random.key(1), number)

    @jax.jit
    def slopes(shift, slope):
        def run(shift, slope):
            def network(x, t, c):
                return jnp.where(t[:, None] == 1, MEAN + STD * x + shift, exact(x, t) + shift + slope * x)

            return made({"model": network}, FLOW, keys, {"x": jnp.zeros((number, SIZE))}, 0)[0]

        of_shift = jax.jvp(lambda shift: run(shift, slope), (shift,), (1.0,))[1]
        return of_shift, jax.jvp(lambda slope: run(shift, slope), (slope,), (1.0,))[1]

    for values in slopes(0.0, 0.0):
        error = np.std(values) / number**0.5
        assert error < 0.05 and abs(np.mean(values)) < 4.5 * error


@pytest.mark.parametrize("max_norm", [0.5, 2.0])
def test_a_long_pull_is_shortened_and_a_short_one_is_not(max_norm):
    """With a reference as wide as the target the pull is m / v, of length 1.15. Shortened, it lacks d in each
    coordinate, so that the exact denoiser errs by r^2 d."""
    made = objectives.adjoint_sampling(V, rate, UNIFORM, (1.0, 0.4, 0.0), TARGET, STD, 1, max_norm=max_norm)
    keys = jax.random.split(jax.random.key(0), 6)
    network = lambda x, t, c: (x - exact(x, t)) / t[:, None]
    losses, metrics = made({"model": network}, FLOW, keys, {"x": jnp.zeros((6, SIZE))}, 0)
    t, length = metrics["t"], abs(MEAN) / STD**2 * SIZE**0.5
    d = max(length - max_norm, 0) / SIZE**0.5
    error = STD**2 * t**2 * d / ((1 - t) ** 2 * STD**2 + t**2)
    np.testing.assert_allclose(losses, (1 + t) * error**2, rtol=1e-3, atol=1e-10)


def test_the_pull_of_each_atom_is_shortened_alone():
    """The pull is m / v for each of two atoms, of lengths 1.15 and 0.2; only the first one lacks d, as above."""
    means, longest = np.array([[MEAN, MEAN], [0.1, 0.0]]), 0.5
    target = Target(lambda x: -jnp.sum((x - means) ** 2, (1, 2)) / (2 * STD**2), (2, 2))
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.4, 0.0), target, STD, 1, max_norm=longest)

    def network(x, t, c):
        alpha, sigma = (level(t)[:, None, None] for level in (FLOW.alpha, FLOW.sigma))
        return means + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * means)

    keys = jax.random.split(jax.random.key(0), 6)
    losses, metrics = made({"model": network}, FLOW, keys, {"x": jnp.zeros((6, 2, 2))}, 0)
    t, d = metrics["t"], abs(MEAN) / STD**2 - longest / SIZE**0.5
    error = STD**2 * t**2 * d / ((1 - t) ** 2 * STD**2 + t**2)
    np.testing.assert_allclose(losses, (1 + t) * error**2 / 2, rtol=1e-3)


def test_one_gradient_serves_all_noises():
    calls = []

    def log_density(x):
        jax.debug.callback(lambda x: calls.append(len(x)), x)
        return TARGET.log_density(x)

    target = Target(log_density, (SIZE,))
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.5, 0.0), target, 1.0, 3)
    keys = jax.random.split(jax.random.key(0), 4)
    jax.block_until_ready(made({"model": lambda x, t, c: 0.5 * x}, FLOW, keys, {"x": jnp.zeros((4, SIZE))}, 0)[0])
    jax.effects_barrier()
    assert calls == [4]


@pytest.mark.extended
def test_between_new_samples_the_kept_ones_are_trained_on():
    """The kept pull is that of the exact denoiser less d, so that the error of this denoiser is r^2 d."""
    d = 0.3
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.4, 0.0), TARGET, STD, 2, buffer=8, every=3)
    assert made.buffer is not None
    state = made.buffer.init()
    examples = {
        "x": jnp.full((8, SIZE), jnp.nan).at[0].set(2.0),  # of which only the first is there
        "pull": jnp.full((8, SIZE), MEAN / STD**2 - d),
        "log_density": jnp.full(8, -7.0),
    }
    assert jax.tree.map(jnp.shape, state["examples"]) == jax.tree.map(jnp.shape, examples)
    batch = {"x": jnp.zeros((6, SIZE)), "buffer": {"examples": examples, "number": jnp.int32(1)}}
    keys = jax.random.split(jax.random.key(0), 6)
    network = lambda x, t, c: exact(x, t)
    losses, metrics = made({"model": network}, FLOW, keys, batch, 4)
    t = metrics["t"]
    error = STD**2 * t**2 * d / ((1 - t) ** 2 * STD**2 + t**2)
    np.testing.assert_allclose(losses, (1 + t) * error**2, rtol=1e-3)
    assert (metrics["log_density"] == -7).all() and (metrics["buffer"]["x"] == 2).all()
    plain = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.4, 0.0), TARGET, STD, 2)
    half = {"model": lambda x, t, c: 0.5 * x}
    new, _ = made(half, FLOW, keys, batch, 6)
    np.testing.assert_allclose(new, plain(half, FLOW, keys, {"x": batch["x"]}, 6)[0], rtol=1e-6)


def _trained(steps, **engine):
    """The state after the steps of a training by a buffer; calls of the density, as the examples of each."""
    calls = []

    def log_density(x):
        jax.debug.callback(lambda x: calls.append(len(x)), x)
        return TARGET.log_density(x)

    target = Target(log_density, (SIZE,))
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.5, 0.0), target, 1.0, 2, buffer=40, every=3)
    apply = lambda params, x, t, c: params["slope"] * x + params["shift"]
    optimizer, average = optax.adam(0.05), exponential_moving_average(0.9)
    step = jax.jit(make_train_step(made, apply, FLOW, optimizer, average, UNIFORM, buffer=made.buffer, **engine))
    params = {"slope": jnp.float32(0.3), "shift": jnp.zeros(SIZE)}
    state = create(params, optimizer, average, UNIFORM, buffer=made.buffer)
    for _ in range(steps):
        state, _ = step(state, {"x": np.zeros((16, SIZE), np.float32), "index": np.arange(16)}, jax.random.key(0))
    jax.block_until_ready(state)
    jax.effects_barrier()
    return state, calls


@pytest.mark.extended
def test_a_training_with_a_buffer_evaluates_the_density_at_every_third_step_whatever_its_micro_batches():
    whole, calls = _trained(7)
    assert calls == [16] * 3  # at the steps 0, 3 and 6
    assert int(whole.buffer["number"]) == 40
    in_micro_batches, _ = _trained(7, accumulate=2)
    for a, b in zip(jax.tree.leaves(in_micro_batches), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="buffer = 0 and every = 3 do not go together"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, every=3)
    with pytest.raises(ValueError, match="buffer = 64 and every = 1 do not go together"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, buffer=64)
    with pytest.raises(ValueError, match="an objective with a buffer has no second player"):
        made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, buffer=64, every=2)
        dataclasses.replace(made, second=Second("critic"))
    with pytest.raises(ValueError, match="noises = 0 must be at least 1"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, noises=0)
    with pytest.raises(ValueError, match="max_norm = 0 must be positive"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, max_norm=0)
    with pytest.raises(ValueError, match="data_std = 0 positive"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, 0)
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET)
    with pytest.raises(ValueError, match="the examples, like the target's samples,"):
        made({"model": lambda x, t, c: x}, FLOW, jax.random.split(jax.random.key(0), 2), {"x": jnp.zeros((2, 3))}, 0)


def test_a_batch_without_a_buffer_is_sampled_anew_and_without_replay_a_buffer_is_not_read():
    keys, network = jax.random.split(jax.random.key(0), 4), {"model": lambda x, t, c: 0.5 * x}
    batch = {"x": jnp.zeros((4, SIZE))}
    for more, beside in (({"buffer": 8, "every": 3}, {}), ({}, {"buffer": "anything"})):
        made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.5, 0.0), TARGET, 1.0, 1, **more)
        losses = jax.eval_shape(lambda made=made, beside=beside: made(network, FLOW, keys, batch | beside, 1)[0])
        assert losses.shape == (4,)
