"""Sweeps that were never run: results in the shape of `experiments.sweeps.results`, for tests of their report.

    python -m tests.experiments.sweeps.made_sweep DIR

The command writes DIR/samplers/report.html, DIR/weightings/..., DIR/large/...
"""

import pathlib
import sys

import numpy as np

from diffusion.experiments.evaluation import plots
from diffusion.experiments.evaluation.figures import Figure, Measured
from diffusion.experiments.sweeps import html_report, naming
from diffusion.experiments.sweeps.results import Results, Run

BETTER = {"asked_class": "higher", **dict.fromkeys(("fd_pixels", "fd_classifier", "seconds/train"), "lower")}
STEPS = (1, 2, 4, 8, 20, 50, 100)


def picture(path: pathlib.Path, seed: int, noise: float) -> pathlib.Path:
    """A grid of discs, noisier the larger `noise`; the same discs for the same seed."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    images = []
    for _ in range(60):
        y = rng.uniform(4, 11)
        x = rng.uniform(4, 11)
        radius = rng.uniform(2, 5)
        colour = rng.uniform(60, 255, 3)
        disc = np.where(((rows - y) ** 2 + (columns - x) ** 2 < radius**2)[..., None], colour, 25)
        images.append(disc + noise * rng.normal(size=disc.shape))
    plots.sample_grid(np.clip(images, 0, 255).astype(np.uint8), np.arange(60) % 6, path)
    return path


def curve(rng, level: float, steps: int) -> list[tuple[int, float]]:
    at = np.linspace(50, 5000, steps).astype(int)
    return list(zip(at.tolist(), (level + 1.5 * np.exp(-at / 400) + 0.03 * rng.normal(size=steps)).tolist()))


def run(
    folder: pathlib.Path, overrides: dict, level: float, nfe: int | None, images: bool, points: int, index: int
) -> Run:
    """A run that is done; its figures follow from `level`, and the seed changes them a little."""
    rng = np.random.default_rng(index)
    name = naming.label(overrides, naming.labels(list(overrides)))
    value = level * (1 + 0.06 * rng.normal())
    share = 0.99 - value / 60
    measured = {
        "loss": Figure(0.2 + value / 100),
        "asked_class": Figure(share, share - 0.01, share + 0.005, 2000),
        "fd_pixels": Figure(value, 0.93 * value, 1.08 * value, 359),
        "fd_classifier": Figure(20 * value, 18 * value, 22 * value, 359),
        "seconds/train": Figure(200 + 20 * rng.random()),
    }
    if nfe:
        measured |= {"nfe": Figure(nfe), "seconds/sample": Figure(2 + 0.21 * nfe + rng.random())}
    seed = overrides.get("sample.seed", 0)
    shown = {"samples": picture(folder / f"{index}.png", seed, 8 * level)} if images else {}
    words = " ".join(f"--config.{field}={value}" for field, value in overrides.items())
    command = f"diffusion train --config=digits --workdir={folder / name} {words}"
    curves = {
        "loss": curve(rng, 0.2 + value / 100, points),
        "grad_norm": curve(rng, 0.4, points),
        "evaluate/fd_pixels": curve(rng, value, 6),
    }
    for module in ("sample", "evaluate"):
        command += f" && diffusion {module} --workdir={folder / name}"
    content = Measured(measured, curves, shown, better=BETTER)
    return Run(name, overrides, folder / name, "done", content, command, 260.0 + index, "", 1)


def samplers(folder: pathlib.Path, images: bool = True) -> Results:
    """Four samplers over the ladder of steps, three seeds each; the error falls by the method's order."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for sampler, factor, order in (("euler", 1, 1.0), ("heun", 2, 2.0), ("dpmpp_2m", 1, 2.0), ("unipc", 1, 2.6)):
        for steps in STEPS:
            for seed in range(3):
                level = 0.17 + 9 / (factor * steps) ** order * (1 if sampler != "heun" else 1.4)
                overrides = {"sample.sampler.name": sampler, "sample.steps": steps, "seed": seed}
                made.append(run(folder, overrides, level, factor * steps, images and seed == 0, 40, len(made)))
    fields = ["sample.sampler.name", "sample.steps"]
    return results("digits_samplers", fields, ["seed"], made, folder)


def weightings(folder: pathlib.Path) -> Results:
    """Parameterization x weighting, three seeds; one run failed, two are running, three wait, one was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i, kind in enumerate(("epsilon", "x0", "v", "velocity")):
        for j, weighting in enumerate(("constant", "snr", "min_snr", "p2", "sigmoid")):
            for seed in range(3):
                overrides = {"parameterization.name": kind, "objective.weighting.name": weighting, "seed": seed}
                level = 0.4 + 0.3 * abs(i - 2) + 0.12 * (j - 2) ** 2
                made.append(run(folder, overrides, level, None, seed == 0, 200, len(made)))
    reason = "error: the loss or the gradient was not finite in step 412 (counted from 0)."
    made[4] = made[4]._replace(
        status="failed", measured=Measured({}, made[4].measured.curves), reason=reason, attempts=2
    )
    for index, status in enumerate(("queued",) * 3 + ("running",) * 2 + ("stopped",), 1):
        begun = status != "queued"
        curves = made[-index].measured.curves if begun else {}
        part = {name: points[: len(points) // 3] for name, points in curves.items()}
        made[-index] = made[-index]._replace(status=status, measured=Measured({}, part), seconds=71.0 * begun)
    fields = ["parameterization.name", "objective.weighting.name"]
    return results("digits_weightings", fields, ["seed"], made, folder)


def large(folder: pathlib.Path) -> Results:
    """300 runs without repeated seeds, 25 learning rates x 12 widths, 500 points a curve, a picture each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for rate in np.geomspace(1e-5, 1e-2, 25):
        for width in range(32, 416, 32):
            level = 0.3 + 0.4 * np.log10(rate / 6e-4) ** 2 + 40 / width
            overrides = {"optimizer.learning_rate": float(f"{rate:.2g}"), "model.width": width}
            made.append(run(folder, overrides, float(level), None, True, 500, len(made)))
    fields = ["optimizer.learning_rate", "model.width"]
    return results("rates_and_widths", fields, [], made, folder)


def results(name: str, fields: list[str], seeds: list[str], runs: list[Run], folder: pathlib.Path) -> Results:
    file = name
    command = f"diffusion sweep --sweep={file} --workdir={folder}"
    return Results(name, file, fields, seeds, runs, folder, command)


if __name__ == "__main__":
    for make in (samplers, weightings, large):
        made = make(pathlib.Path(sys.argv[1]) / make.__name__)
        print(html_report.write(made), made.directory / "report.html", (made.directory / "report.html").stat().st_size)
