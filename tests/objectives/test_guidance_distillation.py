"""Guidance distillation: the guided teacher is its only optimum, in every parameterization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, weightings
from tests import oracles
from tests.objectives.few_step_cases import FLOW, V, as_v, keys_and_data
from tests.objectives.objective_cases import at

TWO = oracles.three_gaussians()
SCALE = 2.5


def guided_x0(t, x):
    """unconditional + scale (conditional - unconditional), for the mixture and its first component as a class."""
    alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
    first = oracles.Mixture(*(leaf[:1] / (leaf[:1] if leaf is TWO.weights else 1) for leaf in TWO))
    free, of_class = (oracles.mean_x0(data, alpha, sigma, x) for data in (TWO, first))
    return free + SCALE * (of_class - free)


@pytest.mark.parametrize("name", ["v", "x0"])
def test_the_guided_teacher_is_the_optimum_on_every_example(name, x64):
    """No loss there, and w(t) 0.01 for a student whose x0 is off by 0.1; each example has an importance of 3."""
    parameterization = getattr(parameterizations, name)()
    keys, batch = keys_and_data()
    density = at(0.4)
    thrice = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(24, 3.0)))
    objective = objectives.guidance_distillation(parameterization, V, weightings.snr(), thrice)

    def student(offset):
        x_0 = lambda t, x: guided_x0(t, x) + offset
        return as_v(FLOW, x_0) if name == "v" else lambda x, t, condition: x_0(t, x)

    @jax.jit
    def losses(offset):
        return objective({"model": student(offset), "teacher": as_v(FLOW, guided_x0)}, FLOW, keys, batch, 0)[0]

    np.testing.assert_allclose(losses(0.0), 0, atol=1e-20)
    np.testing.assert_allclose(losses(0.1), 3 * (0.6 / 0.4) ** 2 * 0.01, rtol=1e-6)
