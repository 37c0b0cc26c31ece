"""Samples a run's moving averages and measures their FIDs in one process, and stores each FID at once."""

import json
import pathlib
import time
from typing import NamedTuple

import numpy as np

from diffusion.experiments.evaluation import comparison, plots
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import averages, generate
from diffusion.io.leaf_names import leaf_name
from diffusion.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import compilation_cache

MARGIN = 1.5  # a figure begins only if this multiple of the time of an earlier one is left


class Size(NamedTuple):
    """The sizes of all stages.

    Attributes:
        preset: the preset of the config.
        seconds: the time of training.
        trial: the number of steps of the short run that measures the rate of training.
        some: the number of samples of each FID that selects a setting, or that is a point of the curve.
        all: the number of samples of the published FID.
        widths: the widths of the moving averages to choose from.
        scales: the scales of guidance to choose from.
        points: the number of points of the curve.
        reference: the images that the samples are compared with.
    """

    preset: str = ""
    seconds: float = 960.0
    trial: int = 400
    some: int = 5_000
    all: int = 50_000
    widths: tuple[float, ...] = (0.05, 0.1, 0.15)
    scales: tuple[float, ...] = (1.0, 1.2)
    points: int = 6
    reference: str = "cifar10@train"


TINY = Size("tiny", 20.0, 20, 8, 16, (0.05, 0.1), (1.0, 1.5), 2, "cifar10@test[:16]")


class Measured:
    """The figures of a run so far; it also measures further ones.

    Attributes:
        found: {"figures": {name: {"fid", "samples", "step", "width", "scale", "seconds", ...}}, "best": name}.
    """

    def __init__(self, home: pathlib.Path, data_dir: str, inception: str):
        """Opens the run HOME/run, and reads HOME/measured.json if it exists."""
        compilation_cache.enable()
        self._home = home
        self._run = home / "run"
        self._request = {"protocol": "edm", "inception": inception, "data_dir": data_dir, "metrics": ("fid",)}
        self._file = home / "measured.json"
        self.config = workdir.read_config(self._run)
        self.found = json.loads(self._file.read_text()) if self._file.is_file() else {"figures": {}}

    def figure(self, name: str, number: int, step: int, width: float, scale: float = 1.0) -> float:
        """The FID of `number` samples; it is measured only if the figure is not stored yet.

        Args:
            name: the name of the figure.
            number: the number of samples, which have the first seeds of config.sample.seed.
            step: the training step at which the average ends.
            width: the width of the average, as a share of the steps.
            scale: the scale of classifier-free guidance.
        """
        if name not in self.found["figures"]:
            began = time.monotonic()
            images, labels, nfe = self._samples(number, step, width, scale)
            if number > 1000 or "picture" not in self.found:
                plots.sample_grid(images, labels, self._home / "samples.png")
                self.found["picture"] = name
            file = self._home / "samples.npz"
            np.savez(file, images=images, labels=labels)
            result = comparison.run(
                comparison.Request(
                    samples=str(file), reference=str(self._home / "reference.safetensors"), **self._request
                )
            )
            self.found["figures"][name] = {
                "fid": result["figures"]["fid"]["value"],
                "samples": number,
                "step": step,
                "width": width,
                "scale": scale,
                "nfe": nfe,
                "seconds": time.monotonic() - began,
                "warnings": result["warnings"],
            }
            self._keep()
        return self.found["figures"][name]["fid"]

    def seconds_for(self, number: int) -> float:
        """An upper estimate of the seconds for `number` samples, from the figure with the most samples so far."""
        taken = sorted((figure["samples"], figure["seconds"]) for figure in self.found["figures"].values())
        if not taken:
            return 0.0
        most, seconds = taken[-1]
        return MARGIN * seconds * max(1.0, number / most)

    def choose(self, name: str) -> None:
        """Stores the name of the best figure."""
        self.found["best"] = name
        self._keep()

    def write_best(self, file: pathlib.Path) -> int:
        """Writes the weights of the best figure in bfloat16, by the names of the leaves; returns their number."""
        import jax
        import ml_dtypes
        from safetensors.flax import save_file

        best = self.found["figures"][self.found["best"]]
        params = averages.post_hoc(self._run, self.config.ema.sigma_rel, best["width"], best["step"]).params
        named = jax.tree_util.tree_leaves_with_path(params)
        leaves = {leaf_name(path).replace("/", "."): np.asarray(leaf, ml_dtypes.bfloat16) for path, leaf in named}
        save_file({name: jax.numpy.asarray(leaf) for name, leaf in leaves.items()}, file)
        return len(leaves)

    def _samples(self, number: int, step: int, width: float, scale: float) -> tuple[np.ndarray, np.ndarray, int]:
        params = averages.post_hoc(self._run, self.config.ema.sigma_rel, width, step).params
        config = self.config.copy_and_resolve_references()
        config.sample.number = max(number, config.sample.batch_size)  # all batches have one size, for one compilation
        config.sample.guidance.scale = scale
        make = generate.generator(Recipe.from_config(config, workdir.example_shape(config)))
        labels = generate.balanced_labels(number, config.model.num_classes)
        images = generate.checked_images(make, config, params, labels, generate.seeds(config, number))
        return images, labels, make.nfe

    def _keep(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1))
        part.replace(self._file)


def measure_all(measured: Measured, size: Size, stop: float) -> bool:
    """Measures the missing figures, the most important first; returns whether all are measured.

    Args:
        measured: the figures so far.
        size: the numbers of samples and the settings to choose from.
        stop: the time of `time.monotonic` by which this function must end.
    """
    steps = checkpoints.steps(measured._run)
    last = steps[-1]

    def take(name: str, number: int, *what: float) -> float | None:
        """The figure, or None if too little time is left to measure it."""
        known = name in measured.found["figures"]
        if not known and time.monotonic() + measured.seconds_for(number) > stop:
            return None
        return measured.figure(name, number, *what)

    tried = {}
    for width in size.widths:
        tried[width] = take(f"width {width}", size.some, last, width)
        if tried[width] is None:
            return False
    width = min(tried, key=tried.get)
    guided = {}
    for scale in size.scales:
        name = f"width {width}" if scale == 1 else f"width {width}, guidance {scale}"
        guided[scale] = take(name, size.some, last, width, scale)
        if guided[scale] is None:
            return False
    scale = min(guided, key=guided.get)
    if take("best", size.all, last, width, scale) is None:
        return False
    measured.choose("best")
    for step in points(steps, size.points):
        if take(f"step {step}", size.some, step, width, scale) is None:
            return False
    return True


def points(steps: list[int], number: int) -> list[int]:
    """At most `number` of the checkpoints' steps, without the last, with about equal ratios between them."""
    wanted = np.geomspace(steps[0], steps[-1], number + 1)[:-1]
    return sorted({min(steps[:-1] or steps, key=lambda step: abs(step - target)) for target in wanted})


def draw(results: dict, path: pathlib.Path) -> None:
    """Draws FID against the minutes of training, and marks the published FID."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    measured = results["measure"]["result"]
    rate = results["rate"]["result"]
    names = measured["figures"]
    best = names["best"]
    points = sorted(
        (figure_of_step["step"], figure_of_step["fid"], figure_of_step["samples"])
        for name, figure_of_step in names.items()
        if "step " in name
    )
    chosen = next(
        figure_of_step
        for name, figure_of_step in names.items()
        if name != "best"
        and figure_of_step["step"] == best["step"]
        and (figure_of_step["width"], figure_of_step["scale"]) == (best["width"], best["scale"])
    )
    points.append((chosen["step"], chosen["fid"], chosen["samples"]))
    minutes = lambda step: step / rate["steps_per_second"] / 60
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(
        [minutes(step) for step, _, _ in points],
        [fid for _, fid, _ in points],
        "o-",
        color="#1f5fa8",
        label=f"FID of {points[0][2]:,} samples",
    )
    axes.plot(
        [minutes(best["step"])],
        [best["fid"]],
        "D",
        color="#c2410c",
        label=f"FID of {best['samples']:,} samples: {best['fid']:.2f}",
    )
    axes.set(
        xlabel="minutes of training",
        ylabel="FID, EDM protocol",
        yscale="log",
        xlim=(0, None),
        title=f"CIFAR-10, average of width {best['width']}, guidance {best['scale']}, {best['nfe']} evaluations",
    )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
