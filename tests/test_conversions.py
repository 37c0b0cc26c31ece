"""A denoiser under another schedule than its own: the exact one is converted into the exact one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import ALL_SCHEDULES, DATA, SCHEDULES, slow_but

PAIRS = slow_but(
    [("linear_beta", "edm"), ("edm", "rectified_flow"), ("rectified_flow", "cosine"), ("cosine", "linear_beta")],
    [(trained, sampled) for trained in ALL_SCHEDULES for sampled in ALL_SCHEDULES],
)


@functools.cache
def _oracle():
    """E[x_0 | x_t] and E[eps | x_t] of the mixture from alpha, sigma `[B]`, compiled once."""
    data = DATA["mixture"]
    return jax.jit(lambda a, s, x: (oracles.mean_x0(data, a, s, x), oracles.mean_eps(data, a, s, x)))


def _exact(schedule):
    return lambda x, t: Prediction(*_oracle()(schedule.alpha(t), schedule.sigma(t), x))


def _times(schedule, other, count=7):
    """Times of `schedule` at log-SNRs that both schedules have, near their common ends and between."""
    ends = [(float(s.log_snr(max(s.t_min, 1e-3))), float(s.log_snr(s.t_max))) for s in (schedule, other)]
    highest = min(high for high, _ in ends) - 0.01
    lowest = max(max(low for _, low in ends), -12.0) + 0.01
    return jnp.asarray(schedule.inverse_log_snr(np.linspace(highest, lowest, count)))


@pytest.mark.extended
@pytest.mark.parametrize("trained, sampled", PAIRS)
def test_the_exact_denoiser_is_converted_into_the_exact_denoiser(trained, sampled, x64):
    trained = ALL_SCHEDULES[trained]
    sampled = ALL_SCHEDULES[sampled]
    t = _times(sampled, trained)
    noise = np.random.default_rng(0).standard_normal((2, t.size, 2))
    x_t = sampled.alpha(t)[:, None] * noise[0] + sampled.sigma(t)[:, None] * noise[1]
    converted = parameterizations.denoiser_under(_exact(trained), trained, sampled)(x_t, t)
    exact = _exact(sampled)(x_t, t)
    np.testing.assert_allclose(converted.x0, exact.x0, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(converted.eps, exact.eps, rtol=1e-7, atol=1e-9)


def test_it_is_the_scaling_that_edm_gives_to_vp_networks(x64):
    """Karras et al. 2022, table 1, column VP: D = x - sigma F(x / sqrt(sigma^2 + 1), t) with t = sigma^-1(sigma)."""
    trained = schedules.variance_preserving()
    sampled = schedules.edm()
    seen = []

    def network(x, clock, condition):
        seen.append((x, clock))
        return jnp.sin(3 * x) * clock[:, None]

    denoise = parameterizations.denoiser(network, trained, parameterizations.epsilon())
    sigma = np.array([0.01, 0.5, 3.0, 80.0])
    x = 2 * np.random.default_rng(0).standard_normal((4, 3)) * sigma[:, None]
    prediction = parameterizations.denoiser_under(denoise, trained, sampled)(jnp.asarray(x), jnp.asarray(sigma / 80))
    beta_d, beta_min = 19.9, 0.1
    time = (np.sqrt(beta_min**2 + 2 * beta_d * np.log(sigma**2 + 1)) - beta_min) / beta_d
    scaled = x / np.sqrt(sigma**2 + 1)[:, None]
    np.testing.assert_allclose(seen[0][0], scaled, rtol=1e-9)
    np.testing.assert_allclose(seen[0][1], time, rtol=1e-9)
    output = np.sin(3 * scaled) * time[:, None]
    np.testing.assert_allclose(prediction.x0, x - sigma[:, None] * output, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(prediction.eps, output, rtol=1e-9)


def test_sampling_under_another_schedule_gives_its_samples(x64):
    """Heun along EDM's noise levels, with a denoiser of the cosine schedule and with one of EDM's own."""
    trained = SCHEDULES["cosine"]
    sampled = SCHEDULES["edm"]
    plan = timesteps.plan(timesteps.karras(sampled, 4, 0.02, 80.0))
    keys = jax.random.split(jax.random.key(0), 3)
    x = 80 * jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    converted = parameterizations.denoiser_under(_exact(trained), trained, sampled)
    own, other = (samplers.sample(samplers.heun(), d, sampled, x, plan, keys) for d in (_exact(sampled), converted))
    np.testing.assert_allclose(other, own, rtol=1e-6)


@pytest.mark.parametrize("trained", ["linear_beta", "variance_exploding", "edm"])
@pytest.mark.parametrize("t", [1.0, 0.0, 1e-7])
def test_beyond_the_trained_times_the_prediction_stays_consistent(trained, t):
    """No such noise level was trained: finite, alpha x0 + sigma eps = x_t, and near the exact estimate."""
    trained = SCHEDULES[trained]
    sampled = schedules.rectified_flow()
    seen = []

    def denoise(x, s):
        """The exact denoiser of N(0.4, 0.5^2 I)."""
        seen.append(s)
        alpha = trained.alpha(s)[:, None]
        sigma = trained.sigma(s)[:, None]
        scaled = (x - alpha * 0.4) / (0.25 * alpha**2 + sigma**2)
        return Prediction(0.4 + 0.25 * alpha * scaled, sigma * scaled)

    x_t = jnp.asarray([[0.4, -0.3], [0.9, 1.2]], jnp.float32)
    prediction = parameterizations.denoiser_under(denoise, trained, sampled)(x_t, jnp.full(2, t))
    np.testing.assert_allclose(seen[0], trained.t_max if t == 1 else trained.t_min, rtol=1e-6)
    assert np.isfinite(prediction.x0).all()
    assert np.isfinite(prediction.eps).all()
    np.testing.assert_allclose((1 - t) * prediction.x0 + t * prediction.eps, x_t, atol=1e-6)
    if t == 1:
        np.testing.assert_allclose(prediction.x0, 0.4, atol=0.01)
    else:
        np.testing.assert_allclose(prediction.x0, x_t, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_any_shape_of_t_and_a_learned_variance(shape):
    trained = SCHEDULES["cosine"]
    sampled = SCHEDULES["edm"]
    denoise = lambda x, s: Prediction(0 * x, x / trained.sigma(s).reshape(s.shape + (1,) * (3 - s.ndim)), x)
    x = jnp.ones((2, 3, 4))
    prediction = jax.jit(parameterizations.denoiser_under(denoise, trained, sampled))(x, jnp.full(shape, 0.3))
    np.testing.assert_allclose(prediction.eps, x / (0.3 * 80), rtol=1e-5)
    assert prediction.variance.shape == x.shape


@pytest.mark.parametrize(
    "t, x0_rate, eps_rate", [(0.05, (1 - 0.05 / 2) / 0.95, 0.5), (0.5, 1.0, 0.5), (0.95, 1.0, 1.0), (1.0, 1.0, 1.0)]
)
def test_a_converted_denoiser_has_its_derivative_within_the_schedule_and_beyond(t, x0_rate, eps_rate):
    """On straight lines, where x_0 is read as x and eps as x / 2 by a network of the times 0.1 to 0.9.

    Beyond them x0 is (x - sigma eps) / alpha, or eps is (x - alpha x0) / sigma. What stands for a coefficient that is
    not used divides nothing.
    """
    flow = SCHEDULES["rectified_flow"]
    denoise = parameterizations.denoiser_under(
        lambda x, s: Prediction(x, x / 2, None), flow._replace(t_min=0.1, t_max=0.9), flow
    )
    with jax.disable_jit():
        rates = [jax.grad(lambda x, part=part: denoise(x, jnp.float32(t))[part])(0.7) for part in (0, 1)]
    np.testing.assert_allclose(rates, [x0_rate, eps_rate], rtol=1e-5)
