"""Improved DDPM's objective against the discrete process written out with its betas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.objectives.hybrid import bound_term, discretized_gaussian_log_likelihood
from tests.objectives.objective_cases import at

T = 50
BETAS = np.linspace(1e-3, 0.2, T)
ALPHA_BAR = np.cumprod(1 - BETAS)
PREVIOUS = np.append(1.0, ALPHA_BAR[:-1])


TERM = jax.jit(lambda *arguments: bound_term(schedules.from_betas(BETAS), *arguments, T))


def posterior(i, x_t, x_0):
    """Ho et al. 2020, eq. 7: mean and variance of q(x_{i-1} | x_i, x_0), with i from 0."""
    of_x0 = np.sqrt(PREVIOUS[i]) * BETAS[i] / (1 - ALPHA_BAR[i])
    of_xt = np.sqrt(1 - BETAS[i]) * (1 - PREVIOUS[i]) / (1 - ALPHA_BAR[i])
    return of_x0 * x_0 + of_xt * x_t, BETAS[i] * (1 - PREVIOUS[i]) / (1 - ALPHA_BAR[i])


@pytest.mark.parametrize("i", [pytest.param(1, marks=pytest.mark.extended), 7, T - 1])
def test_bound_term_is_the_kl_divergence_between_the_two_steps(i):
    rng = np.random.default_rng(i)
    x_0, estimate, fraction = rng.uniform(-1, 1, (3, 4, 6))
    fraction = (fraction + 1) / 2
    x_t = np.sqrt(ALPHA_BAR[i]) * x_0 + np.sqrt(1 - ALPHA_BAR[i]) * rng.standard_normal((4, 6))
    mean, variance = posterior(i, x_t, x_0)
    model_mean, _ = posterior(i, x_t, estimate)
    model_variance = np.exp(fraction * np.log(BETAS[i]) + (1 - fraction) * np.log(variance))
    kl = 0.5 * (
        np.log(model_variance / variance) + variance / model_variance - 1 + (mean - model_mean) ** 2 / model_variance
    )
    t = np.full(4, (i + 1) / T, np.float32)
    prediction = parameterizations.Prediction(np.float32(estimate), np.zeros((4, 6), np.float32), np.float32(fraction))
    found = TERM(t, np.float32(x_0), np.float32(x_t), prediction)
    np.testing.assert_allclose(found, kl.mean(axis=1) / np.log(2), rtol=2e-3, atol=1e-5)


def test_first_step_is_the_likelihood_of_the_256_levels():
    x_0 = jnp.float32(np.linspace(-1, 1, 256)[None, ::17])
    fraction = jnp.full_like(x_0, 0.3)
    prediction = parameterizations.Prediction(0.9 * x_0, x_0, fraction)
    found = TERM(np.float32([1 / T]), x_0, x_0, prediction)
    with pytest.raises(ValueError, match="hybrid needs a learned variance"):
        TERM(np.float32([1 / T]), x_0, x_0, prediction._replace(variance=None))
    # The smallest variance at the first step is the second step's, as in the authors' code.
    low = np.log(BETAS[1] * (1 - PREVIOUS[1]) / (1 - ALPHA_BAR[1]))
    log_std = 0.5 * (low + 0.3 * (np.log(BETAS[0]) - low))
    expected = -discretized_gaussian_log_likelihood(x_0, 0.9 * x_0, jnp.full_like(x_0, log_std)).mean() / np.log(2)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3)


@pytest.mark.parametrize("mean", [-1.2, -1.0, 0.013, 0.996, 1.5])
@pytest.mark.parametrize("log_std", [-6.0, -3.0, 0.0])
def test_levels_share_all_of_the_probability(mean, log_std):
    levels = jnp.linspace(-1, 1, 256)
    log_p = discretized_gaussian_log_likelihood(levels, jnp.full(256, mean), jnp.full(256, log_std))
    assert np.all(np.isfinite(log_p))
    np.testing.assert_allclose(np.exp(np.float64(log_p)).sum(), 1, atol=2e-4)


@pytest.mark.slow
def test_the_bound_trains_the_variance_alone():
    """With the simple loss taken out by a perfect mean, the gradient of the first half of the channels vanishes."""
    schedule = schedules.linear_beta()
    objective = objectives.hybrid(parameterizations.epsilon(), timesteps.discrete_density(schedule))
    x = jnp.zeros((8, 3, 2)) + 0.1
    keys = jax.random.split(jax.random.key(0), 8)

    def loss(shift, fraction, part):
        network = lambda x_t, t, c: jnp.concatenate([0 * x_t + shift, 0 * x_t + fraction], axis=-1)
        return objective({"model": network}, schedule, keys, {"x": x}, 0)[1][part].mean()

    assert jax.grad(loss, argnums=0)(0.3, 0.2, "vlb") == 0
    assert jax.grad(loss, argnums=1)(0.3, 0.2, "vlb") != 0
    assert jax.grad(loss, argnums=0)(0.3, 0.2, "mse") != 0
    assert jax.grad(loss, argnums=1)(0.3, 0.2, "mse") == 0


@pytest.mark.extended
def test_learned_variance_samples_between_the_two_fixed_ones():
    schedule = schedules.linear_beta()
    plan = timesteps.plan(np.array([0.5, 0.3]))
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(jax.random.key(1), (5, 4))

    def run(fraction, variance):
        denoise = lambda x, t: parameterizations.Prediction(0.5 * x, x, jnp.full_like(x, fraction))
        return samplers.sample(samplers.ddpm(variance), denoise, schedule, x, plan, keys)

    np.testing.assert_allclose(run(0.0, "learned"), run(0.0, "small"), rtol=1e-5)
    np.testing.assert_allclose(run(1.0, "learned"), run(0.0, "large"), rtol=1e-5)
    with pytest.raises(ValueError, match="learned_variance"):
        denoise = lambda x, t: parameterizations.Prediction(0.5 * x, x)
        samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, plan, keys)


def test_the_first_half_of_the_channels_is_the_parameterizations():
    """The squared error of 0.3 x to the noise, and 0.4 of the bound's term, which is above; of an importance of 3.

    A weighting of the clean estimate by min(SNR, 5) weighs the error of the noise by min(SNR, 5) / SNR.
    """
    schedule = schedules.from_betas(BETAS)
    rng = np.random.default_rng(0)
    x_0, eps = rng.uniform(-1, 1, (2, 4, 6)).astype(np.float32)
    network = lambda x, t, condition: jnp.concatenate([0.3 * x, 0.7 + 0 * x], axis=-1)
    density = at(8 / T)
    thrice = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(4, 3.0)))
    objective = objectives.hybrid(parameterizations.epsilon(), thrice, T, 0.4)
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"x": jnp.asarray(x_0), "noise": jnp.asarray(eps)}
    weighted = objectives.hybrid(parameterizations.epsilon(), thrice, T, 0.4, weighting=weightings.min_snr(5.0))
    call = lambda objective: objective({"model": network}, schedule, keys, batch, 0)
    (losses, metrics), (other, weighed) = jax.jit(lambda: [call(objective), call(weighted)])()
    share = min(1, 5 / (ALPHA_BAR[7] / (1 - ALPHA_BAR[7])))
    assert share < 0.9
    np.testing.assert_allclose(weighed["mse"], share * metrics["mse"], rtol=1e-3)
    np.testing.assert_allclose(other, 3 * (weighed["mse"] + 0.4 * metrics["vlb"]), rtol=1e-5)
    np.testing.assert_allclose(metrics["t"], 8 / T, rtol=1e-6)
    x_t = np.sqrt(ALPHA_BAR[7]) * x_0 + np.sqrt(1 - ALPHA_BAR[7]) * eps
    np.testing.assert_allclose(metrics["mse"], np.square(0.3 * x_t - eps).mean(1), rtol=1e-4)
    np.testing.assert_allclose(losses, 3 * (metrics["mse"] + 0.4 * metrics["vlb"]), rtol=1e-5)
    estimate = (x_t - np.sqrt(1 - ALPHA_BAR[7]) * 0.3 * x_t) / np.sqrt(ALPHA_BAR[7])
    variance = np.full_like(x_0, (0.7 + 1) / 2)
    prediction = parameterizations.Prediction(np.float32(estimate), eps, variance)
    np.testing.assert_allclose(
        metrics["vlb"], TERM(np.full(4, 8 / T, np.float32), x_0, np.float32(x_t), prediction), rtol=1e-2
    )


@pytest.mark.extended
def test_a_weighting_is_of_the_first_term_and_relative_to_the_outputs():
    """MDTv2's min(SNR, 5) / SNR for epsilon, beside the loss without it."""
    schedule = schedules.from_betas(BETAS)
    rng = np.random.default_rng(2)
    batch = {"x": jnp.float32(rng.uniform(-1, 1, (2, 4, 4, 1))), "index": jnp.arange(2)}
    keys = jax.random.split(jax.random.key(0), 2)
    networks = {"model": lambda x, clock, condition: jnp.concatenate([x, 0 * x], axis=-1)}

    def losses(weighting):
        objective = objectives.hybrid(parameterizations.epsilon(), at(2 / T), T, weighting=weighting)
        return jax.jit(lambda keys, batch: objective(networks, schedule, keys, batch, 0))(keys, batch)

    plain, metrics = losses(None)
    weighted, seen = losses(weightings.min_snr(5.0))
    snr = ALPHA_BAR[1] / (1 - ALPHA_BAR[1])
    assert snr > 50
    np.testing.assert_allclose(seen["mse"], 5 / snr * metrics["mse"], rtol=1e-4)
    np.testing.assert_allclose(weighted - seen["mse"], plain - metrics["mse"], rtol=1e-4, atol=1e-5)


def test_no_gradient_of_the_bound_goes_through_the_mean():
    """So that the loss with the bound has the gradient of the squared error, and in the variance that of the bound."""
    objective = objectives.hybrid(parameterizations.epsilon(), at(8 / T), T, 100.0)
    batch, keys = {"x": jnp.full((1, 2), 0.1), "noise": jnp.full((1, 2), 0.7)}, jax.random.split(jax.random.key(0), 1)

    def parts(shift, fraction):
        network = lambda x_t, t, c: jnp.concatenate([0.3 * x_t + shift, 0 * x_t + fraction], axis=-1)
        losses, metrics = objective({"model": network}, schedules.from_betas(BETAS), keys, batch, 0)
        return jnp.stack([losses[0], metrics["mse"][0], 100 * metrics["vlb"][0]])

    in_mean, in_variance = jax.jit(jax.jacfwd(parts, (0, 1)))(0.3, 0.2)
    assert in_mean[2] == in_variance[1] == 0 != in_mean[1] and in_variance[2] != 0
    np.testing.assert_allclose([in_mean[0], in_variance[0]], [in_mean[1], in_variance[2]], rtol=1e-5)
