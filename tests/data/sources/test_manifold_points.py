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
