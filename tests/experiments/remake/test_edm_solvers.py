"""The exact flow of a Gaussian, the spectrum, and steps whose errors are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.experiments.remake import edm_solvers


def test_the_spectrum_falls_with_the_square_of_the_frequency():
    variances = edm_solvers.picture_spectrum(8)
    assert variances.mean() == pytest.approx(0.25)
    plane = variances.reshape(8, 8)
    assert plane[0, 1] / plane[0, 4] == pytest.approx(16) and plane[0, 3] / plane[3, 3] == pytest.approx(2)


def test_the_variance_exploding_ode_has_the_variance_of_its_time():
    schedule = edm_solvers.variance_exploding(100.0)
    t = jnp.array([0.25, 1.0])
    np.testing.assert_allclose(schedule.sigma(t), [50, 100], rtol=1e-6)
    np.testing.assert_allclose(schedule.diffusion(t), [100, 100], rtol=1e-5)  # g^2 = d sigma^2 / dt


def test_its_own_steps_are_those_of_table_1():
    _, vp = edm_solvers.own_steps("VP", 4)
    np.testing.assert_allclose(vp, [1, 1 - 0.999 / 3, 1 - 2 * 0.999 / 3, 1e-3, 0])
    schedule, ve = edm_solvers.own_steps("VE", 3)
    np.testing.assert_allclose(schedule.sigma(ve), [100, np.sqrt(100 * 0.02), 0.02, 0], rtol=1e-5)


def test_one_step_of_euler_from_the_start_to_the_data_by_hand():
    """To sigma = 0 Euler gives lambda / (lambda + sigma^2) x, and the flow sqrt(lambda / (lambda + sigma^2)) x."""
    variances = np.array([0.25, 4.0])
    with jax.enable_x64(True):
        error = edm_solvers.end_error("Euler", schedules.edm(0.002, 2.0), np.array([1.0, 0.0]), variances)
    gain = variances / (variances + 4)
    assert error == pytest.approx(np.sqrt(np.mean((2 * gain - 2 * np.sqrt(gain)) ** 2)), rel=1e-9)


def test_the_errors_of_single_steps_by_hand():
    """Three levels, two steps: Euler's from the exact flow, x + (s - t) t x / (lambda + t^2)."""
    variances = np.array([0.25, 4.0])
    with jax.enable_x64(True):
        errors = edm_solvers.step_errors("Euler", 1.0, 3, variances)
    levels = np.array([80, 40.001, 0.002])
    spread = np.sqrt(variances + levels[:, None] ** 2)
    euler = spread[:-1] * (1 + (np.diff(levels) * levels[:-1])[:, None] / spread[:-1] ** 2)
    np.testing.assert_allclose(errors, np.sqrt(np.mean((euler - spread[1:]) ** 2, 1)), rtol=1e-6)


@pytest.mark.slow
def test_orders_of_single_steps():
    with jax.enable_x64(True):
        assert edm_solvers.step_order("Euler") == pytest.approx(2, abs=0.01)
        assert edm_solvers.step_order("Heun") == pytest.approx(3, abs=0.01)
