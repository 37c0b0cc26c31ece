"""Uniform processes as the argmax of Gaussian latents: exact probabilities, and draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from diffusion import discrete
from diffusion.discrete import categorical

PROCESS = discrete.uniform(discrete.cosine(), 5)
ALPHAS = np.array([0.0, 1e-3, 0.2, 0.6, 0.9, 0.97, 0.999])


def by_adaptive_integration(alpha, size):
    """Equation 11 of the paper, in float64 by SciPy."""
    if alpha == 1:
        return 1.0
    ratio = alpha / np.sqrt(1 - alpha**2)
    integrand = lambda z: stats.norm.pdf(z - ratio) * np.exp((size - 1) * special.log_ndtr(z))
    value, _ = integrate.quad(integrand, ratio - 12, ratio + 12, epsabs=1e-14, epsrel=1e-13, limit=400)
    return size / (size - 1) * (value - 1 / size)


def test_the_transformation_of_two_symbols_is_in_closed_form():
    exact = 2 * stats.norm.cdf(ALPHAS / np.sqrt(2 * (1 - ALPHAS**2))) - 1
    np.testing.assert_allclose(discrete.diffusion_transformation(ALPHAS, 2), exact, atol=2e-15)


@pytest.mark.parametrize("size", [3, 27, 50_257])
def test_the_transformation_is_the_integral_of_the_paper(size):
    exact = [by_adaptive_integration(alpha, size) for alpha in ALPHAS]
    np.testing.assert_allclose(discrete.diffusion_transformation(ALPHAS, size), exact, atol=1e-12)
    assert discrete.diffusion_transformation(1.0, size) == 1


@pytest.mark.parametrize("size", [27, 50_257])
def test_the_underlying_gaussian_is_its_inverse(size):
    process = discrete.uniform(discrete.linear(), size)
    t = np.array([0.0, 1e-4, 0.03, 0.5, 0.9, 0.999, 1.0])
    alpha, sigma = (np.asarray(number) for number in discrete.underlying_gaussian(process, np.float32(t)))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    np.testing.assert_allclose(discrete.diffusion_transformation(alpha, size), 1 - t, atol=5e-6)
    assert abs(alpha[-1]) < 1e-6 and alpha[0] / sigma[0] > 15


@functools.cache
def noise():
    """Of 40,000 examples with one position of five symbols."""
    x0 = jnp.zeros((40_000, 1), jnp.int32)
    return jax.jit(lambda keys: discrete.latent_noise(PROCESS, keys, x0))(jax.random.split(jax.random.key(0), len(x0)))


@jax.jit
def draws(noise, x0, t):
    return jnp.argmax(discrete.gaussian_latents(PROCESS, noise, x0, t), -1)


@pytest.mark.extended
def test_the_largest_latent_has_the_marginals_of_the_uniform_process():
    for symbol, t in [(0, 0.2), (3, 0.5), (4, 0.8), (2, 1.0)]:
        x_t = draws(noise(), jnp.full((40_000, 1), symbol), jnp.full(40_000, t))
        exact = np.asarray(PROCESS.marginal(jnp.array([symbol]), t), np.float64)[0]
        counts = np.bincount(x_t[:, 0], minlength=5)
        assert stats.chisquare(counts, 40_000 * exact / exact.sum()).pvalue > 1e-3, (t, counts / 40_000, exact)


def test_a_path_of_one_noise_reaches_the_symbol_of_the_data_and_stays():
    x0 = jnp.arange(40_000)[:, None] % 5
    path = np.array([draws(noise(), x0, jnp.full(40_000, t)) == x0 for t in (1.0, 0.8, 0.5, 0.2, 0.0)])
    assert (np.diff(path.astype(int), axis=0) >= 0).all() and path[-1].all() and 0.2 < path[2].mean() < 0.9


def test_normal_numbers_are_normal_far_into_their_tails():
    assert stats.kstest(np.asarray(noise()).ravel(), "norm").pvalue > 1e-3
    half = 2**31
    high = np.array([0, 2**20, half - 1, half, 2**32 - 1], np.uint32)
    top, distance = categorical._from_the_nearer_end(jnp.asarray(high), jnp.zeros(5, jnp.uint32))
    exact = (np.float64(high) + 0.5 / 2**32) / 2**32
    np.testing.assert_array_equal(top, exact >= 0.5)
    np.testing.assert_allclose(distance, np.minimum(exact, 1 - exact), rtol=1e-6)


def test_only_uniform_processes_have_gaussian_latents():
    with pytest.raises(ValueError, match=r"underlying_gaussian: only uniform processes have .*discrete\.uniform"):
        discrete.underlying_gaussian(discrete.absorbing(discrete.linear(), 4), 0.5)
    with pytest.raises(ValueError, match=r"diffusion_transformation: 1 symbols, alpha = 0\.5. Valid: at least 2"):
        discrete.diffusion_transformation(0.5, 1)
