"""Scores of forecasts and imputations: CRPS and coverage, compared with the exact distribution and a baseline."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion.data import gaussian_processes, pipeline
from diffusion.data.gaussian_processes import GaussianProcess
from diffusion.data.sources.series import StandardSeries
from diffusion.experiments.evaluation import series_charts
from diffusion.experiments.evaluation.figures import LOWER
from diffusion.experiments.evaluation.series_charts import Part
from diffusion.experiments.evaluation.subject import held_out_source, training_source
from diffusion.experiments.sampling import generate
from diffusion.metrics import bootstrap, crps
from diffusion.recipe import ConfigError, checks
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

SAMPLES = 100  # samples of each series, as in CSDI
SEED = 0  # the seed of draws from other distributions than the model's
COVERED = (0.5, 0.9)  # levels of the intervals


def parts(source: Any, number: int) -> Part:
    """At most `number` series of a source: the first ones, or windows of a file that are spread evenly over it.

    Raises:
        ConfigError: if no part of the series is given, or the hidden values are not known.
    """
    if not (isinstance(source.spec.condition, dict) and "given" in source.spec.condition):
        raise ConfigError(
            f"--metrics=crps is for series of which a part is given, but {source.spec.name} has none. Valid: a source "
            'with hide, e.g. config.data.source.hide = {"name": "forecast", "horizon": 16}.'
        )
    rows = np.arange(min(number, len(source)))
    groups = None
    if isinstance(source, StandardSeries):  # windows overlap, so the first ones would cover only a file's beginning
        rows = np.linspace(0, len(source) - 1, len(rows)).round().astype(int)
        groups = _overlapping(source, rows)
    records = pipeline.fetch(source, rows)
    leaf = lambda name: np.stack([record["condition"][name] for record in records])
    truth = np.stack([record["x"] for record in records])
    part = Part(leaf("given"), leaf("mask"), leaf("real"), truth, groups)
    if not (part.real & np.isfinite(truth)).any():
        raise ConfigError(
            f"--metrics=crps compares samples with the hidden values, which are not known for {source.spec.name}. "
            f"Valid: config.data.source.hide with the name {checks.hidings_of_known_values()}."
        )
    return part


def _overlapping(source: StandardSeries, rows: np.ndarray) -> np.ndarray:
    """The group of each window, int `[W]`: windows that begin in the same stretch of as many steps as a window has."""
    length = source.spec.shape[0]
    stretches = [(name, first // length) for name, first in (source.places[row] for row in rows)]
    number = {stretch: i for i, stretch in enumerate(dict.fromkeys(stretches))}
    return np.array([number[stretch] for stretch in stretches])


def scores(
    samples: np.ndarray, part: Part, prefix: str = "", closed: np.ndarray | None = None, units: tuple[Any, Any] = (0, 1)
) -> dict[str, dict]:
    """Scores of samples of the hidden values.

    Args:
        samples: the samples, `[S, W, L, C]`.
        part: the series, with their hidden values; missing values do not count.
        prefix: the beginning of the scores' names.
        closed: the CRPS of the exact conditional distribution, `[W, L, C]`; None if it is not known.
        units: the mean and the standard deviation of each channel, `[C]`, by which the series were standardized.

    Returns:
        {name: {"value", "samples", ...}}. "crps" is the fair estimate, averaged over the hidden values of a series and
        then over series. "crps_excess" is its difference to `closed` for the same series. "crps_quantile_form", and
        with several channels "crps_sum", are CSDI's figures, in the units of the data. "coverage_50" and "coverage_90"
        are the shares of hidden values in the central intervals.
    """
    known = _truth(part)
    counts = part.real & np.isfinite(known)
    truth = np.where(counts, known, 0)
    samples = np.where(counts, samples, 0)
    mean_of_series = lambda values: averaged(values, counts, part.groups)
    fair = crps.fair(samples, truth)
    figures: dict[str, dict] = {f"{prefix}crps": mean_of_series(fair)}
    if closed is not None:
        figures[f"{prefix}crps_excess"] = mean_of_series(fair - closed)
    size = {"samples": len(truth)}
    mean, std = units
    unscaled = samples * std + mean, truth * std + mean
    figures[f"{prefix}crps_quantile_form"] = {**relative(*unscaled, counts, part.groups), **size}
    if truth.shape[-1] > 1 and counts.all(-1).any():
        total = [values.sum(-1, keepdims=True) for values in unscaled]
        figures[f"{prefix}crps_sum"] = {**relative(*total, counts.all(-1, keepdims=True), part.groups), **size}
    for level in COVERED:
        figures[f"{prefix}coverage_{level * 100:.0f}"] = mean_of_series(crps.coverage(samples, truth, level))
    return figures


def relative(
    samples: np.ndarray, truth: np.ndarray, counts: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """CSDI's figure, `crps.quantile_form`, with its standard error over draws of the series.

    It is a ratio R = sum_i n_i / sum_i d_i over the series, of quantile losses n_i and absolute targets d_i. To first
    order, its error is that of the mean of (n_i - R d_i) / mean(d).

    Args:
        samples: the samples, `[S, W, L, C]`.
        truth: the hidden values, `[W, L, C]`.
        counts: the values that count, Bool `[W, L, C]`.
        groups: the group of each series, as in `bootstrap.standard_error`.

    Returns:
        {"value", "standard_error" (None for a single series or group)}.

    Reference: Cochran 1977, "Sampling Techniques", section 6.4, the variance of a ratio.
    """
    some = counts.any(axis=(1, 2))
    losses = (crps.quantile_losses(samples, truth) * counts).sum((1, 2))[some]
    sizes = (np.abs(truth) * counts).sum((1, 2))[some]
    value = crps.quantile_form(samples, truth, counts)
    error = bootstrap.standard_error((losses - value * sizes) / sizes.mean(), None if groups is None else groups[some])
    return {"value": value, "standard_error": None if np.isnan(error) else error}


def _truth(part: Part) -> np.ndarray:
    """The hidden values of the series, which `parts` has read."""
    assert part.truth is not None
    return part.truth


def averaged(values: np.ndarray, counts: np.ndarray, groups: np.ndarray | None = None) -> dict:
    """`bootstrap.mean` over the series' means, each over the values that count; both arrays are `[W, L, C]`."""
    some = counts.any(axis=(1, 2))
    means = (values * counts).sum((1, 2))[some] / counts.sum((1, 2))[some]
    return bootstrap.mean(means, None if groups is None else groups[some])


def exact(process: GaussianProcess, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """(the CRPS of the exact conditional distribution in closed form `[W, L, C]`, draws from it `[S, W, L, C]`)."""
    rng = np.random.default_rng(SEED)
    truth = _truth(part)
    closed, draws = [], []
    for row in range(len(part.given)):
        mean, covariance = gaussian_processes.conditional(process, part.given[row], part.mask[row])
        closed.append(crps.gaussian(mean, gaussian_processes.deviation(process, covariance), truth[row]))
        draws.append(gaussian_processes.draw(mean.ravel(), covariance, SAMPLES, rng).reshape(SAMPLES, *mean.shape))
    return np.stack(closed), np.stack(draws, axis=1)


def score_marginal(source: Any, part: Part) -> dict[str, dict]:
    """The scores of values drawn at random from each channel of a source, a forecast that ignores the series."""
    rng = np.random.default_rng(SEED)
    windows = parts(source, 1000)
    values = np.where(windows.mask, windows.given, _truth(windows))
    there = (windows.mask | windows.real) & np.isfinite(values)
    draw_channel = lambda c: rng.choice(values[..., c][there[..., c]], (SAMPLES, *part.given.shape[:2]))
    samples = np.stack([draw_channel(channel) for channel in range(part.given.shape[-1])], axis=-1)
    return {"crps_marginal": scores(samples, part)["crps"]}


def drawn(make: Callable[..., np.ndarray], part: Part, seeds: np.ndarray) -> np.ndarray:
    """Samples of the hidden values, `[S, W, L, C]`.

    Args:
        make: a function from (N conditions, seeds `[N]`, progress) to samples `[N, L, C]`.
        part: the W series.
        seeds: the seeds, `[S W]`.
    """
    per_series = len(seeds) // len(part.given)
    condition = {name: np.repeat(getattr(part, name), per_series, axis=0) for name in ("given", "mask", "real")}
    with progress.bar("samples of series", len(seeds), "samples") as advance:
        drawn_rows = make(condition, seeds, advance)
    return np.swapaxes(drawn_rows.reshape(len(part.given), per_series, *drawn_rows.shape[1:]), 0, 1)


def continuous_ranked_probability_score(subject: Any) -> dict:
    """CRPS and coverage of samples for series of config.evaluate.split, by the moving average; writes fans.png.

    The marginal distribution of the training data is scored as well. If the source knows its process, so is the exact
    conditional distribution, in closed form and by the same number of draws.

    Args:
        subject: `model_metrics.Subject` of a run on partly observed series.

    Raises:
        ConfigError: for another run.
    """
    config = subject.config
    source = held_out_source(subject)
    part = parts(source, config.evaluate.number)
    params, step = checkpoints.load_ema(subject.workdir)
    recipe = generate.trained(subject.built or checks.on_its_data(checks.validate(config)), params)
    make = generate.generator(recipe).images
    seeds = generate.seeds(config, SAMPLES * len(part.given))
    samples = drawn(lambda *rest: make(jax.tree.map(np.asarray, params), *rest), part, seeds)
    process = getattr(source, "process", None)
    series_charts.fans(np.swapaxes(samples, 0, 1), part, subject.workdir / "fans.png", process)
    conditional = None if process is None else exact(process, part)
    units = (source.mean, source.std) if isinstance(source, StandardSeries) else (0, 1)
    measured = scores(samples, part, closed=None if conditional is None else conditional[0], units=units)
    if conditional is not None:
        closed, draws = conditional
        measured |= {"crps_exact": averaged(closed, part.real)} | scores(draws, part, "exact_draws_")
    measured |= score_marginal(training_source(subject), part)
    measured["crps"]["better"] = LOWER
    measured["crps"]["protocol"] = {
        "samples_of_each": SAMPLES,
        "estimate": "fair",
        "split": config.evaluate.split,
        "step": step,
        "seed": config.sample.seed,
        "steps": config.sample.steps,
    }
    return measured
