"""The plot of a sweep: its points are the means of the runs, one line for each of the named fields."""

import numpy as np
import pytest
from PIL import Image

from experiments import sweep_plot
from experiments.config import ConfigError
from experiments.evaluation import figures
from tests.experiments.sweeps import made_sweep


@pytest.fixture(scope="module")
def samplers(tmp_path_factory):
    return made_sweep.samplers(tmp_path_factory.mktemp("sweep"), images=False)


def test_a_line_holds_the_means_of_its_runs_by_growing_evaluations(samplers):
    lines = sweep_plot.lines(samplers, "nfe", "fd_pixels", ["sampler"])
    assert list(lines) == ["euler", "heun", "dpmpp_2m", "unipc"]
    assert [place for place, _ in lines["heun"]] == [2 * steps for steps in made_sweep.STEPS]
    runs = [run for run in samplers.runs if run.overrides["sample.sampler.name"] == "heun"]
    for place, figure in lines["heun"]:
        values = [run.figures["fd_pixels"].value for run in runs if run.figures["nfe"].value == place]
        assert len(values) == 3 and figure.value == pytest.approx(np.mean(values), rel=1e-12)
        assert figure.high - figure.value == pytest.approx(4.302653 * np.std(values, ddof=1) / 3**0.5, rel=1e-6)


def test_names_stand_side_by_side_and_runs_without_figures_are_left_out(tmp_path):
    found = made_sweep.weightings(tmp_path)
    lines = sweep_plot.lines(found, "weighting", "fd_pixels", ["parameterization"])
    assert [place for place, _ in lines["epsilon"]] == ["constant", "snr", "min_snr", "p2", "sigmoid"]
    assert len(lines["velocity"]) == 3  # of the others all three runs are on their way


def test_the_picture_has_an_ink_for_every_line(samplers, tmp_path):
    path = tmp_path / "plot.png"
    sweep_plot.draw(samplers, "nfe", ["fd_pixels", "asked_class"], ["sampler"], path)
    with Image.open(path) as image:
        inks = {tuple(ink) for ink in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    for colour in figures.COLOURS[:4]:
        assert tuple(bytes.fromhex(colour[1:])) in inks
    assert tuple(bytes.fromhex(figures.COLOURS[4][1:])) not in inks


@pytest.mark.parametrize(
    ("across", "figure", "by", "message"),
    [
        ("nfes", "fd_pixels", [], "--across: .*'nfes'. Did you mean 'nfe'"),
        ("nfe", "fd_pixel", [], "--figures: .*'fd_pixel'. Did you mean 'fd_pixels'"),
        ("nfe", "fd_pixels", ["samplers"], "--lines: .*'samplers'. Did you mean 'sampler'"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(samplers, across, figure, by, message):
    with pytest.raises(ConfigError, match=message):
        sweep_plot.lines(samplers, across, figure, by)
