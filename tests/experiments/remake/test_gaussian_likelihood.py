"""The spread of the probes against all probes of a small picture, and the basis against its definition."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import likelihood, schedules
from diffusion.experiments.remake import gaussian_likelihood


def test_the_basis_is_orthonormal_and_its_first_axis_constant():
    data = gaussian_likelihood.pictures(4)
    axes = data.axes[0]
    np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-12)
    np.testing.assert_allclose(np.abs(axes[:, 0]), 0.25)
    assert data.variances.mean() == pytest.approx(0.25)
    assert data.variances[0, 0] / data.variances[0, 3] == pytest.approx(9)  # frequencies 1 (of 0) and 3


def test_the_spread_over_probes_is_that_over_all_sixteen_signs():
    data, schedule = gaussian_likelihood.pictures(2), schedules.variance_preserving()
    v = lambda t: float(schedule.alpha(t)) ** 2 * data.variances[0] + float(schedule.sigma(t)) ** 2
    G = data.axes[0] @ np.diag(np.log(v(schedule.t_max) / v(schedule.t_min)) / 2) @ data.axes[0].T
    signs = np.array(list(itertools.product((-1, 1), repeat=4)))
    estimates = np.einsum("ki,ij,kj->k", signs, G, signs)
    assert estimates.mean() == pytest.approx(np.trace(G))
    expected = estimates.std() / (4 * np.log(2))
    assert gaussian_likelihood.probe_deviation(data, schedule) == pytest.approx(expected, rel=1e-5)


def test_every_part_has_its_key_and_its_spread_is_a_root_mean_square_about_zero(monkeypatch):
    keys = []

    def errors(sde, key, data, rows):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return np.array([3.0, -1.0])

    monkeypatch.setattr(gaussian_likelihood, "errors", errors)
    parts = {part: gaussian_likelihood.measure(part, True) for part in gaussian_likelihood.REMAKE.parts}
    assert len({*keys}) == 12
    values = parts["VE, batch 2"]
    assert values[gaussian_likelihood.BIAS.format("VE")] == 1
    assert values[gaussian_likelihood.SPREAD.format("VE")] * values["exact deviation"] == pytest.approx(5**0.5)


@pytest.mark.extended
def test_an_error_is_that_of_the_bits_of_a_dimension(monkeypatch):
    """A density that is too small by 8^dimensions has three bits too many in each."""
    data, made = gaussian_likelihood.pictures(4), []

    def log_likelihood(denoise, schedule, x, solver, probe):
        made.append(x.shape)
        assert solver == (schedule.t_min, schedule.t_max, *[gaussian_likelihood.TOLERANCE] * 2)
        np.testing.assert_allclose(jnp.abs(denoise(x, schedule.t_min).x0 - x).max(), 0, atol=0.02)  # no noise is left
        exact = gaussian_likelihood.exact_mixtures.log_density(data, x)
        return types.SimpleNamespace(log_density=exact - 16 * np.log(8))

    monkeypatch.setattr(jax, "jit", lambda function: function)
    monkeypatch.setattr(gaussian_likelihood.ode, "dormand_prince", lambda *ends_and_tolerances: ends_and_tolerances)
    monkeypatch.setattr(likelihood, "log_likelihood", log_likelihood)
    errors = gaussian_likelihood.errors("VE", jax.random.key(0), data, 6)
    np.testing.assert_allclose(errors, np.full(6, 3.0), rtol=1e-5)
    assert made == [(6, 16)]


def test_the_picture_has_the_errors_of_all_batches_under_their_exact_bell():
    rng = np.random.default_rng(0)
    parts = {
        part: {"errors": rng.normal(0, 0.2, 50), "exact deviation": 0.2} for part in gaussian_likelihood.REMAKE.parts
    }
    for axes, sde in zip(gaussian_likelihood.draw(parts).axes, gaussian_likelihood.SDES, strict=True):
        assert axes.get_title() == sde
        errors = np.concatenate([values["errors"] for part, values in parts.items() if part.startswith(f"{sde},")])
        width = np.ptp(errors) / len(axes.patches)
        assert sum(bar.get_height() for bar in axes.patches) * width == pytest.approx(1)
        assert axes.patches[0].get_x() == pytest.approx(errors.min()) and len(axes.patches) == 24
        x, bell = axes.lines[0].get_data()
        np.testing.assert_allclose(bell, scipy.stats.norm(0, 0.2).pdf(x))
        assert x.max() == pytest.approx(0.8) == -x.min()


@pytest.mark.slow
@pytest.mark.parametrize("sde", gaussian_likelihood.SDES)
def test_the_errors_are_those_of_the_probes(sde):
    """Each error is -(z^T G z - tr G) / (D ln 2), to the solver's tolerance."""
    data, schedule, key = gaussian_likelihood.pictures(4), gaussian_likelihood.SDES[sde](), jax.random.key(3)
    errors = gaussian_likelihood.errors(sde, key, data, 6)
    v = lambda t: float(schedule.alpha(t)) ** 2 * data.variances[0] + float(schedule.sigma(t)) ** 2
    G = data.axes[0] @ np.diag(np.log(v(schedule.t_max) / v(schedule.t_min)) / 2) @ data.axes[0].T
    z = likelihood.rademacher(jax.random.split(jax.random.fold_in(key, 1), 6), (16,))[0]
    expected = -(jnp.einsum("bi,ij,bj->b", z, G, z) - np.trace(G)) / (16 * np.log(2))
    np.testing.assert_allclose(errors, expected, atol=2e-3)
