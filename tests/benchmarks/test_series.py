"""The exact denoiser of a Gaussian process, and ways to condition it, which come near the exact scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import series
from diffusion import schedules
from diffusion.data import gaussian_processes
from tests import oracles


def test_the_exact_denoiser_is_the_oracle_of_a_gaussian():
    process = gaussian_processes.stationary(6, 2)
    schedule = schedules.rectified_flow()
    t = jnp.array([0.2, 0.7, 1.0])
    x = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    made = series.exact_denoiser(process, schedule)(x, t)
    data = oracles.gaussian(np.zeros(12), process.covariance)
    flat = x.reshape(3, 12)
    np.testing.assert_allclose(made.x0.reshape(3, 12), oracles.mean_x0(data, 1 - t, t, flat), atol=1e-4)
    np.testing.assert_allclose(made.eps.reshape(3, 12), oracles.mean_eps(data, 1 - t, t, flat), atol=1e-4)


@pytest.mark.slow
def test_ways_come_near_the_exact_scores():
    found = series.measure(None, series.HIDES["gaps"], 20, 50)
    crps = {name: figures["crps"]["value"] for name, figures in found.items()}
    assert crps["RePaint"] < crps["replacement"] < crps["marginal"]
    assert crps["PiGDM"] == pytest.approx(crps["exact"], rel=0.15)
