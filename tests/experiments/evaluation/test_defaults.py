"""What figures are measured with where nothing is said: those of every version compare."""

import inspect

import pytest

from diffusion.experiments.evaluation import (
    cloud_metrics,
    comparison,
    figures,
    image_metrics,
    manifold_likelihood,
    model_metrics,
    plots,
    sample_metrics,
    series_scores,
    sound_metrics,
    vector_metrics,
    watermark_robustness,
)
from diffusion.experiments.evaluation.sample_metrics import FULL, IN_LOOP, Effort

DEFAULTS = [
    (
        comparison.Request,
        {
            "samples": "", "reference": "", "protocol": "", "inception": "", "inception_sha256": "",
            "features": "inception", "data_dir": "", "seed": 0, "autoencoder": "", "size": 0, "encoder": "",
        },
    ),
    (comparison.measure, {"seed": 0, "score_splits": "ten, shuffled", "fresh": False}),
    (comparison.run, {"fresh": False}),
    (sample_metrics.evaluate_samples, {"split": "validation"}),
    (sample_metrics.measure, {"effort": FULL}),
    (plots.sample_grid, {"columns": 10, "classes": (), "originals": None}),
    (plots.trajectory, {"rows": 5}),
    (plots.mosaic, {"titles": ()}),
    (series_scores.scores, {"prefix": "", "units": (0, 1)}),
    (watermark_robustness.Maker, {"batch": 1}),
]  # fmt: skip


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_numbers_that_a_figure_depends_on():
    assert image_metrics.SUBSET == 1000  # Binkowski et al. 2018: KID of subsets of 1,000
    assert (figures.POINTS, figures.LEVEL, figures.Z) == (500, 0.95, 1.96)
    assert (FULL, IN_LOOP) == (Effort(500, 20), Effort(0, 4))
    assert sample_metrics.AFFORDABLE == ((256, FULL), (1024, Effort(20, 4)), (float("inf"), Effort(0, 2)))
    assert (vector_metrics.MOST, vector_metrics.REFERENCE, vector_metrics.DIRECTIONS) == (2000, 5000, 128)
    assert (vector_metrics.DRAWS, vector_metrics.SUBSETS, manifold_likelihood.STEPS) == (200, 10, 20)
    assert (model_metrics.TOLERANCE, model_metrics.EARLIEST, model_metrics.LEVELS) == (1e-5, 1e-5, 7)
    assert (series_scores.SAMPLES, series_scores.COVERED) == (100, (0.5, 0.9))
    assert sound_metrics.JUDGE == {"mels": 16, "window": 512, "hop": 128}
    assert (watermark_robustness.REGENERATED, watermark_robustness.LEVEL) == ((0.3, 0.6), 0.01)
    assert sample_metrics.NEIGHBOURS == 2000 and set(cloud_metrics.DISTANCES) == {"chamfer", "earth_movers"}
