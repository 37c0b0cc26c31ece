"""The probability flow of leaves with a schedule each, in the mean of their angles, against slopes by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.flows import probability_flow
from diffusion.parameterizations import Prediction

SHAPE = [(1,), (2,)]  # the numbers of the two leaves
X0, EPS = np.array([[0.5, -1.0, 2.0]]), np.array([[1.5, 0.25, -0.75]])


def moved(pair, theta, rows=1):
    """du/dtheta of a denoiser with constant estimates."""
    constant = lambda x, t: Prediction(*(jnp.asarray(np.repeat(a, rows, axis=0), x.dtype) for a in (X0, EPS)))
    flow = probability_flow.velocity(constant, schedules.per_leaf(list(pair), SHAPE))
    return np.asarray(flow(jnp.asarray(theta, jnp.float32), jnp.ones((rows, 3))))


@pytest.mark.parametrize("t", [0.2, 0.5, 0.85])
def test_each_leaf_moves_by_its_share_of_the_mean_angle(t):
    """The angles are pi t / 2 and atan(t / (1 - t)), whose slopes are pi / 2 and 1 / (t^2 + (1 - t)^2)."""
    angles = np.array([np.pi * t / 2, np.arctan(t / (1 - t))])
    rates = np.array([np.pi / 2, 1 / (t**2 + (1 - t) ** 2)])
    theta, share = (a[[0, 1, 1]] for a in (angles, rates / rates.mean()))
    result = moved((schedules.trigonometric(), schedules.rectified_flow()), angles.mean())
    np.testing.assert_allclose(result, share * (np.cos(theta) * EPS - np.sin(theta) * X0), rtol=2e-5)


def test_leaves_of_infinite_slope_move_alone_at_the_prior():
    """alpha is sqrt(1 - t) for one leaf and 1 - t for the other; at t = 1, x moves by -x0 alone."""
    root = schedules.from_alpha_sigma(lambda t: jnp.sqrt(1 - t), jnp.sqrt)
    result = moved((root, schedules.rectified_flow()), np.pi / 2)
    np.testing.assert_allclose(result, [[-2 * X0[0, 0], 0, 0]], rtol=1e-5, atol=2e-3)


def test_where_no_leaf_has_a_slope_the_ratio_near_the_end_counts():
    """t^2 and t^2 of two leaves: each moves by its own angle, also in a batch with other times."""
    curve = schedules.from_alpha_sigma(lambda t: jnp.sqrt(1 - t**4), lambda t: t**2)
    result = moved((curve, curve), [0.0, np.pi / 4], rows=2)
    np.testing.assert_allclose(result[0], EPS[0], rtol=1e-5)
    np.testing.assert_allclose(result[1], (EPS[0] - X0[0]) / np.sqrt(2), rtol=1e-5)
