"""Compares samples of complete series with the Gaussian process of the data, by closed forms.

Each figure is also measured for the same number of draws from the process itself (the floor), and for white noise with
the variance of the data.
"""

from typing import Any

import numpy as np

from diffusion.data import gaussian_processes
from diffusion.data.gaussian_processes import GaussianProcess
from diffusion.experiments.evaluation import series_charts
from diffusion.experiments.evaluation.figures import LOWER
from diffusion.experiments.evaluation.subject import held_out_source
from diffusion.metrics import bootstrap, frechet
from diffusion.recipe import ConfigError

SEED = 0  # seed of the exact draws


def scores(samples: np.ndarray, process: GaussianProcess, prefix: str = "") -> dict[str, dict]:
    """Measures series against a process by closed forms, without draws from the process.

    Args:
        samples: the samples, `[N, L, C]`, N at least 2.
        process: the process N(0, K), of the same L and C.
        prefix: the beginning of the figures' names.

    Returns:
        {name: {"value", "samples", ...}}:
        "process_cross_entropy", the mean of -log N(x; 0, K) / (L C) in nats, which is the entropy for exact draws;
        "process_distance", |m|^2 + tr(K + S - 2 (K^(1/2) S K^(1/2))^(1/2)), with mean m and covariance S of the
        samples: the squared 2-Wasserstein distance of Gaussian fits (Frechet distance);
        "process_covariance_error", |S_0 - K| / |K| in Frobenius' norm, with S_0 the mean of x x^T.
    """
    flat = np.asarray(samples, np.float64).reshape(len(samples), -1)
    size = flat.shape[1]
    K = process.covariance
    squared = (flat * np.linalg.solve(K, flat.T).T).sum(1)
    density = 0.5 * (squared + np.linalg.slogdet(2 * np.pi * K)[1]) / size
    exact = frechet.Moments(2, np.zeros(size), K)  # moments with the covariance K
    return {
        f"{prefix}process_cross_entropy": bootstrap.mean(density),
        f"{prefix}process_distance": {"value": frechet.distance_to(exact)(frechet.moments(flat)), "samples": len(flat)},
        f"{prefix}process_covariance_error": {
            "value": float(np.linalg.norm(flat.T @ flat / len(flat) - K) / np.linalg.norm(K)),
            "samples": len(flat),
        },
    }


def measure_process(subject: Any) -> dict:
    """The `scores` of a run's samples, of the same number of exact draws, and of white noise; writes process.png.

    Args:
        subject: `model_metrics.Subject` of a run on complete series of a known process.

    Raises:
        ConfigError: for another run.
    """
    source = held_out_source(subject)
    process = getattr(source, "process", None)
    if process is None or source.spec.condition is not None:
        raise ConfigError(
            f"--metrics=process is for complete series of a known process, but {source.spec.name} has "
            + (
                "no known process. Valid: a run on gaussian_series."
                if process is None
                else "series of which a part is given. Valid: --metrics=crps."
            )
        )
    rng = np.random.default_rng(SEED)
    number, zero = len(subject.images), np.zeros(len(process.covariance))
    draws = gaussian_processes.draw(zero, process.covariance, number, rng).reshape(number, *process.shape)
    noise = rng.normal(size=draws.shape) * gaussian_processes.deviation(process, process.covariance)
    series_charts.lags(subject.images, process, subject.workdir / "process.png")
    figures = (
        scores(subject.images, process) | scores(draws, process, "exact_draws_") | scores(noise, process, "noise_")
    )
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * process.covariance)[1] / len(zero)
    figures["process_distance"]["better"] = LOWER
    return figures | {"process_entropy": {"value": float(entropy), "samples": 0}}
