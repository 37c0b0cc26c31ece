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

PATIENCE = 60.0  # seconds that a process whose samples failed waits for the others, which may be waiting for it
FOLLOWED = 5  # the most samples, of different classes, whose trajectories from noise to image are shown
Evaluation = Callable[[Any, int, StopRequest], dict[str, float | None]]  # (params, step, stop) -> {figure: number}
T = TypeVar("T")


class EvaluationFailed(RuntimeError):
    """An evaluation ended in an error, on all processes of the run; the state of the run has not changed."""


class Samples(NamedTuple):
    """The samples of an evaluation, and the trajectories of some of them.

    Attributes:
        images: the samples [N, ...].
        trajectory: the result of `Generator.trajectory`; None for samples without one.
        times: the times of the plan, [steps + 1].
    """

    images: np.ndarray
    trajectory: tuple[np.ndarray, np.ndarray] | None
    times: np.ndarray


def previews(folder: pathlib.Path, step: int) -> dict[str, pathlib.Path]:
    """The pictures that the evaluation of a step has written: "samples", and "trajectory" of some of them."""
    return {name: path for name, path in _files(folder, step).items() if path.exists()}


def _files(folder, step):
    pictures = folder / "previews"
    return {"samples": pictures / f"{step}.png", "trajectory": pictures / "trajectories" / f"{step}.png"}


def evaluation(recipe: Recipe, folder: pathlib.Path, mesh: Mesh) -> Evaluation:
    """The evaluation during training: a function (params, step, stop) -> {figure: number}; it also writes `previews`.

    All processes call the function. They generate the samples together on the mesh. Then process 0 compares the samples
    with real images, and all processes receive its figures. Soon after a request to stop, the function raises
    `preemption.Interrupted`: between two batches of samples, or anywhere in the comparison on process 0. For any error
    except a mistake in the config it raises `EvaluationFailed`.

    Samples are compared with the validation split of the dataset, so that choices during training do not depend on the
    test split. If there is no held-out validation split, they are compared with config.evaluate.split. A recipe with
    its own records has its own held-out records. Of a stream, the first `real_images.STREAMED` records of a pass are
    used.

    Args:
        recipe: the recipe of the run.
        folder: the run folder.
        mesh: the mesh of the run.
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
    """(the result of the work, ""); (None, the error and its place) if it failed."""
    try:
        return work(), ""
    except held_out.Overlap as error:  # found only now, by the contents of the records
        return None, str(error)
    except ConfigError:
        raise
    except Exception as error:  # of a metric, a disk or a device; the training can go on without it
        line = (str(error).strip().splitlines() or [""])[0]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"{type(error).__name__}: {line} ({pathlib.Path(frame.filename).name}, line {frame.lineno})"
