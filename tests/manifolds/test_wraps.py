"""Wrapped normals where several turns count: the widest that a closed geodesic allows, by 41 turns in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds


@pytest.mark.parametrize("scale", [0.3, 2.0, np.pi])
def test_the_density_on_a_circle_is_the_sum_over_all_turns(scale):
    angle = np.linspace(-np.pi, np.pi, 9)
    turns = angle[:, None] + 2 * np.pi * np.arange(-20, 21)
    expected = np.log((np.exp(-(turns**2) / (2 * scale**2)) / np.sqrt(2 * np.pi * scale**2)).sum(-1))
    found = manifolds.circle().wrapped_log_density(jnp.zeros(9), jnp.float32(scale), jnp.asarray(angle, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=3e-6, rtol=1e-5)


def test_scales_beyond_the_longest_are_refused():
    with pytest.raises(ValueError, match=r"must be in \(0, pi\] where geodesics close"):
        manifolds.circle().wrapped_log_density(jnp.zeros(1), 3.2, jnp.zeros(1))
    with pytest.raises(ValueError, match=r"scale = 0 of a wrapped normal"):
        manifolds.circle().wrapped_log_density(jnp.zeros(1), 0.0, jnp.zeros(1))
