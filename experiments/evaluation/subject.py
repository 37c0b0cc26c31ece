"""The run that a metric measures: its config, its samples, and its real examples."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.arrays import pytrees
from diffusion.experiments.evaluation import held_out
from diffusion.experiments.evaluation.real_images import Split
from diffusion.recipe import checks, data, guidance_entry
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import from_json, to_json


class Subject(NamedTuple):
    """The run that is measured, and its samples.

    Attributes:
        config: the run's config.
        workdir: the run folder.
        images: the samples, uint8 `[N, H, W, C]` for pictures.
        labels: the classes that were requested, int `[N]`.
        train: the split that the model was trained on.
        real: the split that the model was not trained on.
        built: the recipe that Python built, which its config cannot rebuild; None if the config names every part.
    """

    config: Mapping
    workdir: pathlib.Path
    images: np.ndarray
    labels: np.ndarray
    train: Split
    real: Split
    built: Recipe | None = None


def recipe_of_run(subject: Subject) -> Recipe:
    """The recipe of the run, for the shape of its real examples."""
    if subject.built is not None:
        return subject.built
    spec = subject.real.spec
    if pytrees.is_shape(spec.shape):
        return Recipe.from_config(subject.config, subject.real.images.shape[1:])
    return checks.with_data(checks.validate(subject.config), spec)


def has_classes(subject: Subject) -> bool:
    """Whether the model has classes; if not, the labels of its samples are zeros, even if the data have classes."""
    if subject.built is not None:
        return bool(subject.built.examples.num_classes)
    return bool(subject.config["model"].get("num_classes", 0))


def held_out_source(subject: Subject) -> Any:
    """The source of the real examples that the model was not trained on."""
    if subject.built is not None:
        return held_out.open_held_out(subject.built)
    return data.source(subject.config, subject.config["evaluate"]["split"])


def training_source(subject: Subject) -> Any:
    """The source of the examples that the model was trained on."""
    if subject.built is not None:
        return data.open_recipe(subject.built)
    return data.source(subject.config, subject.config["data"]["split"])


def unguided(subject: Subject) -> Recipe:
    """The recipe of the run without guidance, guides, cache and merged tokens, which change the density of its flow."""
    config = from_json(to_json(subject.config if subject.built is None else subject.built.config))
    config.sample.guidance = {"name": "classifier_free", "scale": 1.0}
    config.sample.guides = ()
    config.sample.update({"cache": {"name": ""}, "merge": 0.0})
    if subject.built is None:
        return recipe_of_run(subject._replace(config=config))
    guidance = functools.partial(guidance_entry.guided, config, subject.built.schedule)
    plain = {"conditions": None, "depths": False, "guides": (), "cache": None, "merge": 0.0}
    return subject.built.with_parts(config=config, guidance=guidance, **plain)
