"""The exact denoiser of a Gaussian process, and ways to condition it, which come near the exact scores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from benchmarks import series
from diffusion import samplers, schedules
from diffusion.data import gaussian_processes
from diffusion.recipe import data, recipes
from tests import oracles


@pytest.mark.extended
def test_the_exact_denoiser_is_the_oracle_of_a_gaussian():
    process = gaussian_processes.stationary(6, 2)
    schedule = schedules.rectified_flow()
    t = jnp.array([0.2, 0.7, 1.0])
    x = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    made = series.exact_denoiser(process, schedule)(x, t)
    law = oracles.gaussian(np.zeros(12), process.covariance)
    flat = x.reshape(3, 12)
    np.testing.assert_allclose(made.x0.reshape(3, 12), oracles.mean_x0(law, 1 - t, t, flat), atol=1e-4)
    np.testing.assert_allclose(made.eps.reshape(3, 12), oracles.mean_eps(law, 1 - t, t, flat), atol=1e-4)


def pigdm_law(covariance, given, mask, steps):
    """The mean `[D]` and the covariance of what PiGDM draws by DDPM along linear interpolation, with N(0, covariance).

    The guided estimate is linear in x_t: G x_t + f G P (y - G x_t), with G = a K (a^2 K + t^2 I)^-1, a = 1 - t, P the
    projection on what is given, and f = (a^2 + t^2) / a; q(x_s | x_t, x_0) is that of Kingma et al. 2021, equation 29.
    """
    size = len(covariance)
    mean, spread = np.zeros(size), np.eye(size)
    grid = np.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(grid):
        a = 1 - t
        estimate = a * covariance @ np.linalg.inv(a**2 * covariance + t**2 * np.eye(size))
        pull = (a**2 + t**2) / a * estimate * mask if a else np.zeros((size, size))
        ratio = a / (1 - s)
        variance = t**2 - ratio**2 * s**2
        of_x_t, of_x_0 = ratio * s**2 / t**2, (1 - s) * variance / t**2
        step = of_x_t * np.eye(size) + of_x_0 * (estimate - pull @ estimate)
        mean = step @ mean + of_x_0 * pull @ given
        spread = step @ spread @ step.T + variance * s**2 / t**2 * np.eye(size)
    return mean, spread


def hidden_series():
    """The test series of the recipe, of which stretches are hidden."""
    config = recipes.load("series/unconditional")
    settings = {**config.data, "source": {**config.data.source, "hide": series.HIDES["gaps"]}}
    return data.open_settings(settings, "test")


def law_of_record(source, record):
    """The law of what PiGDM draws for a record of `hidden_series`, in 50 steps."""
    condition = record["condition"]
    given = np.where(condition["mask"], condition["given"], 0).ravel().astype(np.float64)
    return pigdm_law(source.process.covariance, given, condition["mask"].ravel(), 50)


@pytest.mark.slow
def test_pigdm_draws_from_the_law_that_its_equations_have_for_a_gaussian():
    source, number = hidden_series(), 4000
    record = source[0]
    mean, spread = law_of_record(source, record)
    schedule = schedules.rectified_flow()
    sampler, plan, guided, _ = series.ways(schedule, 50)["PiGDM"]
    given, mask = (jnp.broadcast_to(record["condition"][name], (number, 48, 1)) for name in ("given", "mask"))
    keys = jax.random.split(jax.random.key(0), (2, number))
    x = samplers.prior(schedule, keys[0], (48, 1))
    denoise = guided(series.exact_denoiser(source.process, schedule), given, mask)
    sample = jax.jit(lambda x: samplers.sample(sampler, denoise, schedule, x, plan, keys[1]))
    draws = np.asarray(sample(x)).reshape(number, 48)
    std = np.sqrt(np.diag(spread))
    within = 5 * std / np.sqrt(number) + 1e-4  # the last is of float32: where a value is given, std is 1e-4
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), within)
    np.testing.assert_allclose(draws.var(0) / std**2, np.ones(48), atol=5 * np.sqrt(2 / number))


@pytest.mark.slow
def test_ways_come_near_the_exact_scores_and_pigdm_has_those_of_its_law():
    found = series.measure(None, series.HIDES["gaps"], 20, 50)
    crps = {name: figures["crps"]["value"] for name, figures in found.items()}
    assert crps["exact"] < crps["RePaint"] < crps["replacement"] < crps["marginal"]
    source = hidden_series()
    scores = []
    for record in (source[i] for i in range(20)):
        mean, spread = law_of_record(source, record)
        law = norm(mean, np.sqrt(np.diag(spread)))
        z = (record["x"].ravel() - law.mean()) / law.std()
        closed = law.std() * (
            z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
        )  # Gneiting, Raftery 2007
        scores.append(closed[record["condition"]["real"].ravel()].mean())
    # Its score is 17 % above the exact one at these series: its law takes what is hidden as independent. The estimate
    # from 100 draws of each of the 20 series has a standard deviation of 1.0 %.
    assert crps["PiGDM"] == pytest.approx(np.mean(scores), rel=0.04)
