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


def guided_x0(t, x, scale=SCALE):
    """unconditional + scale (conditional - unconditional), for the mixture and its first component as a class."""
    alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
    first = oracles.Mixture(*(leaf[:1] / (leaf[:1] if leaf is TWO.weights else 1) for leaf in TWO))
    free, of_class = (oracles.mean_x0(data, alpha, sigma, x) for data in (TWO, first))
    return free + scale * (of_class - free)


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


def test_a_student_that_receives_w_is_the_teacher_guided_by_it(x64):
    """At every w, of which one is drawn for each example from the range."""
    keys, batch = keys_and_data()
    batch["condition"] = jnp.zeros(24, int)
    objective = objectives.guidance_distillation(V, V, weightings.snr(), at(0.4), guidance=(0.5, 3.0), null=9)
    teacher = lambda x, t, label: as_v(FLOW, lambda t, x: guided_x0(t, x, jnp.where(label == 9, 0.0, 1.0)[:, None]))(
        x, t, None
    )

    def losses(offset):
        def student(x, t, condition):
            label, w = condition
            return as_v(FLOW, lambda t, x: guided_x0(t, x, 1 + w.astype(float)[:, None]) + offset)(x, t, label)

        return objective({"model": student, "teacher": teacher}, FLOW, keys, batch, 0)

    (exact, metrics), (off, _) = jax.jit(losses)(0.0), jax.jit(losses)(0.1)
    np.testing.assert_allclose(exact, 0, atol=1e-20)
    np.testing.assert_allclose(off, (0.6 / 0.4) ** 2 * 0.01, rtol=1e-6)
    w = np.asarray(metrics["guidance"])
    assert 0.5 <= w.min() < 1 and 2.5 < w.max() <= 3.0 and len(set(w)) == 24
    assert objective.teacher.scale == 1 and objective.condition.strength == (1.5, 4.0)


def test_a_range_of_w_that_is_empty_or_has_no_condition_is_refused():
    keys, batch = keys_and_data()
    make = lambda guidance: objectives.guidance_distillation(V, V, weightings.snr(), at(0.4), guidance)
    with pytest.raises(ValueError, match=r"guidance = \(2.0, 1.0\) must be"):
        make((2.0, 1.0))
    with pytest.raises(ValueError, match="needs a condition, but the batch has none"):
        make((0.0, 1.0))({name: as_v(FLOW, guided_x0) for name in ("model", "teacher")}, FLOW, keys, batch, 0)
