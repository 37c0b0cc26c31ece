"""Points of exact mixtures: on their manifold, repeatable, and of the density that the source states."""

import jax
import numpy as np
import pytest

from diffusion import manifolds
from diffusion.data import sources

NUMBER = 400
SOURCES = {
    "sphere_mixture": (manifolds.sphere(2), 1200),
    "torsion_mixture": (manifolds.torus(2), 4000),
    "rotation_mixture": (manifolds.so3(), 4000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_points_lie_on_the_manifold_and_the_density_integrates_to_one(name):
    manifold, uniform = SOURCES[name]
    source = getattr(sources, name)("test", number=NUMBER)
    points = np.stack([source[row]["x"] for row in range(NUMBER)])
    manifold.check(points)
    assert points.dtype == np.float32
    log_density = source.distribution.log_density
    # The mean of p over uniform points, times the volume, is its integral.
    everywhere = manifold.uniform(jax.random.key(0), (uniform,))
    density = np.exp(np.asarray(jax.jit(log_density)(everywhere), np.float64)) * manifold.volume
    assert abs(density.mean() - 1) < 5 * density.std() / np.sqrt(uniform)
    again = getattr(sources, name)("test", number=NUMBER)
    np.testing.assert_array_equal(again[5]["x"], points[5])


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="no split 'valid'"):
        sources.torsion_mixture("valid")
    with pytest.raises(ValueError, match="number = 0"):
        sources.torsion_mixture(number=0)


def test_torsions_lie_in_the_published_basins_and_splits_share_no_point():
    """Of each: its share of the points within three deviations of its angles, and their deviation."""
    number = 3000
    train, test = (sources.torsion_mixture(split, number=number) for split in ("train", "test"))
    points = np.degrees([train[row]["x"] for row in range(number)])
    assert not np.isin(np.degrees([test[row]["x"] for row in range(20)]), points).any()
    near_all = np.zeros(number, bool)
    for mean, deviation, share in [
        ((-63.0, -42.0), 12.0, 0.45), ((57.0, 45.0), 12.0, 0.05),  # helices
        ((-120.0, 130.0), 20.0, None), ((-70.0, 150.0), 15.0, None),  # which overlap
    ]:  # fmt: skip
        apart = (points - mean + 180) % 360 - 180
        near = (np.abs(apart) < 3.5 * deviation).all(1)
        near_all |= near
        if share is not None:
            assert abs(near.mean() - share) < 4 * np.sqrt(share * (1 - share) / number)
            np.testing.assert_allclose(apart[near].std(0), deviation, rtol=4 / np.sqrt(2 * near.sum()))
            np.testing.assert_allclose(apart[near].mean(0), 0, atol=4 * deviation / np.sqrt(near.sum()))
    assert near_all.mean() > 0.995
