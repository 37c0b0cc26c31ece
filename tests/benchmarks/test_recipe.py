"""The recipe's stages: which figures are made, in which order, and that a stretch that ends early goes on."""

import pytest

from benchmarks.gpu import recipe_figures


class Made:
    """Figures by a formula: least at width 0.1 and guidance 1.2, better with every step."""

    def __init__(self, seconds=0.0):
        self._run, self.found, self.taken, self._seconds = None, {"figures": {}}, [], seconds

    def figure(self, name, number, step, width, scale=1.0):
        if name not in self.found["figures"]:
            self.taken.append(name)
            fid = 3 + abs(width - 0.1) + abs(scale - 1.2) + 1000 / step
            self.found["figures"][name] = {
                "fid": fid,
                "samples": number,
                "step": step,
                "width": width,
                "scale": scale,
                "nfe": 35,
            }
        return self.found["figures"][name]["fid"]

    def seconds_for(self, number):
        return self._seconds * len(self.taken)

    def choose(self, name):
        self.found["best"] = name


@pytest.fixture
def steps(monkeypatch):
    kept = list(range(800, 24_001, 800))
    monkeypatch.setattr(recipe_figures.checkpoints, "steps", lambda folder: kept)
    monkeypatch.setattr(recipe_figures.time, "monotonic", lambda: 0.0)  # the moments below are seconds from now
    return kept


def test_the_best_average_and_guidance_are_published(steps):
    made = Made()
    assert recipe_figures.measure_all(made, recipe_figures.Size(), 9.0)
    assert made.taken[:5] == ["width 0.05", "width 0.1", "width 0.15", "width 0.1, guidance 1.2", "best"]
    best = made.found["figures"]["best"]
    assert (best["samples"], best["step"], best["width"], best["scale"]) == (50_000, 24_000, 0.1, 1.2)
    assert len(made.taken) == 5 + 6 and made.found["best"] == "best"
    before = list(made.taken)
    assert recipe_figures.measure_all(made, recipe_figures.Size(), -9.0)  # all there: no time is needed
    assert made.taken == before


def test_what_does_not_fit_into_the_time_is_left_for_the_next_stretch(steps):
    made = Made(seconds=10)
    assert not recipe_figures.measure_all(made, recipe_figures.Size(), 25.0)
    assert made.taken == ["width 0.05", "width 0.1", "width 0.15"]
    assert recipe_figures.measure_all(made, recipe_figures.Size(), 900.0)
    assert len(made.taken) == 11


def test_points_of_the_curve_are_kept_steps_without_the_last(steps):
    points = recipe_figures.points(steps, 6)
    assert points[0] == 800 and len(points) == 6 and set(points) < set(steps[:-1])
    assert recipe_figures.points([5], 3) == [5]


@pytest.mark.slow
def test_the_curve_is_drawn(steps, tmp_path):
    made = Made()
    recipe_figures.measure_all(made, recipe_figures.Size(), 9.0)
    rate = {"steps_per_second": 25.0}
    recipe_figures.draw({"measure": {"result": made.found}, "rate": {"result": rate}}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
