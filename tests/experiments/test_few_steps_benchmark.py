"""benchmarks.few_steps: what it counts, what it compares with, and that its verdicts can say no."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import few_steps, few_steps_report
from diffusion import samplers
from diffusion.metrics import frechet
from tests.conformance import SCHEDULES


def _rows(sampler, grid, errors):
    return [
        {"sampler": sampler, "grid": grid, "steps": nfe, "nfe": nfe, "error": error, "frechet": error}
        for nfe, error in errors.items()
    ]


@pytest.mark.extended
def test_each_sampler_gets_the_most_steps_within_each_number_of_evaluations():
    assert few_steps.counts(samplers.dpmpp_2m(), [1, 4, 8]) == {1: 1, 4: 4, 8: 8}
    assert few_steps.counts(samplers.heun(), [1, 2, 4, 8]) == {1: 1, 3: 2, 7: 4}
    assert few_steps.counts(samplers.rk4(), [2, 5, 8]) == {1: 1, 5: 2}


def test_grids_start_within_the_schedule_and_end_at_the_data():
    for name in ("edm", "rectified_flow"):
        found = few_steps.grids(SCHEDULES[name])
        assert {"uniform", "uniform_log_snr", "karras"} <= found.keys()
        for grid in (found["uniform"], found["karras"]):
            times = grid(steps=4)
            assert times[0] <= SCHEDULES[name].t_max
            assert times[-1] == 0


def test_samples_that_are_not_finite_are_named(monkeypatch):
    schedule = SCHEDULES["rectified_flow"]
    spoilt = np.zeros((4, 2))
    spoilt[0, 1] = np.nan
    problem = few_steps.Problem("plane", schedule, (), None, None, lambda t: np.zeros((4, 2)), None, 1.0)
    monkeypatch.setattr(few_steps, "follow", lambda problem, sampler: lambda times: spoilt)
    said = []
    rows = few_steps.measure(problem, ["euler"], [2], said.append)
    assert {(row["error"], row["frechet"]) for row in rows} == {(None, None)}
    assert (
        "plane: euler on uniform, 2 evaluations: 1 of 4 samples are not finite, so there are no figures of them" in said
    )


@pytest.mark.parametrize("multistep, verdict", [(0.1, "yes, 3.0 to 3.0 times"), (0.4, "NOT dpmpp_2m")])
def test_ranking_says_what_the_figures_say(multistep, verdict):
    grid = few_steps_report.THEIR_GRID
    figures = {"ddim": 0.3, "dpmpp_2m": multistep, "unipc(1)": 9.0}  # the last is not of order 2 or 3
    rows = [row for name, error in figures.items() for row in _rows(name, grid, {8: error})]
    ranking = few_steps_report.ranking({"mixture, cosine": rows})
    assert len(ranking) == 2  # on that grid, and each on its best one
    assert all(verdict in line for line in ranking)


def test_ranking_of_grids_is_for_exploding_variance():
    rows = [*_rows("euler", "karras", {16: 0.1}), *_rows("euler", "uniform", {16: 0.5})]
    assert few_steps_report.ranking({"mixture, cosine": rows}) == []
    assert few_steps_report.ranking({"mixture, edm": rows}) == [
        "mixture, edm, NFE 16: Karras' grid ahead of the uniform one: yes, 5.0 to 5.0 times"
    ]


def test_a_sampler_is_shown_on_the_grid_that_is_best_for_it():
    rows = [*_rows("heun", "karras", {7: 0.5, 15: 0.02}), *_rows("heun", "uniform", {7: 0.1, 15: 0.3})]
    assert few_steps_report.lines(rows, [8, 16, 64]) == [["heun", "karras", "0.5", "0.02", "", "0.5", "0.02", ""]]


DOCS = pathlib.Path(few_steps.__file__).parents[1] / "docs"
NUMBER = {0: "no case", 1: "one", 2: "two", 3: "three", 4: "all four cases"}


def _measured(rows, sampler, nfe, grid=None):
    rows = [row for row in rows if row["sampler"] == sampler]
    grid = grid or few_steps_report.best_grid(rows, sampler, "error")
    return few_steps_report.at(few_steps_report.by_nfe(rows, sampler, grid), nfe)


@pytest.mark.extended
def test_the_pages_of_samplers_and_of_schedules_say_what_was_measured():
    tables = json.loads((DOCS / "images/few_steps.json").read_text())["tables"]
    of_samplers, of_schedules = (
        " ".join((DOCS / page).read_text().split()) for page in ("samplers.md", "schedules.md")
    )

    def gains(nfe, *names):
        every = [
            _measured(rows, "ddim", nfe) / _measured(rows, name, nfe) for rows in tables.values() for name in names
        ]
        return f"{min(every):.2g} to {max(every):.2g} times smaller"

    assert len(tables) == 4
    least, most = (pick(_measured(rows, "deis", 4) for rows in tables.values()) for pick in (min, max))
    assert (
        f"{100 * least:.2g} to {100 * most:.2g} % of the data's standard deviation, {gains(4, 'deis')}" in of_samplers
    )
    assert f"is {gains(8, 'deis')} than that of `ddim`" in of_samplers
    assert f"the errors of `deis`, `unipc` and `dpmpp_2m` are {gains(16, 'deis', 'unipc', 'dpmpp_2m')}" in of_samplers
    later = f"{gains(32, 'dpmpp_3m', 'unipc(3)')}".removesuffix(" times smaller")
    assert f"{gains(16, 'dpmpp_3m', 'unipc(3)')} than that of `ddim` at 16 evaluations, and {later}" in of_samplers
    worse = {
        name: NUMBER[sum(_measured(rows, name, 8) > _measured(rows, "ddim", 8) for rows in tables.values())]
        for name in ("dpmpp_3m", "unipc(3)", "unipc(2, bh1)")
    }
    assert (
        f"`dpmpp_3m` is worse than DDIM in {worse['dpmpp_3m']}, `unipc(3)` in {worse['unipc(3)']} and `unipc(2, bh1)` "
        f"in {worse['unipc(2, bh1)']}."
    ) in of_samplers
    edm = tables["mixture, edm"]
    heun = [_measured(edm, "heun", 8, grid) for grid in ("karras", "uniform")]
    assert f"error of {heun[0]:.2g} on Karras' grid and {heun[1]:.2g} on the uniform one" in of_samplers
    names = {row["sampler"] for row in edm if row["error"] is not None}
    ranges = []
    for nfe in (16, 32):
        ratios = [_measured(edm, name, nfe, "uniform") / _measured(edm, name, nfe, "karras") for name in names]
        ranges.append(f"{min(ratios):.2g} to {max(ratios):.0f} times smaller at {nfe}")
    assert f"{ranges[0]} evaluations, and {ranges[1]}" in of_schedules


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["rectified_flow", "edm"])
def test_a_fine_trajectory_ends_at_the_end_of_the_exact_flow(schedule, x64):
    """From t_max, alpha = 0 there in one case, by another method; and there the data's moments are found again."""
    problem = few_steps.mixture(SCHEDULES[schedule], 512)
    grid = few_steps.grids(problem.schedule)["uniform_log_snr" if schedule == "edm" else "uniform"](steps=400)
    found = few_steps.compared(problem, few_steps.follow(problem, samplers.unipc(3))(grid), float(grid[0]), 0)
    assert found["error"] < 2e-4
    exact = problem.exact(float(grid[0]))
    moments = frechet.update(frechet.init(2), exact)
    assert frechet.frechet_distance(moments, problem.moments) < 2e-3
    assert exact.dtype == np.float64
