"""Figures of whole series beside a Gaussian process, by closed forms and by hand."""

import types

import numpy as np
import pytest

from diffusion.data import gaussian_processes
from diffusion.experiments.evaluation import series_process
from diffusion.recipe import ConfigError

PROCESS = gaussian_processes.stationary(3, 2)
SIZE = 6


def draws(number, seed=0, scale=1.0):
    K = PROCESS.covariance
    return scale * gaussian_processes.draw(np.zeros(SIZE), K, number, np.random.default_rng(seed)).reshape(-1, 3, 2)


def test_the_cross_entropy_is_the_mean_of_the_density_by_scipy():
    from scipy import stats

    x = draws(50)
    figure = series_process.scores(x, PROCESS)["process_cross_entropy"]
    values = -stats.multivariate_normal(np.zeros(SIZE), PROCESS.covariance).logpdf(x.reshape(50, SIZE)) / SIZE
    assert figure["value"] == pytest.approx(values.mean(), rel=1e-9) and figure["samples"] == 50
    assert figure["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-9)


def test_figures_of_a_known_covariance():
    """2 K is 2 K away: an error of 1 in the relative covariance, and (sqrt(2) - 1)^2 tr K in the distance."""
    signs = np.concatenate([np.eye(SIZE), -np.eye(SIZE)]) * np.sqrt(SIZE)
    root = np.linalg.cholesky(2 * PROCESS.covariance)
    x = (signs @ root.T).reshape(-1, 3, 2)  # mean 0 and mean x x^T = 2 K, exactly
    found = series_process.scores(x, PROCESS, "a_")
    assert found["a_process_covariance_error"] == {"value": pytest.approx(1.0), "samples": 12}
    factor = 2 * 12 / 11  # the distance's covariance is unbiased
    expected = (np.sqrt(factor) - 1) ** 2 * np.trace(PROCESS.covariance)
    assert found["a_process_distance"] == {"value": pytest.approx(expected, rel=1e-6), "samples": 12}
    assert found.keys() == {f"a_process_{name}" for name in ("cross_entropy", "distance", "covariance_error")}


def subject(monkeypatch, tmp_path, source, images):
    monkeypatch.setattr(series_process, "held_out_source", lambda subject: source)
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(split="test"))
    return types.SimpleNamespace(config=config, images=images, workdir=tmp_path)


def source_of(process, condition=None):
    return types.SimpleNamespace(process=process, spec=types.SimpleNamespace(name="series", condition=condition))


def test_samples_stand_between_exact_draws_and_noise(monkeypatch, tmp_path):
    drawn = []
    lags = lambda samples, process, path: drawn.append((samples, process, path))
    monkeypatch.setattr(series_process.series_charts, "lags", lags)
    # variance 2, so that noise of variance 1 would not pass for noise of the process
    process = PROCESS._replace(covariance=2 * PROCESS.covariance)
    x = draws(2000, scale=np.sqrt(2) * 1.2)
    found = series_process.measure_process(subject(monkeypatch, tmp_path, source_of(process), x))
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * process.covariance)) / SIZE
    value = {name: figure["value"] for name, figure in found.items()}
    assert value["process_entropy"] == pytest.approx(entropy, rel=1e-9)
    assert value["exact_draws_process_cross_entropy"] == pytest.approx(entropy, abs=0.03)
    assert value["process_cross_entropy"] == pytest.approx(entropy + 0.22, abs=0.03)  # (1.44 - 1) / 2
    K = process.covariance
    noise = entropy - 0.5 + 0.5 * np.trace(np.linalg.inv(K) @ np.diag(np.diag(K))) / SIZE
    assert value["noise_process_cross_entropy"] == pytest.approx(noise, rel=0.05)
    for figure in ("distance", "covariance_error"):
        three = [value[f"{prefix}process_{figure}"] for prefix in ("exact_draws_", "", "noise_")]
        assert three == sorted(three) and three[0] < three[1] / 3
    assert value["noise_process_covariance_error"] == pytest.approx(
        np.linalg.norm(np.diag(np.diag(K)) - K) / np.linalg.norm(K), rel=0.1
    )
    assert {figure["samples"] for name, figure in found.items() if name != "process_entropy"} == {2000}
    ((samples, drawn_of, path),) = drawn
    assert samples is x and drawn_of is process and path == tmp_path / "process.png"


def test_runs_without_a_known_process_are_refused(monkeypatch, tmp_path):
    for source, words in (
        (source_of(None), "series has no known process. Valid: a run on gaussian_series"),
        (source_of(None, {}), "series has no known process. Valid: a run on gaussian_series"),
        (source_of(PROCESS, {"given": 0}), "series has series of which a part is given. Valid: --metrics=crps"),
    ):
        with pytest.raises(ConfigError, match=words):
            series_process.measure_process(subject(monkeypatch, tmp_path, source, draws(2)))
