"""The solvers on equations with a solution: order, tolerance, and examples that do not know of each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import ode

RATES = np.array([0.1, 1.0, 20.0])


def decay(s, state):
    """du/ds = -2 s k u and dv/ds = 1: u = exp(-k s^2), v = s; the state is a pytree of different ranks."""
    u, v = state
    s = jnp.broadcast_to(s, (3,))
    return -2 * s[:, None] * RATES[:, None] * u, jnp.ones_like(v)


def begin():
    return jnp.ones((3, 2)), jnp.zeros(3)


def solved(solver):
    (u, v), evaluations = solver.solve(decay, lambda t: t, begin())
    np.testing.assert_allclose(v, solver.end - solver.start, rtol=1e-12)
    np.testing.assert_array_equal(u[:, 0], u[:, 1])
    return np.abs(u[:, 0] - np.exp(-RATES * (solver.end**2 - solver.start**2))), evaluations


@pytest.mark.usefixtures("x64")
def test_runge_kutta_has_order_4_on_any_grid():
    grid = lambda steps: np.linspace(0.1, 1.2, steps + 1) ** 2
    (coarse, evaluations), (fine, _) = solved(ode.runge_kutta(grid(40))), solved(ode.runge_kutta(grid(80)))
    assert evaluations == 160
    assert (np.log2(coarse / fine) > 3.8).all()


@pytest.mark.usefixtures("x64")
def test_dormand_prince_keeps_its_tolerance_with_fewer_steps_for_a_larger_one():
    results = [solved(ode.dormand_prince(0.0, 1.5, tolerance, tolerance)) for tolerance in (1e-4, 1e-7, 1e-10)]
    for tolerance, (wrong, _) in zip((1e-4, 1e-7, 1e-10), results):
        assert (wrong < 20 * tolerance).all()
    counts = [int(evaluations) for _, evaluations in results]
    assert counts[0] < counts[1] < counts[2] and all((count - 1) % 6 == 0 for count in counts)
    # Order 5: a thousandth of the tolerance takes 1000^(1/5) = 4 times the steps.
    assert 2.5 < counts[2] / counts[1] < 6


@pytest.mark.usefixtures("x64")
def test_what_does_not_arrive_is_nan():
    (u, v), _ = ode.dormand_prince(0.0, 1.5, 1e-9, 1e-9, most=12).solve(decay, lambda t: t, begin())
    assert np.isnan(u).all(axis=1).tolist() == np.isnan(v).tolist() == [False, True, True]
    broken = lambda s, state: (jnp.full((3, 2), jnp.nan), jnp.ones(3))
    (u, _), evaluations = ode.dormand_prince(0.0, 1.0, most=5).solve(broken, lambda t: t, begin())
    assert np.isnan(u).all() and evaluations == 31


@pytest.mark.usefixtures("x64")
def test_a_step_is_taken_where_its_error_is_at_most_one():
    """Of u' = 5 s^4 the error of every step is K h^5: the first step, of 1.5, is refused, and the next 121 are taken.

    They are shorter by 0.9 1.5^(-1/5), so that 1 / (0.01 0.83) of them arrive. The state's array with the largest error
    decides.
    """
    nodes = np.array([0.0, *ode._NODES])
    constant = abs(5 * np.dot(ode._ERROR, nodes**4))
    solver = ode.dormand_prince(0.0, 1.0, rtol=1e-30, atol=constant * 0.01**5 / 1.5)
    powers = lambda s, state: (0 * state[0], 5 * jnp.broadcast_to(s, state[1].shape) ** 4, 0 * state[2])
    (_, u, _), evaluations = solver.solve(powers, lambda t: t, (jnp.ones(1), jnp.zeros(1), jnp.ones((1, 2))))
    np.testing.assert_allclose(u, 1, rtol=1e-12)
    assert evaluations == 1 + 6 * 122


def test_bad_input():
    for grid in ([1.0, 0.5, 0.0], [0.0], [0.0, 0.0, 1.0], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="at least two increasing times"):
            ode.runge_kutta(grid)
    with pytest.raises(ValueError, match="end must come after the start, got 1 to 0"):
        ode.dormand_prince(1, 0)
    with pytest.raises(ValueError, match="rtol > 0"):
        ode.dormand_prince(0, 1, rtol=0)
