"""Writes a page of pictures that show what a trained run can do, each with the lines that draw it.

    python -m tools.docs.gallery --workdir=runs/digits                            # a run of the recipe digits
    python -m tools.docs.gallery --workdir=runs/digits --only=editing,samplers --out=/tmp/gallery

The command writes docs/gallery/all.md and its PNG files from a run that was trained, sampled and evaluated. The picture
of the sweep is a screenshot of its report, which needs chromium and chromedriver; without them the existing picture
stays.
"""

import inspect
import json
import pathlib
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from absl import flags
from jax import Array
from matplotlib.figure import Figure

from diffusion import editing, samplers, sampling, timesteps
from diffusion.data.transforms import to_uint8
from diffusion.experiments import command_line
from diffusion.experiments.evaluation import plots, real_images, sample_metrics
from diffusion.experiments.evaluation.plots import BLUE, FAINT, INK, ORANGE
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, trained_run
from diffusion.experiments.sampling.trained_run import Trained
from diffusion.io import files
from diffusion.io.files import write_text
from diffusion.package.commands import as_process
from diffusion.recipe import ConfigError, Recipe, as_config_errors, names, unknown
from diffusion.recipe.extensions import printed
from diffusion.training.runtime import progress
from tools.docs import gallery_reports

SCALES = (0.0, 1.0, 1.5, 2.0, 4.0, 8.0)
STEPS = (1, 2, 4, 8, 16, 32)
SAMPLERS = ("euler", "heun", "dpmpp_2m", "unipc", "ddpm", "dpmpp_2m_sde")
FINE = 50  # steps of a sampler that edits pictures
STRENGTHS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WEIGHTS = np.linspace(0, 1, 9)
UNKNOWN = (206, 222, 242)  # colour of the part that the model paints
MEASURED = 360  # number of samples behind each measured value of the page
LEGEND = {
    "frameon": False,
    "fontsize": 7.5,
    "loc": "upper right",
    "borderaxespad": 0,
    "columnspacing": 1,
    "handlelength": 1.2,
    "handletextpad": 0.5,
}
SWEEP = "digits_steps"


# ==== Editing: the source of these functions is printed on the page ====


def inpaint(run: Trained, images: Array, labels: np.ndarray, known: np.ndarray) -> Array:
    """RePaint: paints the unknown part so that it agrees with the known part."""
    plan = editing.repaint(run.grid, jump=5, resamplings=10)
    keep = editing.replacement(run.schedule, plan, images, known)
    x, keys = run.noise(len(images))
    return samplers.sample(samplers.ddpm(), run.denoise(labels), run.schedule, x, plan, keys, after_step=keep)


def outpaint(run: Trained, middles: Array, labels: np.ndarray) -> tuple[Array, Array, Array]:
    """Paints the surroundings of the middle of a picture."""
    rest = [(side - middle) // 2 for side, middle in zip(run.shape, middles.shape[1:3])]
    canvas, known = editing.extended(middles, [(margin, margin) for margin in rest])
    return inpaint(run, canvas, labels, known), canvas, known


def edit(run: Trained, images: Array, labels: np.ndarray, strength: float) -> Array:
    """SDEdit: noises pictures to t = strength, and samples from there, here with other classes."""
    keys = run.noise(len(images))[1]
    return editing.sdedit(run.sampler, run.denoise(labels), run.schedule, images, run.grid, strength, keys)


def between(run: Trained, labels: np.ndarray, weight: float) -> Array:
    """Interpolates between the noise of two seeds, along the sphere."""
    noise, keys = run.noise(2 * len(labels))
    x = editing.slerp(noise[: len(labels)], noise[len(labels) :], weight)
    plan = timesteps.plan(run.grid)
    return samplers.sample(run.sampler, run.denoise(labels), run.schedule, x, plan, keys[: len(labels)])


# ==== The pictures ====


def bytes_of(run: Trained, x: Array) -> np.ndarray:
    """Samples of a run, `[B, ...]`, as pictures, uint8 `[B, ...]`.

    Raises:
        ConfigError: if no sample is finite.
    """
    with as_config_errors():
        generate.check_finite(run.config, len(x), int((~sampling.finite(x)).sum()))
    return np.asarray(to_uint8(x))


class Shown(NamedTuple):
    """What the page says beside a picture: the lines that draw it, and a text, both in Markdown."""

    lines: str
    text: str


def samples(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Copies samples.png, which `diffusion sample` wrote into the run folder."""
    _copy(folder / "samples.png", place / "samples.png")
    return Shown(_shell("sample", f"--workdir={folder}"), "One row for each class.")


def trajectory(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Copies trajectory.png, which `diffusion sample` wrote into the run folder."""
    _copy(folder / "trajectory.png", place / "trajectory.png")
    return Shown(
        _shell("sample", f"--workdir={folder}"),
        "The sample x_t along the trajectory, and the predicted x_0 at each time.",
    )


def guidance(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws samples from the same noise with growing guidance scales, and measures them."""
    run = trained_run.load(folder)
    number = MEASURED
    labels = generate.balanced_labels(number, _classes(run))
    seeds = generate.seeds(run.config, number)
    by_scale, table = [], []
    for scale in SCALES:
        at = run.changed({"sample.guidance.scale": scale, "sample.number": number})
        make = generate.generator(Recipe.from_config(at.config, at.shape))
        with as_config_errors():
            images = generate.checked_images(make, at.config, at.params, labels, seeds)
        metrics = sample_metrics.evaluate_samples(images, labels, _evaluated(at.config))
        by_scale.append(images)
        table.append(
            f"| {scale:g} | {100 * metrics['asked_class']:.1f} % | {metrics['fd_classifier']:.3g} "
            f"({metrics['fd_classifier_over_floor']:.2f}) |"
        )
    rows = [row for row in (3, 5, 8, 9, 2) if row < _classes(run)]
    shown = np.stack(by_scale, axis=1)  # [number, scales, H, W, C]
    blocks = [plots.coloured(shown[rows]), plots.coloured(shown[[row + _classes(run) for row in rows]])]
    texts = [f"w = {SCALES[0]:g}", *(f"{scale:g}" for scale in SCALES[1:])]
    plots.mosaic(
        blocks,
        [str(row) for row in rows],
        (texts, texts),
        place / "guidance.png",
        ("guidance w, one noise a row", "other seeds"),
    )
    number_of_real = min(MEASURED, len(real_images.split_of(run.config, "validation").images))
    words = f"--workdir={folder}", f"--out={folder}/guided", "--config.sample.guidance.scale=4"
    return Shown(
        _shell("sample", *words),
        "\n".join(
            [
                "Classifier-free guidance, cond + (w - 1)(cond - uncond). With w = 0 the requested class is ignored, "
                "and w = 1 means no guidance. With too much guidance, all digits of a class look alike.",
                "",
                "| w | requested class recognised | Frechet distance, classifier features, "
                f"N = {number_of_real} (times the floor) |",
                "| --- | --- | --- |",
                *table,
            ]
        ),
    )


def samplers_by_steps(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws samples of several samplers and numbers of steps, from the same noise."""
    blocks: list[list] = [[], []]
    run = trained_run.load(folder, {"model.unroll": 1})  # there are many programs, so that they must compile fast
    labels = np.array([0, 3], np.int32) % _classes(run)
    x, keys = run.noise(2)
    for name in SAMPLERS:
        images = []
        for steps in STEPS:
            sampler = names.SAMPLERS[name]()
            plan = timesteps.plan(run.changed({"sample.steps": steps}).grid)
            ends = samplers.sample(sampler, run.denoise(labels), run.schedule, x, plan, keys)
            images.append(bytes_of(run, ends))
        for block, of_seed in zip(blocks, np.swapaxes(images, 0, 1)):
            block.append(of_seed)
    texts = [f"{STEPS[0]} step", *map(str, STEPS[1:])]
    plots.mosaic(
        [plots.coloured(np.stack(block)) for block in blocks],
        SAMPLERS,
        (texts, texts),
        place / "samplers.png",
        ("seed 0", "seed 1"),
    )
    words = f"--workdir={folder}", f"--out={folder}/unipc", "--config.sample.sampler.name=unipc"
    return Shown(
        _shell("sample", *words, "--config.sample.steps=8"),
        "All pictures start from the same noise. The first four samplers are deterministic and converge to the "
        "same picture; `ddpm` and `dpmpp_2m_sde` add noise in each step. `heun` evaluates the network twice per "
        "step. The page [samplers](../samplers.md) compares all samplers.",
    )


def editing_of_real_digits(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws test digits that are inpainted and outpainted."""
    run = trained_run.load(folder, {"sample.steps": FINE})
    images, labels = run.real("test", 10)
    height, width = run.shape[:2]
    upper = np.arange(height)[:, None, None] < height // 2
    painted = inpaint(run, images, labels, upper)
    top = height // 4
    left = width // 4
    around, canvas, known = outpaint(run, images[:, top : height - top, left : width - left], labels)
    tinted = lambda x, mask: np.where(mask, plots.coloured(to_uint8(x)), np.uint8(UNKNOWN))
    real = plots.coloured(to_uint8(images))
    drawn = lambda x: plots.coloured(bytes_of(run, x))
    rows = [real, tinted(images, upper), drawn(painted), tinted(canvas, np.asarray(known)), drawn(around)]
    plots.mosaic(
        [np.stack(rows)],
        ["real", "upper half", "inpainted", "middle", "outpainted"],
        ([""] * len(images),),
        place / "editing.png",
    )
    return Shown(
        _python(inpaint, outpaint, steps=FINE),
        "The digits come from the test split, which was not used in training. The lower half, or everything "
        "except the middle, is painted again; blue marks the unknown part. The painted digit need not equal the "
        "real one.",
    )


def sdedit(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws test digits that are turned into other digits, with growing strength."""
    run = trained_run.load(folder, {"sample.steps": FINE})
    images, labels = run.real("test", 10)
    wanted = {1: 7, 3: 8, 4: 9, 5: 6, 0: 8}
    rows = np.array([row for row in wanted if row < _classes(run)])
    others = np.array([wanted[row] % _classes(run) for row in rows], np.int32)
    grid = [plots.coloured(to_uint8(images))[rows]]
    for strength in STRENGTHS:
        edited = bytes_of(run, edit(run, images[rows], others, strength))
        grid.append(plots.coloured(edited))
    names_of_rows = [f"{labels[row]} as {other}" for row, other in zip(rows, others)]
    texts = ["real", f"t = {STRENGTHS[0]:g}", *(f"{strength:g}" for strength in STRENGTHS[1:])]
    plots.mosaic([np.stack(grid, axis=1)], names_of_rows, (texts,), place / "sdedit.png")
    return Shown(
        _python(edit, steps=FINE),
        "Each digit of the test split is noised to time t, and sampled from there as another class. The larger t "
        "is, the less of the original remains.",
    )


def interpolation(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws samples from interpolations between the noise of two seeds."""
    run = trained_run.load(folder)
    labels = np.array([row for row in (0, 2, 3, 4, 7) if row < _classes(run)], np.int32)
    grid = np.stack([bytes_of(run, between(run, labels, float(weight))) for weight in WEIGHTS], axis=1)
    texts = ["one seed", *(f"{weight:.2g}" for weight in WEIGHTS[1:-1]), "another"]
    plots.mosaic([plots.coloured(grid)], [str(label) for label in labels], (texts,), place / "interpolation.png")
    return Shown(
        _python(between),
        "A deterministic sampler maps noise to digits continuously, so interpolations between two seeds give "
        "digits of the same class.",
    )


def evaluation(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Draws the figures of report.json."""
    path = folder / "report.json"
    if not path.is_file():
        raise ConfigError(f"{path} is not there. Write it by: {printed('evaluate', f'--workdir={folder}')}")
    measured = json.loads(path.read_text())["figures"]
    figure = Figure(figsize=(10, 3.1), dpi=plots.DPI, layout="constrained")
    classes, distances, nearest = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
    draw_classes(classes, measured["asked_class"])
    draw_distances(distances, measured["frechet"])
    draw_neighbours(nearest, measured["neighbours"])
    plots.save(figure, place / "evaluation.png")
    _copy(folder / "curves.png", place / "curves.png")
    return Shown(
        _shell("evaluate", f"--workdir={folder}"),
        "The figures of `report.json`, compared with real images and with noise; the intervals are 95 % "
        "confidence intervals.\n\n![Loss against the step, and against t](curves.png)",
    )


def draw_classes(axes, accuracy: dict) -> None:
    """Draws the share of each class's images in which the classifier recognises the class."""
    classes = list(accuracy["by_class"])
    axes.bar(
        np.arange(len(classes)) - 0.2,
        [100 * accuracy["by_class"][c] for c in classes],
        0.4,
        color=BLUE,
        label="samples",
    )
    axes.bar(
        np.arange(len(classes)) + 0.2,
        [100 * accuracy["real"]["by_class"].get(c, np.nan) for c in classes],
        0.4,
        color=FAINT,
        label="real test images",
    )
    axes.set_xticks(range(len(classes)), classes)
    axes.set(xlabel="requested class", ylabel="recognised, %", ylim=(80, 105), yticks=range(80, 101, 5))
    _plain(axes, "Requested class")
    axes.legend(**LEGEND, ncols=2)


def draw_distances(axes, frechet: dict) -> None:
    """Draws the Frechet distances of the samples, each on a line from the floor to the distance of noise."""
    for row, figure in enumerate(frechet.values()):
        at = figure["floor"]["mean"]
        axes.plot([at, figure["noise"]], [row, row], color=FAINT, linewidth=1.2, zorder=1)
        axes.plot(at, row, "|", color=INK, markersize=14, label="" if row else "floor (real images)")
        axes.plot(figure["noise"], row, "x", color=ORANGE, label="" if row else "noise")
        low, high = figure["interval"] or (figure["distance"], figure["distance"])
        error = np.clip([[figure["distance"] - low], [high - figure["distance"]]], 0, None)
        axes.errorbar(
            figure["distance"],
            row,
            xerr=error,
            fmt="o",
            color=BLUE,
            markersize=5,
            capsize=3,
            label="" if row else "samples",
        )
    axes.set_yticks(range(len(frechet)), list(frechet))
    axes.set(xscale="log", xlabel="Frechet distance", ylim=(-0.6, len(frechet) + 0.2))
    _plain(axes, "Distance to test images")
    axes.legend(**LEGEND, ncols=3)


def draw_neighbours(axes, neighbours: dict) -> None:
    """Draws the quantiles of the distance to the nearest training image."""
    for name, color, label in (("samples", BLUE, "samples"), ("held_out", INK, "real test images")):
        quantiles = {float(q): value for q, value in neighbours[name]["quantiles"].items()}
        known = sorted(quantiles)
        axes.plot(
            [quantiles[q] for q in known],
            [100 * q for q in known],
            marker="o",
            markersize=3.5,
            color=color,
            linewidth=1.5,
            label=label,
        )
    axes.set(xlabel="to the nearest training image", ylabel="share below, %", ylim=(0, 100), xlim=(0, None))
    _plain(axes, "Copies lie at 0")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def sweep(folder: pathlib.Path, place: pathlib.Path) -> Shown:
    """Runs a sweep over the run, and takes a picture of its report."""
    from tests import browser

    where = folder.parent / f"{folder.name}_steps"
    words = (f"--sweep={SWEEP}", f"--workdir={where}")
    subprocess.run(as_process(["diffusion", "sweep", *words]), check=True)  # the sweep skips its finished runs
    if browser.installed():
        with browser.open(size=(1180, 1330)) as page:
            page.visit((where / "report.html").resolve().as_uri())
            page.screenshot(place / "sweep.png", whole=False)
    else:
        print(f"{place / 'sweep.png'} stays as it is: {browser.MISSING}")
    return Shown(
        _shell("sweep", *words),
        f"A sweep writes such a report while it runs, as one file that works offline ([sweeps](../sweeps.md)). This "
        f"one compares [samplers by their steps](../../configs/sweeps/{SWEEP}.py) on the run above.",
    )


PICTURES: dict[str, tuple[str, Callable[[pathlib.Path, pathlib.Path], Shown]]] = {
    "samples": ("Samples by class", samples),
    "trajectory": ("From noise to image", trajectory),
    "guidance": ("Guidance", guidance),
    "samplers": ("Samplers by steps", samplers_by_steps),
    "editing": ("Inpainting and outpainting", editing_of_real_digits),
    "sdedit": ("SDEdit", sdedit),
    "interpolation": ("Between two seeds", interpolation),
    "evaluation": ("Evaluation", evaluation),
    "sweep": ("A sweep's report", sweep),
}


# ==== The page ====


def section(name: str, shown: Shown) -> str:
    """The section of the page with a picture."""
    title = PICTURES[name][0]
    return f"## {title}\n\n![{title}]({name}.png)\n\n{shown.text}\n\n{shown.lines}\n"


def sections_of(text: str) -> dict[str, str]:
    """The sections of a page, by the names of their pictures."""
    parts = {part.split("\n")[0]: f"## {part}" for part in text.split("\n## ")[1:]}
    return {name: parts[title] for name, (title, _) in PICTURES.items() if title in parts}


def page(folder: pathlib.Path, sections: Iterable[str]) -> str:
    """The page: an introduction, and the sections.

    Args:
        folder: the run folder, for the command in the introduction.
        sections: the sections in their order.
    """
    head = f"""# All pictures

[One screen](README.md) shows the eight best results. This page shows the others, including weak ones. The pictures of
digits come from one run of the recipe `digits` (8x8 pixels, 1,258 training images, four minutes on two CPU cores). One
command draws them:

```sh
python -m tools.docs.gallery --workdir={folder}
```

Three text-to-image models have reports: [the model that ships with the package](drawings/report.md),
[the model of `make demo-text`, with edits](text/report.md), and [a model of captioned emoji](emoji/report.md), whose
pictures look smudged in detail.
"""
    return "\n".join([head, *(part.rstrip("\n") + "\n" for part in sections)])


def _shell(name: str, *words: str) -> str:
    return f"```sh\n{printed(name, *words)}\n```"


def _python(*functions: Callable, steps: int | None = None) -> str:
    code = "\n\n\n".join(textwrap.dedent(inspect.getsource(function)).strip() for function in functions)
    changes = f', {{"sample.steps": {steps}}}' if steps else ""
    where = f'where `run = trained_run.load("runs/digits"{changes})` and `images, labels = run.real("test", 10)`.'
    return f"```python\n{code}\n```\n\n{where}"


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    if not source.is_file():
        raise ConfigError(
            f"{source} is not there: sample and evaluate the run first (diffusion sample, diffusion evaluate)."
        )
    with files.atomic(target) as file, open(source, "rb") as original:
        shutil.copyfileobj(original, file)


def _classes(run: Trained) -> int:
    return run.config.model.num_classes


def _evaluated(config):
    """The config with an evaluation that computes the classifier's features alone, since the table has no others."""
    config = config.copy_and_resolve_references()
    config.evaluate.features = ("classifier",)
    return config


def _plain(axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    plots.style(axes)


def main(argv: list[str]) -> None:
    """Draws the pictures, and writes the page."""
    folder = pathlib.Path(flags.FLAGS.workdir)
    place = pathlib.Path(flags.FLAGS.out)
    wanted = flags.FLAGS.only or list(PICTURES)
    for name in wanted:
        if name not in PICTURES:
            raise unknown("--only", name, PICTURES, "picture")
    place.mkdir(parents=True, exist_ok=True)
    path = place / gallery_reports.PAGE
    sections = sections_of(path.read_text()) if path.is_file() else {}
    with progress.bar("drawing", len(wanted), "pictures") as advance:
        for done, name in enumerate(wanted):
            sections[name] = section(name, PICTURES[name][1](folder, place))
            advance(done + 1)
    text = page(folder, (sections[name] for name in PICTURES if name in sections))
    write_text(path, gallery_reports.page(text, place))
    print(f"{place}: {', '.join(f'{name}.png' for name in wanted)}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/digits", "folder of a run that was trained, sampled and evaluated")
    flags.DEFINE_string("out", "docs/gallery", "folder for the page and its pictures")
    flags.DEFINE_list("only", None, f"pictures to draw, out of {', '.join(PICTURES)}; the others stay as they are")
    command_line.run(main, workdir.FAILURES)
