"""The standard targets: their constants by sums over grids and as published, and their exact draws."""

import jax
import numpy as np
import pytest
from scipy import stats

from diffusion import objectives


def _draws(target, number=20_000):
    return np.asarray(jax.jit(target.draw)(jax.random.split(jax.random.key(0), number)), np.float64)


@pytest.mark.extended
def test_the_mixture_integrates_to_one_and_is_drawn():
    target = objectives.gaussian_mixture()
    axis, step = np.linspace(-48, 48, 401, retstep=True)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(np.asarray(target.log_density(np.float32(grid)), np.float64)) * step**2
    assert target.log_normaliser == 0 and abs(density.sum() - 1) < 1e-3
    x = _draws(target)
    mean, second = density @ grid, density @ grid**2
    error = np.sqrt(second / len(x))
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 4.5 * error)
    np.testing.assert_allclose((x**2).mean(0), second, rtol=0.05)
    entropy = -density @ np.asarray(target.log_density(np.float32(grid)))
    assert abs(np.asarray(target.log_density(np.float32(x))).mean() + entropy) < 0.05  # each mode as it is drawn


def test_the_funnel_is_its_normals():
    target = objectives.funnel(3)
    x = np.array([[1.2, -0.5, 2.0], [-3.0, 0.1, 0.3]], np.float32)
    width = np.exp(x[:, :1] / 2)
    expected = stats.norm.logpdf(x[:, 0], scale=3) + stats.norm.logpdf(x[:, 1:], scale=width).sum(1)
    np.testing.assert_allclose(target.log_density(x), expected, rtol=1e-5)
    x = _draws(objectives.funnel())
    assert x.shape == (20_000, 10) and objectives.funnel().log_normaliser == 0
    assert stats.kstest(x[:, 0], stats.norm(scale=3).cdf).pvalue > 1e-3
    assert stats.kstest((x[:, 1:] / np.exp(x[:, :1] / 2)).ravel()[::7], stats.norm.cdf).pvalue > 1e-3


def test_the_constant_of_many_well_is_the_published_one():
    """11784.50927 for each first coordinate, as Midgley et al. 2023 have it, and sqrt(2 pi) for the second."""
    target = objectives.many_well()
    assert target.shape == (32,)
    assert target.log_normaliser == pytest.approx(16 * (np.log(11784.50927) + np.log(2 * np.pi) / 2), rel=1e-7)
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = 1.5, 0.7, -1.0, 2.0
    assert target.log_density(x)[0] == pytest.approx((-5.0625 + 13.5 + 0.75 - 0.245) + (-1 + 6 - 0.5 - 2))
    pairs = _draws(objectives.many_well(2)).reshape(-1, 2)
    grid = np.linspace(-4, 4, 4001)
    weights = np.exp(-(grid**4) + 6 * grid**2 + grid / 2)
    below = np.cumsum(weights) / weights.sum()
    assert stats.kstest(pairs[:, 0], lambda a: np.interp(a, grid, below)).pvalue > 1e-3
    assert stats.kstest(pairs[:, 1], stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: objectives.gaussian_mixture(0), "gaussian_mixture: number = 0 and dimension"),
        (lambda: objectives.gaussian_mixture(side=0.0), "side = 0.0 "),
        (lambda: objectives.funnel(1), "funnel: dimension = 1 must be"),
        (lambda: objectives.many_well(0), "many_well: wells = 0 must be"),
    ],
)
def test_a_number_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_draws_of_the_mixture_lie_around_all_of_its_modes():
    """Each of the 40 modes in a square of 80 is as likely, and the standard deviation about each is log(1 + e)."""
    target = objectives.gaussian_mixture()
    means = np.float64(80) * (np.random.default_rng(0).random((40, 2)).astype(np.float32) - 0.5)
    x = _draws(target, 8000)
    apart = np.linalg.norm(x[:, None] - means, axis=-1)
    share = np.bincount(apart.argmin(1), minlength=40) / 8000
    expected = np.linalg.norm(means[:, None] - means + 100 * np.eye(40)[..., None], axis=-1).min(1) > 12
    assert expected.any() and np.abs(share[expected] - 1 / 40).max() < 5 * np.sqrt(1 / 40 / 8000)
    near = apart[:, expected].min(1)
    near = near[near < 6]
    std = np.log1p(np.e)
    assert np.mean(near**2) == pytest.approx(2 * std**2, rel=0.1)
