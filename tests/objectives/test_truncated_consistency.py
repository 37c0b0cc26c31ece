"""Truncated consistency: its times, targets and weights by hand, and its optimum with an exact teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives
from tests.objectives.few_step_cases import COSINE, FLOW, V, as_v, exact_end, near
from tests.objectives.objective_cases import at
from tests.objectives.test_few_step_optima import expected_gradient

SIZE = 400


@pytest.mark.extended
@pytest.mark.parametrize("drawn", [0.3, 0.62, 0.9])
def test_times_targets_and_weights_are_the_papers(drawn, x64):
    """t' = 0.6, where sigma / alpha = 1.5; the networks' x0 are known: f = 2 t, and 5 from the teacher."""
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(1), SIZE)
    batch = {"x": jnp.asarray(rng.standard_normal((SIZE, 2)))}
    density = at(drawn)
    thrice = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(SIZE, 3.0)))
    objective = objectives.truncated_consistency(
        V, V, thrice, near(0.1), 1.5, 0.25, 0.2, pair_weighting=lambda schedule, t, s: 10 * (t - s)
    )
    teacher = as_v(FLOW, lambda t, x: jnp.full_like(x, 5.0))

    def run(f):
        model = as_v(FLOW, lambda t, x: f * t[:, None] + 0 * x)
        return objective({"model": model, "teacher": teacher}, FLOW, keys, batch, 0)

    losses, metrics = jax.jit(run)(2.0)
    t, s = (np.asarray(metrics[name]) for name in "ts")
    first = np.isclose(t, 0.6)
    if drawn > 0.6:
        assert abs(first.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / SIZE)
        np.testing.assert_allclose(t[~first], drawn)
        at_first = first
    else:  # all are raised to t', where a quarter has the weight of the boundary
        assert first.all()
        at_first = np.isclose(losses, np.min(losses))
        assert abs(at_first.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / SIZE)
    np.testing.assert_allclose(s, 0.9 * t)
    target = np.where(s < 0.6, 5.0, 2 * s)
    factor = 3 * np.where(at_first, 0.2 / 0.25, 1 / 0.75) * 10 * (t - s)
    np.testing.assert_allclose(losses, factor * (2 * t - target) ** 2, rtol=1e-6)
    # No gradient goes through the target.
    slope = jax.jit(jax.grad(lambda f: run(f)[0].sum()))(2.0)
    np.testing.assert_allclose(slope, (2 * factor * (2 * t - target) * t).sum(), rtol=1e-6)


def test_the_teacher_has_the_pairs_that_cross_the_boundary():
    """From t = 0.62, or from the boundary 0.6, to 0.9 t, where the teacher's x0 is 5; the student's is 2 t."""
    objective = objectives.truncated_consistency(V, V, at(0.62), near(0.1), 1.5, 0.25, 0.2)
    networks = {"model": as_v(FLOW, lambda t, x: 2 * t[:, None] + 0 * x), "teacher": as_v(FLOW, lambda t, x: 5 + 0 * x)}
    losses, metrics = objective(networks, FLOW, jax.random.split(jax.random.key(1), 8), {"x": jnp.ones((8, 2))}, 0)
    t = np.asarray(metrics["t"])
    crossing = t > 0.61
    assert crossing.any()
    np.testing.assert_allclose(losses[crossing], (2 * 0.62 - 5) ** 2 / 0.75, rtol=1e-5)
    np.testing.assert_allclose(losses[~crossing], (2 * 0.6 - 5) ** 2 * 0.2 / 0.25, rtol=1e-5)


@pytest.mark.extended
def test_the_end_of_the_flow_is_the_optimum_with_an_exact_teacher(x64):
    """Up to an error that vanishes with the gap; at both sides of the boundary."""
    end = as_v(COSINE, lambda t, x: exact_end(COSINE, t, x))
    make = lambda gap: objectives.truncated_consistency(V, V, at(0.6), near(gap), boundary=1.0)
    largest = expected_gradient(make, COSINE, end, {"teacher": end})
    gaps = np.array([0.08, 0.04, 0.02])
    found = [largest(0.0, gap) for gap in gaps]
    order = np.polyfit(np.log(gaps), np.log(found), 1)[0]
    assert abs(order - 2) < 0.3, (order, found)  # of gradients with a weight of 1
    assert largest(0.1, 0.02) > 10 * found[-1]


@pytest.mark.parametrize(
    "wrong, said",
    [({"boundary": 0.0}, "boundary = 0"), ({"share": 1.0}, "share = 1"), ({"weight": -1.0}, "weight = -1")],
)
def test_a_boundary_that_is_none_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        objectives.truncated_consistency(V, V, at(0.6), near(0.1), **wrong)
