"""Restores pictures and points with every method, and compares them with exact posteriors and the original pictures.

    python -m examples.restoration.report --out=runs/restoration

All methods use an equal number of evaluations of the network, and the two methods with particles use it for each
particle. The first tables use a mixture of Gaussians, whose denoiser and posteriors are exact. There the distance from
the samples of a method to the posterior, and the coverage of its credible intervals, show the error of the method
alone. The other tables use handwritten digits of the test split and the model that ships with the package, without
classes: PSNR, SSIM, coverage, and LPIPS if its weights are available. The command writes samples.png, report.json and
report.md.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "model",
        "digits",
        "run folder of a model of 8x8 pixels and ten classes, or digits for the weights in the package",
    )
    flags.DEFINE_string("out", None, "folder for the report", required=True)
    flags.DEFINE_integer("steps", 100, "number of network evaluations per sample", lower_bound=10)
    flags.DEFINE_integer("number", 16, "number of pictures in the tables of digits", lower_bound=8)
    flags.DEFINE_integer(
        "draws", 9, "number of samples per picture, from which its 80 % intervals are computed", lower_bound=9
    )
    flags.DEFINE_string("lpips", "", "folder with the VGG16 weights of LPIPS; without it the tables have no LPIPS")
    flags.DEFINE_integer("points", 1000, "number of samples per posterior in the first tables", lower_bound=100)
    command_line.begin()

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, cast

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
from diffusion.metrics import credible_intervals, reconstruction_error, vector_distances
from diffusion.models import interchange
from diffusion.objectives.autoencoder_terms import perceptual_distance
from diffusion.recipe import ConfigError
from diffusion.schedules import NoiseSchedule
from examples.restoration import exact, methods, tasks

DIMENSION, COMPONENTS, WIDTH = 8, 12, 0.3
MEASURED = ((2, 0.3), (2, 0.05), (4, 0.3), (4, 0.05))  # number of rows of A, and standard deviation of the noise
CASES = 3  # measured points of each task
NULL = 10  # the class that means no class
SHOWN = 8
# The levels of credible intervals, which need many samples of a posterior and have few samples of a picture.
EXACT_LEVEL, LEVEL = 0.9, 0.8
WINDOW = 7  # window of SSIM for pictures of 8 x 8 pixels
ENLARGED = 8  # factor that enlarges pictures for LPIPS, as VGG16 halves them four times

Distance = Callable[[Array, Array], Array]
"""A function (pictures `[B, H, W, C]` in [-1, 1], originals) -> distances `[B]`."""
TITLE = "Restoration"


def posteriors(steps: int, points: int) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of `compared` for each method's samples, {figure: {method: {task: value}}}.

    Args:
        steps: the number of evaluations of the denoiser.
        points: the number of samples of each posterior.
    """
    mixture = exact.random_mixture(0, COMPONENTS, DIMENSION, WIDTH)
    schedule = schedules.cosine()
    random = np.random.default_rng(1)
    along = random.standard_normal((64, DIMENSION))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    data_std = float(exact.draw(mixture, 20_000, 0).std(0).mean())
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for rows, noise_std in MEASURED:
        A = random.standard_normal((rows, DIMENSION)).astype(np.float32) / np.float32(DIMENSION**0.5)
        title = f"{rows} of {DIMENSION}, noise {noise_std}"
        task = tasks.linear(measurements.matrix(A), noise_std)
        setting = methods.Setting(exact.denoiser(mixture, schedule), schedule, task, steps, data_std)
        runs = methods.programs(setting)
        by_figure: dict[str, dict[str, list[float]]] = {}
        for case in range(CASES):
            y = A @ exact.draw(mixture, 1, 100 + case)[0] + noise_std * random.standard_normal(rows)
            target = exact.posterior(mixture, A, y, noise_std)
            reference = exact.draw(target, points, 7)
            read = jnp.broadcast_to(jnp.asarray(y, jnp.float32), (points, rows))
            drawn = {"the posterior itself": exact.draw(target, points, 8), "the prior": exact.draw(mixture, points, 8)}
            for name, x in (drawn | restored(runs, read, schedule, (DIMENSION,), case)).items():
                for figure, value in compared(x, target, reference, along).items():
                    by_figure.setdefault(figure, {}).setdefault(name, []).append(value)
        for figure, by_method in by_figure.items():
            power = 2 if figure == "distance" else 1  # squared distances are averaged
            for name, values in by_method.items():
                mean = float(np.mean(np.array(values) ** power) ** (1 / power))
                figures.setdefault(figure, {}).setdefault(name, {})[title] = mean
    return figures


def compared(x: np.ndarray, target: exact.Mixture, reference: np.ndarray, along: np.ndarray) -> dict[str, float]:
    """Compares samples with a posterior by four figures.

    Args:
        x: the samples `[N, D]`.
        target: the posterior.
        reference: exact samples of the posterior `[M, D]`.
        along: directions of length 1 `[K, D]`.

    Returns:
        {"distance": the sliced 2-Wasserstein distance to the reference, "mean": the distance of the means divided by
        the root of the posterior's total variance, "covariance": the Frobenius distance of the covariances divided by
        the norm of the posterior's, "coverage": the share of the reference in the samples' 90 % intervals, as a mean
        over the directions}.
    """
    mean, covariance = exact.moments(target)
    error = np.linalg.norm(np.cov(x.T) - covariance)
    share = credible_intervals.coverage(x @ along.T, reference @ along.T, EXACT_LEVEL)
    return {
        "distance": vector_distances.sliced_wasserstein(x, reference, along) ** 0.5,
        "mean": float(np.linalg.norm(x.mean(0) - mean) / np.trace(covariance) ** 0.5),
        "covariance": float(error / np.linalg.norm(covariance)),
        "coverage": float(share.mean()),
    }


def perceived(folder: str) -> Distance | None:
    """The LPIPS of enlarged pictures by the weights in a folder; None for no folder.

    Raises:
        ConfigError: if the folder does not exist, or has no such weights.
    """
    if not folder:
        return None
    if not pathlib.Path(folder).is_dir():
        raise ConfigError(
            f"--lpips={folder}: there is no such folder. Valid: a folder with config.json and the VGG16 weights of "
            "LPIPS."
        )
    try:
        module, params = interchange.load(folder, "LPIPS")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--lpips={folder} has no weights of LPIPS: {error}") from error

    @jax.jit
    def distance(x: Array, originals: Array) -> Array:
        enlarged = lambda x: jnp.repeat(jnp.repeat(x, ENLARGED, axis=1), ENLARGED, axis=2)
        ours, theirs = (cast(Any, module.apply({"params": params}, enlarged(images))) for images in (x, originals))
        return perceptual_distance(ours.layers, theirs.layers, ours.weights)

    return distance


def restored(
    runs: Mapping[str, methods.Method], y: Array, schedule: NoiseSchedule, shape: tuple[int, ...], seed: int
) -> dict[str, np.ndarray]:
    """The samples `[B, *shape]` of each method for the measurement y `[B, ...]`."""
    first, keys = jax.random.split(jax.random.key(seed), (2, len(y)))
    x = samplers.prior(schedule, first, shape)
    return {name: np.asarray(method(y, x, keys)) for name, method in runs.items()}


def pictures(
    model: str, steps: int, number: int, draws: int, distance: Distance | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, np.ndarray]]]:
    """The figures of the digits by task and method, and the pictures of each.

    Args:
        model: the run folder, or the name of a model that ships with the package.
        steps: the number of evaluations of the network.
        number: the number of test pictures.
        draws: the number of samples of each picture.
        distance: the LPIPS; None for tables without it.

    Returns:
        ({task: {method: the figures of `measured`}}, {task: {line: pictures `[B, 8, 8, 1]` in [-1, 1]}}).
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
        several = jnp.tile(y, (draws, *(1,) * (y.ndim - 1)))
        samples = restored(methods.programs(setting), several, run.schedule, run.shape, k)
        samples = {method: x.reshape(draws, *truth.shape) for method, x in samples.items()}
        figures[name] = {method: measured(x, truth, task, y, distance) for method, x in samples.items()}
        inverse = {"A^+ y": np.asarray(task.linear.inverse(y, truth))} if task.linear else {}
        lines[name] = {"truth": np.asarray(truth)} | inverse | {method: x[0] for method, x in samples.items()}
    return figures, lines


def measured(
    x: np.ndarray, truth: Array, task: tasks.Task, y: Array, distance: Distance | None = None
) -> dict[str, float]:
    """The figures of S samples of each picture, as means over samples and pictures.

    Args:
        x: the samples `[S, B, 8, 8, 1]` in [-1, 1].
        truth: the original pictures `[B, 8, 8, 1]`.
        task: the operator and its noise.
        y: the measurements of the pictures.
        distance: the LPIPS; None for figures without it.

    Returns:
        {"psnr": the PSNR in dB, "ssim", "residual": the root mean square residual in units of the noise, "coverage":
        the share of pixels whose true value lies in the samples' 80 % interval}, and "lpips" if there is a distance.
    """
    flat = jnp.asarray(x).reshape(-1, *truth.shape[1:])
    truths = jnp.tile(truth, (len(x), 1, 1, 1))
    both = to_uint8(flat), to_uint8(truths)
    residual = jnp.mean((task.forward(flat) - jnp.tile(y, (len(x), *(1,) * (y.ndim - 1)))) ** 2) ** 0.5
    figures = {
        "psnr": reconstruction_error.psnr(*both).mean(),
        "ssim": reconstruction_error.ssim(*both, WINDOW).mean(),
        "residual": residual / task.noise_std,
        "coverage": credible_intervals.coverage(x, np.asarray(truth)[None], LEVEL).mean(),
    }
    if distance is not None:
        figures["lpips"] = distance(flat, truths).mean()
    return {name: float(value) for name, value in figures.items()}


def markdown(content: Mapping[str, Any]) -> str:
    """The report as Markdown, with the tables and the pictures."""
    posteriors, figures, protocol = (content[name] for name in ("posteriors", "pictures", "protocol"))
    names = list(next(iter(posteriors["distance"].values())))

    def posterior_table(*forms: str) -> str:
        """A table whose cells have one figure for each form, such as "distance:.2f"."""
        figure_of = lambda form, method, name: format(posteriors[form.split(":")[0]][method][name], form.split(":")[1])
        cell = lambda method, name: ", ".join(figure_of(form, method, name) for form in forms)
        rows = [(method, *(cell(method, name) for name in names)) for method in posteriors["distance"]]
        return report.table(("samples", *names), rows)

    def picture_table(form: str) -> str:
        entry = lambda one: form.format(**one) if one else "needs a linear operator"
        every = methods.LINEAR | methods.ANY
        cells = [(method, *(entry(row.get(method)) for row in figures.values())) for method in every]
        return report.table(("method", *figures), cells)

    has_lpips = "lpips" in next(iter(next(iter(figures.values())).values()))
    lpips = "LPIPS needs its weights, `--lpips=FOLDER`; they were not available for this report."
    if has_lpips:
        title = f"LPIPS by VGG16 of the pictures, enlarged {ENLARGED} times."
        lpips = f"{title}\n\n{picture_table('{lpips:.3f}')}"
    parts = [
        f"# {TITLE}",
        f"All methods use {protocol['steps']} network evaluations per sample, except `twisted` and `MCGDiff`, which "
        f"use {methods.PARTICLES} times as many. No setting was tuned to a figure on this page, except the step of "
        "MPGD, whose first value hardly changed the samples. [Inverse problems](../../steering.md#inverse-problems) "
        "explains the methods.",
        "## Exact posteriors",
        f"The data are a mixture of {COMPONENTS} Gaussians in {DIMENSION} dimensions. Each column uses {CASES} "
        "measurements y = A x + noise. The table shows the root mean square of the sliced Wasserstein distance between "
        f"the samples and the exact posterior, with {protocol['points']} samples each.",
        posterior_table("distance:.2f"),
        "The next table shows the distance between the means, divided by the root of the total variance of the "
        "posterior, and the relative error of the covariance.",
        posterior_table("mean:.2f", "covariance:.2f"),
        f"Coverage is the share of the exact posterior that lies in the central {EXACT_LEVEL:.0%} interval of a "
        f"method's samples, averaged over 64 directions. Below {EXACT_LEVEL:.0%}, the samples vary too little or lie "
        "elsewhere.",
        posterior_table("coverage:.0%"),
        "## Digits",
        f"The table shows the PSNR in decibels of {protocol['draws']} samples for each of {protocol['number']} test "
        "pictures. The number in brackets is the residual of the measurement in units of its noise: 1.0 is correct, "
        "a larger value means disagreement with y, and a smaller value means that the sample fits the noise. A sample "
        "of the posterior has a lower PSNR than the posterior mean.",
        picture_table("{psnr:.1f} ({residual:.1f})"),
        f"The table shows SSIM in windows of {WINDOW} pixels, and in brackets the coverage: the share of pixels whose "
        f"true value lies in the {LEVEL:.0%} interval of the {protocol['draws']} samples.",
        picture_table("{ssim:.2f} ({coverage:.0%})"),
        lpips,
        "![Test digits, their measurements, and the pictures that each method restores](samples.png)",
        "## Protocol",
        report.table(("model", "commit", "device"), [[protocol[key] for key in ("model", "git_commit", "device")]]),
    ]
    return report.page(parts)


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
    distance = perceived(values.lpips)
    software = report.software()  # before the folder of the report, which may be one of the clone, changes
    figures, lines = pictures(values.model, values.steps, values.number, values.draws, distance)
    draw(lines, out / "samples.png")
    protocol = {name: getattr(values, name) for name in ("model", "steps", "number", "draws", "points")} | software
    exactly = posteriors(values.steps, values.points)
    report.write(out, {"posteriors": exactly, "pictures": figures, "protocol": protocol}, markdown)
    print(f"{out}/report.md and samples.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
