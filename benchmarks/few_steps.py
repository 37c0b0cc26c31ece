"""Measures the error of every sampler on every grid by the number of network evaluations (NFE), on exact flows.

    python -m benchmarks.few_steps --out=docs/images/few_steps
    python -m benchmarks.few_steps --schedules= --workdir=runs/digits --keep --out=docs/images/few_steps
    python -m benchmarks.few_steps --schedules=edm --samplers=euler,heun --counts=4,8,16 --out=/tmp/few_steps

The data are a mixture of three Gaussians in the plane, whose denoiser and flow are known (tests/oracles.py), in
float64. With --workdir, a run's guided network is also measured, whose flow is computed by Heun's method in 256 steps.
The samplers are those of the conformance list, and the grids are all that `diffusion.timesteps` has, so new ones are
included. Combinations that refuse a schedule are left out and listed. The error is the root mean square distance from
the end of the exact flow, divided by the data's standard deviation. The Frechet distance, also of stochastic samplers,
is between the mean and covariance of the samples and of the data.

Prints a table for each schedule, and whether the ranking agrees with the literature. Writes OUT.md, OUT.json and
OUT.png.
"""

from absl import app, flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list(
        "schedules", ["edm", "linear_beta", "rectified_flow"], "schedules of the mixture, from the conformance list"
    )
    flags.DEFINE_list("samplers", [], "samplers from the conformance list; by default all")
    flags.DEFINE_list("counts", "1,2,3,4,6,8,12,16,24,32,48,64", "limits on the number of network evaluations")
    flags.DEFINE_integer("number", 1024, "number of points of the mixture, a power of two")
    flags.DEFINE_integer("images", 500, "number of samples of the network")
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits; by default only the mixture is measured")
    flags.DEFINE_bool("keep", False, "keep the tables of other data in OUT.json")
    flags.DEFINE_string("out", "docs/images/few_steps", "path of the output files, without a suffix")
    command_line.require_value("number", lambda k: 2 ** (k + 1), "a power of two")
    command_line.begin()

import functools
import inspect
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from rich.console import Console

from benchmarks import few_steps_report
from diffusion import samplers, sampling, timesteps
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.metrics import frechet, image_sets
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
from diffusion.samplers import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan
from diffusion.training.checkpointing import checkpoints
from tests import oracles
from tests.conformance import SAMPLERS, SCHEDULES, exact_denoiser
from tools.docs import catalogue

NOISIEST, CLEANEST = 80.0, 0.002  # sigma / alpha at the ends of grids that take it, if the schedule reaches so far
REFERENCE_STEPS = 256


class Problem(NamedTuple):
    """A flow to follow.

    Attributes:
        name: the name of the data.
        schedule: the process.
        weights: the first argument of `denoise`, so that the program does not hold them as a constant.
        denoise: the denoiser, (weights, x_t, t) -> Prediction.
        start: the initial noise, a function t -> x_t `[N, ...]`, the same noise at every t.
        exact: the end of the exact flow from `start`, a function t -> `[N, ...]`.
        moments: the moments of the data as vectors.
        scale: the standard deviation of the data.
    """

    name: str
    schedule: NoiseSchedule
    weights: Any
    denoise: Callable
    start: Callable[[float], np.ndarray]
    exact: Callable[[float], np.ndarray]
    moments: frechet.Moments
    scale: float


def mixture(schedule: NoiseSchedule, number: int) -> Problem:
    """The problem of three unequal, tilted Gaussians in the plane, with low-discrepancy noise."""
    data = oracles.three_gaussians()
    mean = data.weights @ data.means
    second = sum(
        w * (oracles.covariance(data, k) + np.outer(m, m)) for k, (w, m) in enumerate(zip(data.weights, data.means))
    )
    covariance = second - np.outer(mean, mean)
    eps = scipy.stats.norm.ppf(scipy.stats.qmc.Sobol(2, seed=0).random(number))

    def start(t):
        return float(schedule.alpha(t)) * mean + float(schedule.sigma(t)) * eps

    @functools.cache
    def exact(t):
        x, (alpha, sigma) = start(t), (float(schedule.alpha(t)), float(schedule.sigma(t)))
        if sigma > 1e4 * alpha:  # x_t says nothing about x_0, so that the flow changes alpha and sigma but not eps
            alpha, sigma = 1e-4, 1.0
            x = alpha * mean + sigma * eps
        arrived = oracles.flow_by_integration(data, (alpha, sigma), (1.0, 1e-5), x)
        return np.asarray(oracles.mean_x0(data, 1.0, 1e-5, jnp.asarray(arrived)))

    count = 10**6  # a large number of samples, since the moments are exact
    return Problem(
        "mixture",
        schedule,
        (),
        lambda _, x, t: exact_denoiser(data, schedule)(x, t),
        start,
        exact,
        frechet.Moments(count, mean, covariance * (count - 1)),
        np.sqrt(np.trace(covariance) / 2),
    )


def digits(folder: str, number: int) -> Problem:
    """The problem of a run's network with the run's guidance, for balanced classes."""
    config = workdir.read_config(folder)
    schedule = Resolver(config).schedule
    shape = workdir.example_shape(config)
    params, _ = checkpoints.load_ema(folder, None)
    labels = generate.balanced_labels(number, config.model.get("num_classes", 0))
    denoise = run_denoiser.denoiser(Recipe.from_config(config, shape))
    real = image_sets.open_set(f"{config.data.name}@train", config.data.dir)
    images = real.read(0, real.count).reshape(real.count, -1) / 127.5 - 1
    eps = np.asarray(jax.vmap(lambda key: jax.random.normal(key, shape))(jax.random.split(jax.random.key(0), number)))
    mean = images.mean(axis=0).reshape(shape)

    def start(t):
        return (float(schedule.alpha(t)) * mean + float(schedule.sigma(t)) * eps).astype(np.float32)

    def guided(params, x, t):
        return denoise(params, labels)(x, t)

    jax.eval_shape(guided, params, eps, schedule.t_max)  # an unsuitable config fails here, before any measurement

    @functools.cache
    def exact(t):
        problem = Problem("", schedule, params, guided, start, None, None, 0.0)
        return follow(problem, samplers.heun())(t * np.linspace(1, 0, REFERENCE_STEPS + 1))

    return Problem("digits", schedule, params, guided, start, exact, frechet.moments(images), float(images.std()))


def follow(problem: Problem, sampler: Sampler) -> Callable[[np.ndarray], np.ndarray]:
    """A function grid -> samples at its end, compiled once for all grids with the same number of steps."""

    @jax.jit
    def solve(weights, x, t, s, keys):
        denoise = functools.partial(problem.denoise, weights)
        return samplers.sample(sampler, denoise, problem.schedule, x, Plan(t, s, np.zeros(len(t), bool)), keys)

    def along(grid):
        x = jnp.asarray(problem.start(float(grid[0])))
        t, s, _ = timesteps.plan(grid)
        keys = jax.random.split(jax.random.key(1), len(x))
        return np.asarray(solve(problem.weights, x, jnp.asarray(t, x.dtype), jnp.asarray(s, x.dtype), keys))

    return along


def noise(schedule: NoiseSchedule, t: float) -> float:
    """sigma / alpha at a time."""
    return float(np.exp(-np.asarray(schedule.log_snr(np.float64(t)), np.float64) / 2))


def grids(schedule: NoiseSchedule) -> dict[str, Callable[[int], np.ndarray]]:
    """{name: a function steps -> times}, for all grids that need only the schedule and the range of sigma / alpha."""
    known = {
        "schedule": schedule,
        "sigma_min": max(CLEANEST, noise(schedule, schedule.t_min)),
        "sigma_max": min(NOISIEST, noise(schedule, schedule.t_max) * (1 - 1e-6)),
    }
    section = next(s for s in catalogue.PAGES["schedules"] if s.title.startswith("Grids"))
    known_grids = {}
    for name, grid in catalogue.members(section).items():
        parameters = inspect.signature(grid).parameters
        needed = {key for key, value in parameters.items() if value.default is value.empty}
        if needed <= known.keys() | {"steps"} and "steps" in parameters:
            known_grids[name] = functools.partial(grid, **{key: known[key] for key in known if key in parameters})
    return known_grids


def counts(sampler: Sampler, wanted: list[int]) -> dict[int, int]:
    """{NFE: steps}, for the largest number of steps within each limit on evaluations in `wanted`."""
    steps = [max((s for s in range(1, count + 1) if sampler.nfe(s) <= count), default=0) for count in wanted]
    return {sampler.nfe(s): s for s in steps if s}


def measure(problem: Problem, names: list[str], wanted: list[int], say: Callable) -> list[dict]:
    """One row for each sampler, grid and number of evaluations."""
    rows = []
    refused = {}
    spacings = grids(problem.schedule)
    t_max = problem.schedule.t_max
    for name in names:
        sampler = SAMPLERS[name]
        solve = follow(problem, sampler)
        for nfe, steps in counts(sampler, wanted).items():
            for spacing, grid in spacings.items():
                try:
                    times = np.asarray(grid(steps=steps), np.float64)
                    if noise(problem.schedule, times[0]) < 0.5 * min(NOISIEST, noise(problem.schedule, t_max)):
                        raise ValueError(f"it starts at t = {times[0]:g}, where x already holds a part of the data")
                    x = solve(times)
                except (ValueError, TypeError) as error:
                    refused[f"{name} on {spacing}"] = str(error).splitlines()[0]
                    continue
                if infinite := int((~np.asarray(sampling.finite(x))).sum()):
                    where = f"{problem.name}: {name} on {spacing}, {nfe} evaluations"
                    say(f"{where}: {infinite} of {len(x)} samples are not finite, so there are no figures of them")
                rows.append(
                    {"sampler": name, "grid": spacing, "steps": steps, "nfe": nfe}
                    | compared(problem, x, float(times[0]), sampler.draws)
                )
        say(f"{problem.name}: {name}")
    for what, why in refused.items():
        say(f"left out: {what}: {why}")
    return rows


def compared(problem: Problem, x: np.ndarray, t: float, draws: int) -> dict:
    """The error against the exact flow, None for a stochastic sampler, and the Frechet distance from the data."""
    if not np.isfinite(x).all():
        return {"error": None, "frechet": None}
    error = float(np.sqrt(np.mean((x - problem.exact(t)) ** 2)) / problem.scale) if not draws else None
    distance = frechet.frechet_distance(frechet.moments(x.reshape(len(x), -1)), problem.moments)
    return {"error": error and float(f"{error:.4g}"), "frechet": float(f"{distance:.4g}")}


def floor(problem: Problem) -> float:
    """The Frechet distance of the exact flow's samples from the data.

    It is above 0, since the samples are finitely many, and since a network is not exact.
    """
    return compared(problem, problem.exact(float(problem.schedule.t_max)), 0.0, draws=1)["frechet"]


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    args = flags.FLAGS
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    console = Console()
    say = lambda line: console.print(line, style="dim", highlight=False)
    names = args.samplers or list(SAMPLERS)
    unknown = set(names) - SAMPLERS.keys() | set(args.schedules) - SCHEDULES.keys()
    if unknown:
        raise app.UsageError(
            f"unknown: {', '.join(sorted(unknown))}. Samplers: {', '.join(SAMPLERS)}. Schedules: {', '.join(SCHEDULES)}"
        )
    wanted = [int(count) for count in args.counts]
    out = pathlib.Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(out.with_suffix(".json").read_text()) if args.keep else {}
    tables = earlier.get("tables", {})
    floors = earlier.get("floors", {})
    for schedule in args.schedules:
        with jax.enable_x64(True):
            problem = mixture(SCHEDULES[schedule], args.number)
            title = f"mixture, {schedule}"
            tables[title] = measure(problem, names, wanted, say)
            floors[title] = floor(problem)
    if args.workdir:
        problem = digits(args.workdir, args.images)
        tables["digits"] = measure(problem, names, wanted, say)
        floors["digits"] = floor(problem)
    record = {
        "command": workdir.command("benchmarks.few_steps"),
        "jax": jax.__version__,
        "floors": floors,
        "tables": tables,
    }
    out.with_suffix(".json").write_text(json.dumps(record).replace("}, {", "},\n{") + "\n")
    out.with_suffix(".md").write_text(few_steps_report.markdown(tables, floors))
    few_steps_report.draw(tables, out.with_suffix(".png"))
    for title, rows in tables.items():
        console.print(few_steps_report.rich_table(title, rows, wanted))
        console.print(f"Frechet distance of the exact flow's own samples: {floors[title]:.2g}", highlight=False)
    for line in few_steps_report.ranking(tables):
        console.print(line)


if __name__ == "__main__":
    command_line.run(main)
