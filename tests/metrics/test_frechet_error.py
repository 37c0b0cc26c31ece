"""The standard error against what it estimates: how distances scatter over fresh samples, and against a formula."""

import numpy as np
import pytest

from diffusion.metrics import frechet, frechet_error


def test_it_is_the_scatter_over_fresh_draws():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6)) / 2
    reference = frechet.moments(rng.normal(size=(4000, 6)))
    draws = [rng.normal(size=(800, 6)) @ mix + 0.3 for _ in range(400)]
    scatter = np.std([frechet.frechet_distance(frechet.moments(rows), reference) for rows in draws], ddof=1)
    errors = [frechet_error.standard_error(rows, reference) for rows in draws[:20]]
    assert np.mean(errors) == pytest.approx(scatter, rel=0.12)  # the scatter itself is known to 3.5 %


def test_one_dimension_by_hand():
    """d = (m - mu)^2 + (s - r)^2; the influence is 2 (m - mu)(x - m) + (1 - r / s)((x - m)^2 - s^2)."""
    x = np.random.default_rng(1).gamma(2.0, size=(500, 1))
    reference = frechet.Moments(11, np.array([0.7]), np.array([[2.5]]))
    m = x.mean()
    s = x.std(ddof=1)
    r = 0.5
    influence = 2 * (m - 0.7) * (x - m) + (1 - r / s) * (x - m) ** 2
    expected = influence.std(ddof=1) / np.sqrt(500)
    assert frechet_error.standard_error(x, reference) == pytest.approx(expected, rel=1e-9)


def by_symmetric_roots(samples, reference):
    """The definition: A = R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2, its inverse on the range alone."""
    power = lambda cov, exponent: (lambda w, v: (v * np.where(w > 1e-10 * w.max(), w, np.inf) ** exponent) @ v.T)(
        *np.linalg.eigh(cov)
    )
    values, vectors = np.linalg.eigh(reference.m2 / (reference.count - 1))
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    a = half @ power(half @ np.cov(samples.T) @ half, -0.5) @ half
    x = samples - samples.mean(0)
    influence = 2 * x @ (samples.mean(0) - reference.mean) + np.einsum("ni,ij,nj->n", x, np.eye(len(a)) - a, x)
    return influence.std(ddof=1) / np.sqrt(len(x))


@pytest.mark.parametrize("number, of_reference", [(10, 300), (40, 300), (41, 300), (10, 25), (30, 8)])
def test_fewer_samples_than_features(number, of_reference):
    rng = np.random.default_rng(2)
    mix = rng.normal(size=(40, 40)) / 6
    reference = frechet.moments(rng.normal(size=(of_reference, 40)) @ mix + 0.2)
    samples = rng.normal(size=(number, 40))
    expected = by_symmetric_roots(samples, reference)
    assert frechet_error.standard_error(samples, reference) == pytest.approx(expected, rel=1e-6)


def test_few_samples_need_no_eigenvalues_of_as_many_as_features(monkeypatch):
    rng = np.random.default_rng(3)
    reference = frechet.moments(rng.normal(size=(300, 40)))
    eigh, sizes = np.linalg.eigh, []
    monkeypatch.setattr(np.linalg, "eigh", lambda cov: sizes.append(len(cov)) or eigh(cov))
    frechet_error.standard_error(rng.normal(size=(10, 40)), reference)
    assert not sizes
    frechet_error.standard_error(rng.normal(size=(41, 40)), reference)
    assert sizes == [40]


def test_other_features_are_refused():
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        frechet_error.standard_error(np.zeros((4, 3)), frechet.init(2))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_error_has_the_square_of_the_features_units(scale):
    rng = np.random.default_rng(5)
    x, real = rng.normal(size=(60, 3)), rng.normal(size=(200, 3)) * [1.0, 2.0, 0.5]
    error = lambda factor: frechet_error.standard_error(factor * x, frechet.moments(factor * real))
    assert error(scale) == pytest.approx(scale**2 * error(1.0), rel=1e-6, abs=0)
