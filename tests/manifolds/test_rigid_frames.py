"""Frames as one array against the product of rotations and positions, and the density of what they start from."""

import jax
import numpy as np
import pytest
from scipy import stats

from diffusion import manifolds

N = 4


def test_the_density_of_the_prior_is_exact():
    """Uniform rotations, and the normal density in 3 (N - 1) orthonormal coordinates of the centred positions."""
    scale = 1.7
    prior = manifolds.frame_prior(N, scale)
    x = prior.sample(jax.random.split(jax.random.key(0), 3))
    manifolds.frames(N).check(x)
    positions = manifolds.centred(N)
    coordinates = np.einsum("bdni,bni->bd", positions.basis(x[..., 3]), x[..., 3])
    assert coordinates.shape == (3, 9)
    meant = stats.norm(0, scale).logpdf(np.float64(coordinates)).sum(1) - N * np.log(8 * np.pi**2)
    np.testing.assert_allclose(prior.log_density(x), meant, rtol=1e-5)
    drawn = np.asarray(prior.sample(jax.random.split(jax.random.key(1), 2000)))[..., 3]
    assert (drawn**2).sum((1, 2)).mean() / 9 == pytest.approx(scale**2, rel=5 * np.sqrt(2 / (9 * 2000)))


@pytest.mark.slow
def test_the_distance_is_that_of_the_product():
    frames, product = manifolds.frames(N), manifolds.power(manifolds.se3(), N)
    x, y = manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(2)))
    parts = [(a[..., :3], a[..., 3]) for a in (x, y)]
    assert float(frames.distance(x, y)) == pytest.approx(float(product.distance(*parts)), rel=1e-6)
    middle = manifolds.geodesic(frames, x, y, 0.3)
    meant = manifolds.geodesic(product, *parts, 0.3)
    np.testing.assert_allclose(middle[..., :3], meant[0], atol=1e-6)
    np.testing.assert_allclose(middle[..., 3], meant[1], atol=1e-6)
    assert frames.dimension == 6 * N - 3


def test_frames_that_are_none_are_refused():
    frames = manifolds.frames(N)
    x = np.array(manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(3), 2)))
    moved, scaled = x.copy(), x.copy()
    moved[1, :, 0, 3] += 0.5
    scaled[1, 2, :, :3] *= 1.1
    for wrong, message in (
        (moved, "the mean of the points is zero"),
        (scaled, "orthogonal matrices of determinant 1"),
        (x[:, :3], r"shape \[..., 4, 3, 4\], got \[2, 3, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            frames.check(wrong)
    for call, message in (
        (lambda: manifolds.frames(1), "n = 1"),
        (lambda: manifolds.frame_prior(3, 0.0), "scale = 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
