"""Restores pictures and points by every method: beside exact posteriors, and beside the pictures that were measured.

    python -m examples.restoration.report --out=runs/restoration

Two tables, at equal evaluations of the network. The first has a mixture of Gaussians, whose denoiser and posteriors are
exact: the distance from the samples of a method to the posterior is the method's own error. The second has handwritten
digits of the test split, by the model that comes along, without their classes. Writes samples.png, report.json and
report.md.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", "digits", "run of 8 x 8 pixels and ten classes, or the weights that come along")
    flags.DEFINE_string("out", None, "folder of the report", required=True)
    flags.DEFINE_integer("steps", 100, "evaluations of the network a sample", lower_bound=10)
    flags.DEFINE_integer("number", 50, "pictures of the second table", lower_bound=8)
    flags.DEFINE_integer("points", 1000, "samples of each posterior of the first table", lower_bound=100)
    command_line.begin()

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, schedules
from diffusion.data.transforms import to_uint8
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import trained_run
from diffusion.guidance import measurements
from diffusion.metrics import reconstruction_error, vector_distances
from diffusion.schedules import NoiseSchedule
from examples.restoration import exact, methods, tasks

DIMENSION, COMPONENTS, WIDTH = 8, 12, 0.3
MEASURED = ((2, 0.3), (2, 0.05), (4, 0.3), (4, 0.05))  # numbers of rows of A, and noise
CASES = 3  # measured points of each
NULL = 10  # the class that stands for none
SHOWN = 8
TITLE = "Restoration"


def posteriors(steps: int, points: int) -> dict[str, dict[str, float]]:
    """The sliced 2-Wasserstein distance from each method's samples to the exact posterior, by method and task.

    Args:
        steps: evaluations of the denoiser.
        points: samples of each posterior.
    """
    mixture = exact.random_mixture(0, COMPONENTS, DIMENSION, WIDTH)
    schedule = schedules.cosine()
    random = np.random.default_rng(1)
    along = random.standard_normal((64, DIMENSION))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    data_std = float(exact.draw(mixture, 20_000, 0).std(0).mean())
    far: dict[str, dict[str, float]] = {}
    for rows, noise_std in MEASURED:
        A = random.standard_normal((rows, DIMENSION)).astype(np.float32) / np.float32(DIMENSION**0.5)
        title = f"{rows} of {DIMENSION}, noise {noise_std}"
        task = tasks.linear(measurements.matrix(A), noise_std)
        setting = methods.Setting(exact.denoiser(mixture, schedule), schedule, task, steps, data_std)
        runs = methods.programs(setting)
        squares: dict[str, list[float]] = {}
        for case in range(CASES):
            y = A @ exact.draw(mixture, 1, 100 + case)[0] + noise_std * random.standard_normal(rows)
            target = exact.posterior(mixture, A, y, noise_std)
            reference = exact.draw(target, points, 7)
            read = jnp.broadcast_to(jnp.asarray(y, jnp.float32), (points, rows))
            drawn = {"the posterior itself": exact.draw(target, points, 8), "the prior": exact.draw(mixture, points, 8)}
            for name, x in (drawn | restored(runs, read, schedule, (DIMENSION,), case)).items():
                squares.setdefault(name, []).append(vector_distances.sliced_wasserstein(x, reference, along))
        for name, values in squares.items():
            far.setdefault(name, {})[title] = float(np.mean(values) ** 0.5)
    return far


def restored(
    runs: Mapping[str, methods.Method], y: Array, schedule: NoiseSchedule, shape: tuple[int, ...], seed: int
) -> dict[str, np.ndarray]:
    """The samples `[B, *shape]` of each method for the measurement y `[B, ...]`."""
    first, keys = jax.random.split(jax.random.key(seed), (2, len(y)))
    x = samplers.prior(schedule, first, shape)
    return {name: np.asarray(method(y, x, keys)) for name, method in runs.items()}


def pictures(model: str, steps: int, number: int) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, np.ndarray]]]:
    """The figures of the digits by task and method, and the pictures of each.

    Args:
        model: run, or the name of weights that come along.
        steps: evaluations of the network.
        number: how many test pictures are measured.

    Returns:
        ({task: {method: {"psnr", "residual"}}}, {task: {line: pictures `[B, 8, 8, 1]` in [-1, 1]}}).
    """
    run = trained_run.load(model, {"sample.guidance.scale": 1.0})
    denoise = lambda x, t: run.denoise(np.full(len(x), NULL))(x, t)
    truth = run.real("test", number)[0]
    figures: dict[str, dict[str, Any]] = {}
    lines: dict[str, dict[str, np.ndarray]] = {}
    for k, (name, task) in enumerate(tasks.tasks().items()):
        exact_y = task.forward(truth)
        y = exact_y + task.noise_std * jax.random.normal(jax.random.key(k), exact_y.shape)
        setting = methods.Setting(denoise, run.schedule, task, steps, float(truth.std()))
        samples = restored(methods.programs(setting), y, run.schedule, run.shape, k)
        figures[name] = {method: measured(x, truth, task, y) for method, x in samples.items()}
        inverse = {"A^+ y": np.asarray(task.linear.inverse(y, truth))} if task.linear else {}
        lines[name] = {"truth": np.asarray(truth)} | inverse | samples
    return figures, lines


def measured(x: np.ndarray, truth: Array, task: tasks.Task, y: Array) -> dict[str, float]:
    """The mean PSNR of pictures `[B, 8, 8, 1]`, and the root of their mean squared residual in units of the noise."""
    decibels = reconstruction_error.psnr(to_uint8(jnp.asarray(x)), to_uint8(truth))
    residual = jnp.mean((task.forward(jnp.asarray(x)) - y) ** 2) ** 0.5 / task.noise_std
    return {"psnr": float(decibels.mean()), "residual": float(residual)}


def markdown(content: Mapping[str, Any]) -> str:
    """The page: both tables and the pictures."""
    far, figures, protocol = content["posteriors"], content["pictures"], content["protocol"]
    names = list(next(iter(far.values())))
    first = [(method, *(f"{row[name]:.2f}" for name in names)) for method, row in far.items()]
    every = methods.LINEAR | methods.ANY
    entry = lambda one: f"{one['psnr']:.1f} ({one['residual']:.1f})" if one else "needs a linear operator"
    second = [(method, *(entry(row.get(method)) for row in figures.values())) for method in every]
    parts = [
        f"# {TITLE}",
        f"All methods take {protocol['steps']} evaluations of the network a sample, `twisted` and `MCGDiff` "
        f"{methods.PARTICLES} times as many. Nothing was tuned to a figure of this page but the step of MPGD, whose "
        "first choice hardly moved the samples. The methods: "
        "[inverse problems](../../steering.md#inverse-problems).",
        "## Exact posteriors",
        f"A mixture of {COMPONENTS} Gaussians in {DIMENSION} dimensions, {CASES} measurements y = A x + noise of each "
        "kind. The figure is the root of the mean squared sliced Wasserstein distance from the samples to the exact "
        f"posterior, {protocol['points']} samples each.",
        report.table(("samples", *names), first),
        "## Digits",
        f"PSNR in decibels of one sample of each of {protocol['number']} test pictures. In brackets stands the "
        "residual of the measurement in units of its noise: 1.0 is right, more does not agree with y, and less fits "
        "its noise. "
        "A sample of the posterior has a lower PSNR than its mean.",
        report.table(("method", *figures), second),
        "![Test digits, what was measured of them, and the pictures of each method](samples.png)",
        "## Protocol",
        report.table(("model", "commit", "device"), [[protocol[key] for key in ("model", "git_commit", "device")]]),
        report.IN_FULL,
    ]
    return "\n\n".join(parts) + "\n"


def draw(lines: Mapping[str, Mapping[str, np.ndarray]], path: pathlib.Path) -> None:
    """Writes the PNG: a block of rows for each task, a row for each method."""
    grids, titles = [], []
    for task, rows in lines.items():
        for name, x in rows.items():
            grids.append(plots.coloured(np.asarray(to_uint8(jnp.asarray(x[:SHOWN])))))
            titles.append(f"{task if name == 'truth' else ''}  {name} ")
    plots.mosaic([grids], titles, [[""] * SHOWN], path)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    figures, lines = pictures(values.model, values.steps, values.number)
    draw(lines, out / "samples.png")
    protocol = {name: getattr(values, name) for name in ("model", "steps", "number", "points")} | report.software()
    far = posteriors(values.steps, values.points)
    content = report.plain({"posteriors": far, "pictures": figures, "protocol": protocol})
    report.write(out, content, markdown(content))
    print(f"{out}/report.md and samples.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
