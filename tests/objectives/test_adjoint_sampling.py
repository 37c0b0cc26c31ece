"""Adjoint sampling on Gaussian targets, where its loss and its fixed point have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives.unnormalised_targets import Target

FLOW, X0, V = schedules.rectified_flow(), parameterizations.x0(), parameterizations.velocity()
MEAN, STD, SIZE = -0.4, 0.7, 2
TARGET = Target(lambda x: 0.2 - jnp.sum((x - MEAN) ** 2, -1) / (2 * STD**2), (SIZE,))
UNIFORM = timesteps.uniform_density(FLOW, t_min=0.05)
rate = lambda schedule, t: 1 + t


def exact(x, t):
    """x0 of the exact denoiser of the target."""
    t = jnp.reshape(t, (-1, 1))
    return MEAN + (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2) * (x - (1 - t) * MEAN)


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


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="noises = 0 must be at least 1"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, noises=0)
    with pytest.raises(ValueError, match="data_std = 0 positive"):
        objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET, 0)
    made = objectives.adjoint_sampling(X0, rate, UNIFORM, (1.0, 0.0), TARGET)
    with pytest.raises(ValueError, match="examples of the shape of the target's samples"):
        made({"model": lambda x, t, c: x}, FLOW, jax.random.split(jax.random.key(0), 2), {"x": jnp.zeros((2, 3))}, 0)
