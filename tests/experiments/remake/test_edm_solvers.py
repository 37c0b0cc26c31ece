"""The exact flow of a Gaussian, the spectrum, and steps whose errors are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.experiments.remake import edm_solvers


@pytest.mark.extended
def test_the_spectrum_falls_with_the_square_of_the_frequency():
    variances = edm_solvers.picture_spectrum(8)
    assert variances.mean() == pytest.approx(0.25)
    plane = variances.reshape(8, 8)
    assert plane[0, 1] / plane[0, 4] == pytest.approx(16) and plane[0, 3] / plane[3, 3] == pytest.approx(2)


@pytest.mark.extended
def test_the_variance_exploding_ode_has_the_variance_of_its_time():
    schedule = edm_solvers.variance_exploding(100.0)
    t = jnp.array([0.25, 1.0])
    np.testing.assert_allclose(schedule.sigma(t), [50, 100], rtol=1e-6)
    np.testing.assert_allclose(schedule.diffusion(t), [100, 100], rtol=1e-5)  # g^2 = d sigma^2 / dt


def test_its_own_steps_are_those_of_table_1():
    _, vp = edm_solvers.own_steps("VP", 4)
    np.testing.assert_allclose(vp, [1, 1 - 0.999 / 3, 1 - 2 * 0.999 / 3, 1e-3, 0])
    schedule, ve = edm_solvers.own_steps("VE", 3)
    np.testing.assert_allclose(schedule.sigma(ve), [100, np.sqrt(100 * 0.02), 0.02, 0], rtol=1e-5)


def test_one_step_of_euler_from_the_start_to_the_data_by_hand():
    """To sigma = 0 Euler gives lambda / (lambda + sigma^2) x, and the flow sqrt(lambda / (lambda + sigma^2)) x."""
    variances = np.array([0.25, 4.0])
    with jax.enable_x64(True):
        error = edm_solvers.end_error("Euler", schedules.edm(0.002, 2.0), np.array([1.0, 0.0]), variances)
    gain = variances / (variances + 4)
    assert error == pytest.approx(np.sqrt(np.mean((2 * gain - 2 * np.sqrt(gain)) ** 2)), rel=1e-9)


def test_the_errors_of_single_steps_by_hand():
    """Three levels, two steps: Euler's from the exact flow, x + (s - t) t x / (lambda + t^2)."""
    variances = np.array([0.25, 4.0])
    with jax.enable_x64(True):
        errors = edm_solvers.step_errors("Euler", 1.0, 3, variances)
    levels = np.array([80, 40.001, 0.002])
    spread = np.sqrt(variances + levels[:, None] ** 2)
    euler = spread[:-1] * (1 + (np.diff(levels) * levels[:-1])[:, None] / spread[:-1] ** 2)
    np.testing.assert_allclose(errors, np.sqrt(np.mean((euler - spread[1:]) ** 2, 1)), rtol=1e-6)


@pytest.mark.extended
def test_the_figures_of_parts_from_errors_by_hand(monkeypatch):
    """Heun's errors stand in its tables; Euler's are three times as large, and those of rho 5 are the most equal."""
    calls = []

    def end_error(solver, schedule, grid, variances):
        calls.append((solver, schedule, np.asarray(grid)))
        assert len(variances) == 1024 and variances.mean() == pytest.approx(0.25)
        return (3.0 if solver == "Euler" else 2.0 if schedule.alpha(1.0) < 1 else 1.0) / len(grid)

    def step_errors(solver, rho, steps, variances):
        assert steps == 18
        return np.exp(abs(rho - 5) * np.array([1.0, -1.0]))

    monkeypatch.setattr(edm_solvers, "EVALUATIONS", (11, 19))
    monkeypatch.setattr(edm_solvers, "end_error", end_error)
    monkeypatch.setattr(edm_solvers, "step_errors", step_errors)
    monkeypatch.setattr(edm_solvers, "step_order", {"Euler": 2.0, "Heun": 3.0}.get)
    single = edm_solvers.measure("single steps", False)
    for solver, order in (("Euler", 2), ("Heun", 3)):
        assert single[edm_solvers.ORDER.format(solver)] == order
        assert single[edm_solvers.EQUAL.format(solver)] == 5
        np.testing.assert_allclose(single[f"{solver}: spread"], abs(np.arange(1, 11) - 5))
    vp = edm_solvers.measure("VP", False)
    np.testing.assert_allclose(vp["Euler, own steps"], [3 / 12, 3 / 20])
    np.testing.assert_allclose(vp["Heun, eq. 5"], [2 / 7, 2 / 11])  # its last step takes one evaluation
    np.testing.assert_allclose(vp["Heun, eq. 5, sigma(t) = t"], [1 / 7, 1 / 11])
    assert vp[edm_solvers.BETTER.format("VP")] is False and vp[edm_solvers.STRAIGHTER.format("VP")] is True
    solver, schedule, grid = calls[-1]
    np.testing.assert_allclose(schedule.sigma(grid[[0, -2]]), [80, 0.002], rtol=1e-5)
    ve = edm_solvers.measure("VE", False)
    assert ve[edm_solvers.STRAIGHTER.format("VE")] is False  # both have the same errors here
    assert calls[-3][1].sigma(1.0) == pytest.approx(80)


@pytest.mark.parametrize("worst, holds", [(5, False), (7, False), (10, False), (9, True)])
def test_a_large_rho_is_better_if_all_three_are(monkeypatch, worst, holds):
    errors = iter([worst == rho or rho <= 3 for rho in edm_solvers.RHOS])
    monkeypatch.setattr(edm_solvers, "end_error", lambda *unused: float(next(errors)))
    values = edm_solvers.measure("rho", False)
    assert values[edm_solvers.LARGE_RHO] is holds
    np.testing.assert_array_equal(values["error"], [rho <= 3 or rho == worst for rho in range(1, 11)])


def test_the_picture_has_its_errors():
    errors = {name: np.arange(1.0, 7) * k for k, name in enumerate(("one", "two"), 1)}
    spread = {f"{solver}: spread": np.arange(10.0) for solver in edm_solvers.SOLVERS}
    parts = {
        "VP": errors | {"a claim": 1.0},
        "VE": errors,
        "rho": {"error": np.arange(1.0, 11)},
        "single steps": spread,
    }
    panels = edm_solvers.draw(parts).axes
    assert [axes.get_title() for axes in panels] == ["VP", "VE", "Heun, 35 evaluations", "Single steps"]
    assert [axes.get_xlabel() for axes in panels] == ["network evaluations"] * 2 + ["rho"] * 2
    for axes in panels[:2]:
        assert [line.get_label() for line in axes.lines] == ["one", "two"]
        for line, column in zip(axes.lines, errors.values(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.stack([edm_solvers.EVALUATIONS, column], 1))
    np.testing.assert_array_equal(panels[2].lines[0].get_xydata(), np.stack([np.arange(1, 11)] * 2, 1))
    for line, solver in zip(panels[3].lines, edm_solvers.SOLVERS, strict=True):
        assert line.get_label() == solver
        np.testing.assert_array_equal(line.get_xydata(), np.stack([np.arange(1, 11), np.arange(10)], 1))


def test_the_order_of_errors_that_are_a_power_of_their_step(monkeypatch):
    """From x = sqrt(1 / 2) at sigma = 1 / 2 to sqrt(1 / 4 + sigma^2), off by 5 h^3."""

    def step(solver, schedule, variances, x, t, s):
        assert x.shape == (1, 1) and variances.tolist() == [0.25] and 80 * t == pytest.approx(0.5)
        assert float(x[0, 0]) == pytest.approx(0.5**0.5)
        return np.sqrt(0.25 + (80 * s) ** 2) - 5 * np.full((1, 1), 0.5 - 80 * s) ** 3

    monkeypatch.setattr(edm_solvers, "_step", step)
    with jax.enable_x64(True):
        assert edm_solvers.step_order("any") == pytest.approx(3, abs=1e-5)


@pytest.mark.slow
def test_orders_of_single_steps():
    with jax.enable_x64(True):
        assert edm_solvers.step_order("Euler") == pytest.approx(2, abs=0.01)
        assert edm_solvers.step_order("Heun") == pytest.approx(3, abs=0.01)
