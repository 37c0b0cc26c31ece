"""The variational bound against entropies in closed form, and its terms against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives.decoders import gaussian, levels
from tests import oracles
from tests.conformance import DATA

GAUSSIAN = DATA["gaussian"]
VARIANCES = GAUSSIAN.variances[0]
MANY = 2**17


def exact(x, clock, condition):
    """v of the exact denoiser of the Gaussian, with ln(sigma / alpha) / 4 as its clock, variance preserving."""
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * 8 * clock)) for sign in (-1, 1))
    x0 = oracles.mean_x0(GAUSSIAN, alpha, sigma, x)
    eps = oracles.mean_eps(GAUSSIAN, alpha, sigma, x)
    return alpha[:, None] * eps - sigma[:, None] * x0


def bound(schedule, t_start, key=0):
    """The mean bound and its parts on MANY examples of the Gaussian, with times in strata."""
    density = timesteps.uniform_density(schedule._replace(t_min=t_start), strata=MANY)
    objective = objectives.variational_bound(
        parameterizations.v(parameterizations.log_sigma()), density, t_start, gaussian()
    )
    x = np.random.default_rng(key).multivariate_normal(GAUSSIAN.means[0], oracles.covariance(GAUSSIAN), MANY)
    keys = jax.random.split(jax.random.key(key), MANY)
    return objective({"model": exact}, schedule, keys, {"x": jnp.asarray(x, jnp.float32)}, 0)


def entropy_and_gaps(snr_start, snr_end):
    """What the bound is worth with the exact denoiser, in bits a dimension, from h(X) and mutual informations.

    L = E KL + (h(X | Z_start) + gap) + (I(X; Z_start) - I(X; Z_end)), the last by the I-MMSE relation: the entropy,
    what the factorised decoder wastes, and what the prior does.
    """
    mean = GAUSSIAN.means[0]
    v = VARIANCES
    alpha2 = 1 / (1 + 1 / snr_end)
    sigma2 = 1 / (1 + snr_end)
    prior = 0.5 * (alpha2 * (v.sum() + (mean**2).sum()) + 2 * (sigma2 - 1 - np.log(sigma2)))
    entropy = 0.5 * np.log(2 * np.pi * np.e * v).sum()
    decoder = 0.5 * np.log1p(1 / (v * snr_start)).sum()
    return (entropy + decoder + prior - 0.5 * np.log1p(v * snr_end).sum()) / (2 * np.log(2))


@pytest.mark.slow
def test_bound_of_a_learned_schedule_and_its_gradient_in_the_ends():
    """Both against the closed form, on a schedule whose log-SNR is nearly a straight line."""
    params = dict(schedules.init_learned(jax.random.key(0), 6.0, -2.0, features=8))
    t_start = 0.05

    def closed(top, span):
        learned = schedules.learned({**params, "log_snr_max": top, "range": span})
        return entropy_and_gaps(np.exp(float(learned.log_snr(jnp.float32(t_start)))), np.exp(top - span))

    @jax.jit
    def mean(params):
        losses, metrics = bound(schedules.learned(params), t_start)
        return losses.mean(), (losses.std(), metrics, losses)

    (value, (std, metrics, losses)), gradient = jax.value_and_grad(mean, has_aux=True)(params)
    error = std / np.sqrt(MANY)
    assert error < 0.015
    np.testing.assert_allclose(value, closed(6.0, 8.0), atol=3 * error)
    parts = metrics["prior"] + metrics["reconstruction"] + metrics["diffusion"]
    np.testing.assert_allclose(parts, losses, rtol=1e-5, atol=1e-5)
    h = 0.05
    by_top = (closed(6 + h, 8.0) - closed(6 - h, 8.0)) / (2 * h)
    by_span = (closed(6.0, 8 + h) - closed(6.0, 8 - h)) / (2 * h)
    np.testing.assert_allclose(gradient["log_snr_max"], by_top, atol=4e-3)
    np.testing.assert_allclose(gradient["range"], by_span, atol=4e-3)
    assert any(np.abs(gradient[name]).max() > 0 for name in ("inner", "outer", "slope"))


def test_prior_is_its_divergence():
    """Against the definition, by numerical integration; N(0, sigma_max^2) where the variance explodes."""
    early = schedules.ending_at(schedules.trigonometric(), 0.6)
    exploding = schedules.variance_exploding(sigma_max=3.0)
    for schedule, s in ((schedules.linear_beta(T=10), 1.0), (exploding, 3.0), (early, 1.0)):
        density = timesteps.uniform_density(schedule)
        objective = objectives.variational_bound(parameterizations.v(), density, 0.2, gaussian())
        x = jnp.array([[0.7], [-1.0]])
        keys = jax.random.split(jax.random.key(0), 2)
        _, metrics = objective({"model": lambda x, t, c: x}, schedule, keys, {"x": x}, 0)
        for value, found in zip(x[:, 0], metrics["prior"]):
            end = schedule.t_max
            q = scipy.stats.norm(float(schedule.alpha(end) * value), float(schedule.sigma(end)))
            p = scipy.stats.norm(0, s)
            kl = q.expect(lambda y, q=q, p=p: q.logpdf(y) - p.logpdf(y))
            np.testing.assert_allclose(found, kl / np.log(2), rtol=1e-4, atol=1e-5)


def test_the_weight_of_a_drawn_time_is_that_of_the_whole_range():
    """-(t_max - t_start) SNR'(t) / 2 of x0's square error, with SNR = (1 - t)^2 / t^2 and x0_hat = 0."""
    schedule, x = schedules.ending_at(schedules.rectified_flow(), 0.8), jnp.array([[0.7], [-1.0]])
    at_one_time = timesteps.from_quantile(lambda u: jnp.full_like(u, 0.4))
    objective = objectives.variational_bound(parameterizations.x0(), at_one_time, 0.1, gaussian())
    keys = jax.random.split(jax.random.key(0), 2)
    _, metrics = objective({"model": lambda x, t, c: 0 * x}, schedule, keys, {"x": x}, 0)
    np.testing.assert_allclose(metrics["diffusion"], 0.7 * 0.6 / 0.4**3 * x[:, 0] ** 2 / np.log(2), rtol=1e-5)


@pytest.mark.parametrize("name", ["velocity", "v", "x0"])
def test_the_end_of_a_path_has_the_limit_of_its_weight(name):
    """-SNR'(t) |x_0 - x0_hat|^2 / 2 is 0 at alpha = 0; it was -inf times 0 for the one draw in 10^7 that is t_max."""
    schedule, x = schedules.rectified_flow(), jnp.array([[0.7], [-1.0]])
    at_end = timesteps.from_quantile(lambda u: jnp.full_like(u, schedule.t_max))
    objective = objectives.variational_bound(getattr(parameterizations, name)(), at_end, 1e-3, gaussian())
    keys = jax.random.split(jax.random.key(0), 2)
    losses, metrics = objective({"model": lambda x, t, c: 0 * x}, schedule, keys, {"x": x}, 0)
    np.testing.assert_array_equal(metrics["t"], 1)
    np.testing.assert_allclose(metrics["diffusion"], 0, atol=1e-4)
    np.testing.assert_allclose(losses, metrics["prior"] + metrics["reconstruction"], atol=1e-4)


@pytest.mark.parametrize("ratio", [0.003, pytest.param(0.05, marks=pytest.mark.slow), 1.0])
def test_levels_are_bayes_rule(ratio):
    """p(level | x_t) with every level alike, from normal densities in float64."""
    k = np.array([[0, 3, 127, 255]])
    noise = np.random.default_rng(0).normal(size=k.shape)
    values = -1 + 2 * np.arange(256) / 255
    y = values[k] + ratio * noise
    likelihood = scipy.stats.norm.logpdf(y[..., None], values, ratio)
    expected = likelihood[0, np.arange(4), k[0]] - scipy.special.logsumexp(likelihood[0], axis=-1)
    found = levels()(jnp.asarray(values[k], jnp.float32), jnp.asarray(noise, jnp.float32), jnp.full((1, 1), ratio))
    np.testing.assert_allclose(found[0], expected, rtol=2e-3, atol=2e-4)


def test_data_beyond_the_levels_have_no_probability():
    """A number below -1 by a level or more would be the last level's, counted from the end."""
    x = jnp.array([[-1.01, -1.5, -1.0, -1.001, 1.001, 1.0, 1.01, 1.5]])
    log_p = levels()(x, jnp.zeros_like(x), jnp.full((1, 1), 0.01))
    np.testing.assert_array_equal(np.isnan(log_p[0]), [1, 1, 0, 0, 0, 0, 1, 1])


@pytest.mark.extended
def test_the_decoder_has_a_key_of_its_own():
    """The reconstruction, -noise^2 / 2 up to a constant, says nothing of the noise that the network sees."""
    schedule = schedules.linear_beta()
    seen = []
    density = timesteps.discrete_density(schedule, 1000)
    objective = objectives.variational_bound(parameterizations.epsilon(), density, decoder=gaussian())
    network = lambda x, t, c: seen.append(x) or 0 * x
    keys = jax.random.split(jax.random.key(1), 4096)
    x = jnp.zeros((4096, 1))
    _, metrics = objective({"model": network}, schedule, keys, {"x": x}, 0)
    eps = np.abs(seen[0][:, 0]) / schedule.sigma(metrics["t"])
    assert abs(scipy.stats.spearmanr(eps, metrics["reconstruction"]).statistic) < 4 / 64
    assert abs(scipy.stats.spearmanr(metrics["t"], metrics["reconstruction"]).statistic) < 4 / 64


def test_the_decoder_gets_the_noise_in_units_of_the_data_at_the_start():
    """sigma / alpha at t_start, for every entry; the reconstruction is what it returns, in bits a dimension."""
    schedule = schedules.trigonometric()
    start = 0.25
    seen = []

    def decoder(x_0, noise, ratio):
        seen.append((x_0, ratio))
        return -ratio * jnp.ones_like(x_0)

    density = timesteps.uniform_density(schedule._replace(t_min=start))
    objective = objectives.variational_bound(parameterizations.v(), density, start, decoder)
    keys = jax.random.split(jax.random.key(1), 4)
    x = jnp.linspace(-1, 1, 12).reshape(4, 3)
    _, metrics = objective({"model": lambda x, t, c: 0 * x}, schedule, keys, {"x": x}, 0)
    np.testing.assert_array_equal(seen[0][0], x)
    np.testing.assert_allclose(np.squeeze(seen[0][1]), np.tan(np.pi / 8), rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], np.tan(np.pi / 8) / np.log(2), rtol=1e-5)


def test_a_start_without_noise_is_refused():
    objective = objectives.variational_bound(parameterizations.v(), timesteps.uniform_density(schedules.cosine()))
    with pytest.raises(ValueError, match="t_start = 0 there is no noise"):
        keys = jax.random.split(jax.random.key(0), 1)
        objective({"model": lambda x, t, c: x}, schedules.cosine(), keys, {"x": jnp.zeros((1, 1))}, 0)


def test_the_decoders_are_reached_beside_the_function_that_has_their_modules_former_name():
    levels = objectives.decoders.levels(2)(jnp.array([[1.0, -1.0]]), jnp.zeros((1, 2)), jnp.ones((1, 2)))
    np.testing.assert_allclose(levels, -np.log1p(np.exp(-2.0)), rtol=1e-6)  # the two levels are 2 apart, r = 1
    gaussian = objectives.decoders.gaussian()(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2)))
    np.testing.assert_allclose(gaussian, -0.5 - 0.5 * np.log(2 * np.pi), rtol=1e-6)
