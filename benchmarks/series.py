"""Conditions an unconditional model of series without training, and compares with the exact conditional distribution.

    python -m benchmarks.series --hide=forecast
    python -m benchmarks.series --hide=gaps
    python -m benchmarks.series --hide=forecast --workdir=runs/series --number=25

The command draws the hidden part of test series by the methods of `diffusion.editing` and `diffusion.guidance`:
replacement, RePaint, DPS, TSDiff's self-guidance by squares and by quantiles, and PiGDM. By default it uses the exact
denoiser of the recipe's Gaussian process, so the method alone causes the error. With --workdir it uses the network of a
run of series/unconditional. The table also has the exact conditional distribution and the marginal one. The figures are
those of `diffusion evaluate --metrics=crps`, which scores a run that was trained with the condition.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder of series/unconditional; by default the exact denoiser is used")
    flags.DEFINE_enum("hide", "forecast", ["forecast", "gaps"], "hidden part, as in the recipes of configs/series")
    flags.DEFINE_integer("number", 100, "number of test series", lower_bound=1)
    flags.DEFINE_integer("steps", 50, "number of sampling steps of each method", lower_bound=6)
    flags.DEFINE_string("out", "", "file for the figures as JSON; by default they are only printed")
    command_line.begin()

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import editing, guidance, samplers, schedules, timesteps
from diffusion.data.gaussian_processes import GaussianProcess
from diffusion.experiments.evaluation import report, series_scores
from diffusion.experiments.run_folder import workdir as workdir_of
from diffusion.experiments.sampling import trained_run
from diffusion.guidance import measurements
from diffusion.parameterizations import Denoiser, Prediction
from diffusion.recipe import data, recipes
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.timesteps import Plan

HIDES = {"forecast": {"name": "forecast", "horizon": 16}, "gaps": {"name": "gaps"}}
JUMP, RESAMPLINGS = 5, 5  # settings of RePaint
RATE = 10.0  # the rate of DPS
SQUARES, QUANTILES = 3.0, 10.0  # scales of TSDiff's self-guidance


def exact_denoiser(process: GaussianProcess, schedule: NoiseSchedule) -> Denoiser:
    """The exact denoiser of a Gaussian process: E[x_0 | x_t] = alpha K (alpha^2 K + sigma^2 I)^-1 x_t."""
    values, axes = (jnp.asarray(part, jnp.float32) for part in np.linalg.eigh(process.covariance))

    def denoise(x_t, t):
        flat = x_t.reshape(len(x_t), -1)
        alpha, sigma = (
            left_broadcast(part(jnp.broadcast_to(t, (len(x_t),))), flat) for part in (schedule.alpha, schedule.sigma)
        )
        shrunk = flat @ axes / (alpha**2 * values + sigma**2)
        in_space = lambda rows: (rows @ axes.T).reshape(x_t.shape)
        return Prediction(in_space(alpha * values * shrunk), in_space(sigma * shrunk))

    return denoise


def ways(schedule: NoiseSchedule, steps: int) -> dict[str, tuple[samplers.Sampler, Plan, Callable, Callable]]:
    """The methods by name: (sampler, plan, (denoise, given, mask) -> denoiser, (given, mask) -> hook after a step)."""
    plan = timesteps.plan(timesteps.uniform(schedule, steps=steps))
    resampled = editing.repaint(timesteps.uniform(schedule, steps=steps), JUMP, RESAMPLINGS)
    alone = lambda denoise, given, mask: denoise
    replaced = lambda plan: lambda given, mask: editing.replacement(schedule, plan, given, mask)
    none = lambda given, mask: None

    def dps(denoise, given, mask):
        likelihood = guidance.negative_distance(lambda x: jnp.where(mask, x, 0), given)
        return guidance.posterior_sampling(denoise, schedule, likelihood, RATE)

    def squares(denoise, given, mask):
        likelihood = guidance.gaussian_likelihood(lambda x: jnp.where(mask, x, 0), given, 1.0)
        return guidance.posterior_sampling(denoise, schedule, likelihood, SQUARES)

    def quantiles(denoise, given, mask):
        levels = (jnp.arange(len(given)) % series_scores.SAMPLES + 0.5) / series_scores.SAMPLES
        likelihood = guidance.quantile_likelihood(lambda x: jnp.where(mask, x, 0), given, levels)
        return guidance.posterior_sampling(denoise, schedule, likelihood, QUANTILES)

    def pigdm(denoise, given, mask):
        return guidance.pseudoinverse(denoise, schedule, measurements.masked(mask), given)

    ddpm = samplers.ddpm()
    return {
        "replacement": (ddpm, plan, alone, replaced(plan)),
        "RePaint": (ddpm, resampled, alone, replaced(resampled)),
        "DPS": (ddpm, plan, dps, none),
        "TSDiff, squares": (ddpm, plan, squares, none),
        "TSDiff, quantiles": (ddpm, plan, quantiles, none),
        "PiGDM": (ddpm, plan, pigdm, none),
        "PiGDM and replacement": (ddpm, plan, pigdm, replaced(plan)),
    }


def measure(workdir: str | None, hide: dict, number: int, steps: int) -> dict[str, dict[str, Any]]:
    """The scores of each method, of the exact distribution and of the marginal one."""
    config = workdir_of.read_config(workdir) if workdir else recipes.load("series/unconditional")
    source = lambda split: data.open_settings({**config.data, "source": {**config.data.source, "hide": hide}}, split)
    test = source("test")
    part = series_scores.parts(test, number)
    if workdir:
        run = trained_run.load(workdir)
        schedule, denoise = run.schedule, run.denoise(np.zeros(1))
    else:
        schedule = schedules.rectified_flow()
        denoise = exact_denoiser(test.process, schedule)
    closed, draws = series_scores.exact(test.process, part)
    scores: dict[str, dict[str, Any]] = {}
    for name, (sampler, plan, guided, hook) in ways(schedule, steps).items():

        @jax.jit
        def make(given, mask, keys, sampler=sampler, plan=plan, guided=guided, hook=hook):
            first, rest = jax.vmap(jax.random.split, out_axes=1)(keys)
            x = samplers.prior(schedule, first, test.process.shape)
            to = guided(denoise, given, mask)
            return samplers.sample(sampler, to, schedule, x, plan, rest, after_step=hook(given, mask))

        def batches(condition, seeds, advance, make=make, size=1000):
            parts = []
            for at in range(0, len(seeds), size):
                rows = np.resize(np.arange(at, min(at + size, len(seeds))), size)
                keys = jax.vmap(jax.random.key)(seeds[rows])
                parts.append(np.asarray(make(condition["given"][rows], condition["mask"][rows], keys)))
                advance(min(at + size, len(seeds)))
            return np.concatenate(parts)[: len(seeds)]

        seeds = np.arange(series_scores.SAMPLES * len(part.given), dtype=np.uint32)
        scores[name] = series_scores.scores(series_scores.drawn(batches, part, seeds), part, closed=closed)
        scores[name]["nfe"] = {"value": sampler.nfe(plan.solved)}
    scores["exact, draws"] = series_scores.scores(draws, part, closed=closed)
    scores["exact"] = {"crps": series_scores.averaged(closed, part.real)}
    scores["marginal"] = {"crps": series_scores.score_marginal(source("train"), part)["crps_marginal"]}
    return scores


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    scores = measure(values.workdir, HIDES[values.hide], values.number, values.steps)
    columns = ("crps", "crps_excess", "crps_quantile_form", "coverage_50", "coverage_90", "nfe")
    rows = [(name, *(text(one[key]) if key in one else "" for key in columns)) for name, one in scores.items()]
    report.show(f"{values.workdir or 'the exact denoiser'}: {values.hide}", ("", *columns), rows)
    if values.out:
        pathlib.Path(values.out).write_text(json.dumps(scores, indent=2) + "\n")


def text(figure: dict[str, Any]) -> str:
    """A figure with its standard error, if it has one."""
    error = figure.get("standard_error")
    return f"{figure['value']:.4g}" + (f" ± {error:.2g}" if error else "")


if __name__ == "__main__":
    command_line.run(main, compiles=True)
