"""Wrapped normals where several turns count: the widest that a closed geodesic allows, by 41 turns in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds
from diffusion.manifolds import wrapped


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


def test_scales_may_exceed_the_longest_by_the_rounding_of_float32():
    """By a millionth; twice as much where geodesics close after two turns."""
    for turns, most in ((1, r"\(0, pi\]"), (2, r"\(0, 2 pi\]")):
        wrapped.require_scale(np.array([1.0, turns * (np.pi + 0.99e-6)]), turns)
        with pytest.raises(ValueError, match=most):
            wrapped.require_scale(np.array([1.0, turns * (np.pi + 1.01e-6)]), turns)


def test_at_the_mean_the_poles_of_further_turns_are_cut_at_a_millionth():
    """On S^2, whose geodesics of each length 2 pi k return to the mean: there |sin(r) / r| counts as 1e-6."""
    scale, k = np.pi, np.array([1, 2, 3])
    rest = 2 * np.sum(np.exp(-0.5 * (2 * np.pi * k / scale) ** 2)) * 1e6
    pole = jnp.array([0.0, 0.0, 1.0])
    found = manifolds.sphere(2).wrapped_log_density(pole, scale, pole)
    assert float(found) == pytest.approx(np.log((1 + rest) / (2 * np.pi * scale**2)), rel=1e-3)


def test_a_wrapped_normal_of_an_interval_sums_the_reflections_at_its_ends():
    """On p = (sin^2 a, cos^2 a) it is the normal of the angle 2 a, folded at 0 and pi: by the sum over its images."""
    a, mean, scale = np.array([0.1, 0.7, 1.5]), 0.4, 1.5
    points = lambda a: jnp.asarray(np.stack([np.sin(a) ** 2, np.cos(a) ** 2], -1), jnp.float32)
    images = np.concatenate([sign * 2 * a[:, None] + 2 * np.pi * np.arange(-20, 21) for sign in (1, -1)], 1)
    exact = np.exp(-0.5 * ((images - 2 * mean) / scale) ** 2).sum(1) / (scale * np.sqrt(2 * np.pi))
    density = jax.jit(lambda mean, x: manifolds.simplex(1).wrapped_log_density(mean, scale, x))
    np.testing.assert_allclose(np.exp(density(points(np.array(mean)), points(a))), exact, rtol=1e-3)
