"""The evaluation during training, with pictures of samples."""

import functools
import json
import pathlib
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion.experiments.evaluation import held_out, plots, real_images
from diffusion.experiments.evaluation.sample_metrics import evaluate_samples
from diffusion.experiments.sampling import generate
from diffusion.recipe import ConfigError, data
from diffusion.recipe.recipe import Recipe
from diffusion.training.runtime import agreement
from diffusion.training.runtime.preemption import StopRequest

PATIENCE = 60.0  # seconds that a process whose samples failed waits for the others, which may wait for it
FOLLOWED = 5  # samples, of different classes, whose way from noise to image is shown
Evaluation = Callable[[Any, int, StopRequest], dict[str, float | None]]  # (params, step, stop) -> {figure: number}
T = TypeVar("T")


class EvaluationFailed(RuntimeError):
    """An evaluation ended in an error, on all processes of the run; the state is as it was."""


class Samples(NamedTuple):
    """The samples of an evaluation, and the trajectories of some of them.

    Attributes:
        images: the samples [N, ...].
        trajectory: result of `Generator.trajectory`; None where the samples are no pictures, or their steps not shown.
        times: the times [steps + 1] of the plan.
    """

    images: np.ndarray
    trajectory: tuple[np.ndarray, np.ndarray] | None
    times: np.ndarray


def previews(folder: pathlib.Path, step: int) -> dict[str, pathlib.Path]:
    """The pictures that the evaluation of a step has left: "samples", and "trajectory", the steps of some of them."""
    return {name: path for name, path in _files(folder, step).items() if path.exists()}


def _files(folder, step):
    pictures = folder / "previews"
    return {"samples": pictures / f"{step}.png", "trajectory": pictures / "trajectories" / f"{step}.png"}


def evaluation(recipe: Recipe, folder: pathlib.Path, mesh: Mesh) -> Evaluation:
    """The evaluation every config.evaluate.every steps: (params, step, stop) -> {figure: number}, and `previews`.

    All processes call it. They generate the samples together on the mesh, from the parameters there. Then process 0
    compares the samples with real images, and all processes receive its figures.

    It raises `preemption.Interrupted` soon after a request to stop, between two batches of samples or anywhere in the
    comparison on process 0, and `EvaluationFailed` for any error except a mistake in the config.

    Samples are compared with the dataset's validation split, so that choices during training do not depend on the test
    split; without a validation split, config.evaluate.split is used. A recipe with Python's data has its own held-out
    records. A stream is represented by the first records of a pass, at most `real_images.STREAMED`.
    """
    config = recipe.config
    splits = None
    if recipe.data is None:
        split = held_out.split_in_the_loop(config)
    else:
        real_images.require_held_out(recipe)
        split = ""
        splits = functools.cache(lambda: real_images.read_splits(recipe))
    fixed = None if recipe.sampling.chosen_plan or recipe.schedule.trained else generate.generator(recipe, mesh)
    conditions = generate.conditions_of(recipe, config.evaluate.number)
    labels = generate.classes_of(recipe, conditions)
    seeds = generate.seeds(config, config.evaluate.number)
    names = data.class_names(recipe)
    shown = np.unique(labels, return_index=True)[1][:FOLLOWED] if recipe.examples.num_classes else np.arange(1)
    followed = jax.tree.map(lambda leaf: leaf[shown], conditions)

    def samples(params: Any, stop: StopRequest) -> Samples:
        trained = recipe if fixed else generate.trained(recipe, params)
        make = fixed or generate.generator(trained, mesh)
        images = generate.checked_images(make, config, params, conditions, seeds, lambda done: stop.check())
        follow = make.trajectory if recipe.makes_pictures else None
        trajectory = follow and follow(params, followed, seeds[shown])
        return Samples(images, trajectory, trained.sampling.plan.grid)

    def compare(drawn: Samples, step: int) -> dict[str, float | None]:
        images = drawn.images
        paths = _files(folder, step)
        if recipe.makes_pictures:
            plots.sample_grid(images, labels, paths["samples"], classes=names)
        if drawn.trajectory is not None:
            plots.trajectory(*drawn.trajectory, drawn.times, labels[shown], paths["trajectory"], classes=names)
        elif recipe.examples.shape == (2,):
            plots.scatter(images, labels, paths["samples"], names)
        figures = evaluate_samples(images, labels, config, split, splits and splits())
        return {name: float(f"{x:.8g}") if np.isfinite(x) else None for name, x in figures.items()}

    def evaluate(params, step, stop):
        drawn, why = _attempt(lambda: samples(params, stop))
        whys = agreement.gather("samples", why, PATIENCE if why else float("inf"))
        if drawn is None or any(whys):
            stop.align()
            raise EvaluationFailed(next(filter(None, whys)))
        with stop.interrupting():
            figures, why = _attempt(lambda: compare(drawn, step)) if jax.process_index() == 0 else ({}, "")
            figures, why = json.loads(agreement.gather("figures", json.dumps([figures, why]))[0])
        if why:
            raise EvaluationFailed(why)
        return figures

    return evaluate


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """(result of the work, ""), or (None, what failed and where)."""
    try:
        return work(), ""
    except held_out.Overlap as error:  # seen by their content alone, when they were read
        return None, str(error)
    except ConfigError:
        raise
    except Exception as error:  # a metric, a disk or a device: whatever it is, the training needs none of it
        line = (str(error).strip().splitlines() or [""])[0]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"{type(error).__name__}: {line} ({pathlib.Path(frame.filename).name}, line {frame.lineno})"
