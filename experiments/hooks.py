"""What a run does beside its steps: the evaluation in the loop, with pictures of what it made."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.data import sources
from experiments import examples, figures, generate, resolve
from experiments.measures import evaluate_samples

FOLLOWED = 5  # samples, of different classes, whose way from noise to image is shown


def previews(folder: pathlib.Path, step: int) -> dict[str, pathlib.Path]:
    """The pictures that the evaluation of a step has left: "samples", and "trajectory", the way of some of them."""
    return {name: path for name, path in _places(folder, step).items() if path.exists()}


def _places(folder, step):
    place = folder / "previews"
    return {"samples": place / f"{step}.png", "trajectory": place / "trajectories" / f"{step}.png"}


def evaluation(
    config: ConfigDict, spec: sources.DataSpec, folder: pathlib.Path, mesh: Mesh
) -> Callable[[Any, int], dict[str, float | None]]:
    """What happens every config.evaluate.every steps: (params, step) -> {figure: number}, and pictures, see `previews`.

    All processes call it: the samples are made on the mesh, from the parameters as they lie there. Process 0 alone
    then compares them with real images; the others get no figures.

    Samples are compared with the dataset's validation split, so that choices made while training leave the test split
    alone; a dataset that has none is read at config.evaluate.split.
    """
    split = "validation"
    try:
        sources.describe(config.data.name, split, config.data.dir, examples.varied(config))
    except ValueError:
        split = config.evaluate.split
    make = generate.generator(config, spec.shape, mesh)
    labels = generate.balanced_labels(config.evaluate.number, config.model.get("num_classes", 0))
    seeds = generate.seeds(config, config.evaluate.number)
    shown = np.unique(labels, return_index=True)[1][:FOLLOWED]
    plan = resolve.plan(config)
    times = np.append(plan.t, plan.s[-1])

    def evaluate(params, step):
        images = make.images(params, labels, seeds)
        x, x0 = make.trajectory(params, labels[shown], seeds[shown])
        if jax.process_index():
            return {}
        paths = _places(folder, step)
        figures.sample_grid(images, labels, paths["samples"])
        figures.trajectory(x, x0, times, labels[shown], paths["trajectory"])
        found = evaluate_samples(images, labels, config, split)
        return {name: float(f"{x:.8g}") if np.isfinite(x) else None for name, x in found.items()}

    return evaluate
