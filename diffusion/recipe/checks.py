"""Checks of a config: its fields must fit each other, the data, and the files that they name."""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax

from diffusion.arrays import pytrees
from diffusion.data import series_masks, sources
from diffusion.io.leaf_names import leaves_of
from diffusion.models import facts
from diffusion.recipe import (
    data,
    deprecated_fields,
    fields,
    fits,
    names,
    picture_sizes,
    resolve,
    settings_checks,
    symbol_runs,
)
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import blamed_on, built_in_python, plain, refused, wrappers


def validate(config: Mapping) -> Recipe:
    """The recipe that a config describes; refuses one that cannot run, before anything is read or compiled.

    Raises:
        ConfigError: naming the first field at fault, its value and what is valid.
    """
    config = deprecated_fields.warned(config)
    fields.check(config)
    resolver = resolve.Resolver(config)
    recipe = Recipe(config=config, **resolver.arguments(config["data"]["shape"]))
    fits.check(recipe)
    symbol_runs.check(recipe)
    settings_checks.check(recipe, lambda: _check_base(recipe))
    _check_buckets(resolver)
    return recipe


def with_data(recipe: Recipe, spec: Any) -> Recipe:
    """The recipe for the examples of a dataset, by its `DataSpec`.

    Raises:
        ConfigError: if they do not fit.
    """
    config = recipe.config
    name = spec.name
    if config["data"]["shape"] is not None and tuple(config["data"]["shape"]) != spec.shape:
        raise refused(config, "data.shape", f"{name} holds examples of {spec.shape}", "that, or None")
    if pytrees.is_shape(spec.shape) and not facts.takes_rank(recipe.network, spec.shape):
        valid = ", ".join(n for n, other in sorted(names.MODELS.items()) if facts.takes_rank(other, spec.shape))
        raise refused(config, "model.name", f"{name} holds examples of {spec.shape}", valid)
    if not pytrees.is_shape(spec.shape) and not facts.takes_pytrees(recipe.network):
        why = f"the examples of {name} are pytrees of {', '.join(leaves_of(spec.shape, pytrees.is_shape))}"
        valid = "a network of your own, which takes the pytree; docs/pytrees.md has one"
        raise refused(config, "model.name", why, valid)
    _check_symbols(recipe, spec)
    if recipe.objective.examples.pairs and not spec.pairs:
        why = f"the objective compares two examples of a pair, and {name} holds pairs without a preference, or none"
        valid = '{"name": "preferences", "of": (source of the preferred examples, source of the rejected ones)}'
        raise refused(config, "data.source", why, valid)
    classes = spec.num_classes
    if recipe.examples.num_classes not in (0, classes):
        valid = f"{classes}, or 0 for an unconditional model" if classes else "0"
        raise refused(config, "model.num_classes", f"{name} has {classes} classes", valid)
    if "classifier" in config["evaluate"]["features"] and not classes:
        valid = ", ".join(sorted(names.FEATURES.keys() - {"classifier"}))
        raise refused(config, "evaluate.features", f"{name} has no classes to train a classifier on", valid)
    if spec.condition is not None and recipe.examples.num_classes and not spec.has_class:
        why = f"{name} has a condition without the class, and a network receives one condition"
        valid = '0, or the column of the class as an entry of the condition, ("label", ...)'
        raise refused(config, "model.num_classes", why, valid)
    _check_hidden(config)
    on_data = recipe.on(spec)
    _check_condition(on_data, spec)
    return on_data


def _check_symbols(recipe: Recipe, spec: sources.DataSpec) -> None:
    """Refuses data that are no symbols for an objective of symbols, the reverse, and another vocabulary."""
    process = recipe.objective.process
    symbols = spec.dtype == "int32"
    with blamed_on(recipe.config, "objective.name", "data.source"):
        if symbols != (process is not None):
            raise ValueError(
                f"{spec.name} holds symbols, but the objective is for numbers. Valid: e.g. masked_diffusion"
                if symbols
                else f"{spec.name} holds {spec.dtype}, but the objective is for symbols. Valid: data of signed integers"
            )
    if not symbols or not spec.vocabulary:
        return
    number = len(spec.vocabulary)
    needed = number if process.mask is None else number + 1
    with blamed_on(recipe.config, "objective.process"):
        if process.size != needed:
            what = f"{number} symbols" if needed == number else f"{number} symbols, and the mask is one more"
            raise ValueError(
                f"the process has {process.size} symbols, but {spec.name} has {what}. Valid: size = {needed}"
            )


def _check_hidden(config: Mapping) -> None:
    """Refuses series that hide only missing values: nobody knows the hidden values."""
    hide = plain(config["data"]["source"]).get("hide")
    if isinstance(hide, Mapping) and names.HIDINGS.get(hide.get("name")) is series_masks.missing:
        why = "what is missing has no values to learn from"
        raise refused(config, "data.source.hide", why, f"with the name {hidings_of_known_values()}")


def hidings_of_known_values() -> str:
    """The names of `config.data.source.hide` that hide values which the data have."""
    return ", ".join(sorted(name for name, hiding in names.HIDINGS.items() if hiding is not series_masks.missing))


def on_its_data(recipe: Recipe) -> Recipe:
    """The recipe of a config for the examples of its data; of a dataset of TFDS and a cache nothing is opened.

    Raises:
        ConfigError: if the data are not there.
    """
    config = recipe.config
    shape = data.known_shape(config)
    spec = None if data.is_tfds(config) else data.source(config, config["data"]["split"]).spec
    if shape is None:
        recipe = recipe.on(spec or data.source(config, config["data"]["split"]).spec)
    elif spec is None or spec.condition is None:
        recipe = recipe.at(shape)
    else:  # latents have the conditions of what they are of
        recipe = recipe.on(spec._replace(shape=shape)).with_parts(dtype=recipe.examples.dtype)
    fits.check_frames(recipe)
    fits.check_measured(recipe)
    return recipe


def _check_condition(recipe: Recipe, spec: Any) -> None:
    """Refuses a network that does not receive what the records have as their condition, or that needs another."""
    config = recipe.config
    recipe.check_null()
    if not built_in_python(config) and hasattr(recipe.network, "vector_width") and not recipe.receives_text:
        vector = spec.condition.get("vector") if isinstance(spec.condition, Mapping) else spec.condition
        width = vector.shape[0] if isinstance(vector, sources.Leaf) and len(vector.shape) == 1 else 0
        if recipe.network.vector_width != width:
            has = f"a condition of {width} numbers" if width else "no condition that is a vector"
            raise refused(config, "model.vector_width", f"{spec.name} has {has}", str(width))
    if not built_in_python(config) and hasattr(recipe.network, "given"):
        part = isinstance(spec.condition, Mapping) and "given" in spec.condition
        if recipe.network.given != part:
            has = "a series of which a part is given" if part else "nothing that is given of a series"
            raise refused(config, "model.given", f"{spec.name} has {has} in its condition", str(part))
    if recipe.objective.condition.augmentations and spec.masks:
        why = f"it would move the examples of {spec.name}, and not the picture that is their condition"
        raise refused(config, wrappers(config), why, "no augmentation there; config.data.augment moves both")
    if config["data"]["buckets"]["area"] and spec.masks:
        why = f"{spec.name} has pictures as conditions, which are not cut as the examples are"
        raise refused(config, "data.buckets.area", why, "0")


def _check_base(recipe: Recipe) -> None:
    """Refuses what the folder of a base says beside it."""
    config = recipe.config
    named = config["tuning"].get("name")
    if not config["base"]["path"]:
        return
    if recipe.companions.tuned is None:
        why = "config.base names a model, and nothing to teach it"
        raise refused(config, "tuning.name", why, ", ".join(sorted(names.TUNINGS)))
    base, tuning = recipe.companions.tuned.base, recipe.companions.tuned.tuning
    for section in ("schedule", "parameterization", "model"):
        if plain(config[section]) != plain(defaults()[section]):
            raise refused(config, section, "the folder of config.base says it", "the default")
    alone = {
        "evaluate.every": (0, "a run that tunes a model makes no samples of classes"),
        "data.buckets.area": (0, "the pictures are encoded in one size"),
        "data.text.tokenizer": ("", "the model has its own"),
        "data.text.dir": ("", "the model's own text encoders read the captions when the run begins"),
        "teacher.path": ("", "the base is the teacher"),
        "encoder.network.name": ("", "no encoder sees latents"),
        "perceptual.network.name": ("", "latents are compared as they are"),
        "train.dtype": ("float32", "config.base.dtype is that of its computations"),
        "train.products": ("dtype", "config.base.dtype is that of its computations"),
        "data.damaged": ("stop", "the pictures are encoded before the training"),
    }
    for field, (valid, why) in alone.items():
        *sections, last = field.split(".")
        section = functools.reduce(operator.getitem, sections, plain(config))
        if section.get(last, valid) != valid:
            raise refused(config, field, why, repr(valid))
    if plain(config["data"]["augment"]) not in ((), ({"name": "flip"},)):
        valid = '(), or ({"name": "flip"},)'
        raise refused(config, "data.augment", "latents of the pictures are kept", valid)
    more = (*tuning.reads, *tuning.sees)
    prior = recipe.objective.beside.prior
    if recipe.objective.condition.augmentations:
        raise refused(config, "objective.wrappers", "latents are not moved", "no augmentation there")
    if prior and more:
        why = f"pictures that the base makes have no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.wrappers", why, "no prior_preservation there")
    if recipe.objective.beside.prompts and more:
        why = f"its prompts have no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.name", why, "'denoising', or a tuning that reads text alone")
    teaches = recipe.objective.teacher
    if teaches is None and config["teacher"]["scale"] != 1:
        raise refused(config, "teacher.scale", "config.objective learns from no teacher", "1")
    if teaches is not None and more:
        why = f"the base, which teaches, sees no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.name", why, "'denoising', or a tuning that reads text alone")
    if teaches is not None and teaches.stages is not None:
        why = "each of its stages is taught by the one before, and the base stays as it is"
        raise refused(config, "objective.name", why, "an objective without stages, e.g. 'consistency_distillation'")
    second = recipe.objective.second
    if second is not None and (second.logit or prior):
        why = "the second player is further new weights beside the base, and neither judges nor keeps a class"
        raise refused(config, "second_player.objective.name", why, "fake_score, without prior_preservation")
    if recipe.objective.beside.prompts and prior:
        why = "config.objective compares predictions for its own prompts, and keeps no class"
        raise refused(config, "objective.wrappers", why, "no prior_preservation there")
    if prior and recipe.objective.density and jax.tree.leaves(recipe.objective.density.init()):
        why = "it adapts to the losses of its times, and those of the class, at other times, are added to them"
        raise refused(config, "objective.density", why, "a density that does not adapt, or no prior_preservation")
    if base.model.sees_mask and "mask" not in tuning.reads:
        why = f"{config['base']['path']} was trained to inpaint, and this tuning reads no masks"
        raise refused(config, "tuning.name", why, "another base, or a tuning that reads them")
    edits = base.model.kind.several
    if base.model.sees_picture or (edits is not None and edits.needed):
        why = f"{config['base']['path']} was trained to edit pictures, which no tuning reads beside x_t"
        raise refused(config, "tuning.name", why, "the model that it was made from as the base")


def _check_buckets(resolver: resolve.Resolver) -> None:
    config = resolver.config
    data = config["data"]
    shape = data["shape"]
    sizes = picture_sizes.sizes(config)
    if not sizes:
        return
    if data["latents"]["dir"]:
        why = f"config.data.latents.dir = {data['latents']['dir']!r} holds latents of one size"
        raise refused(config, "data.buckets.area", why, "0, or pictures")
    if data["damaged"] == "skip":
        raise refused(config, "data.damaged", "in config.data.buckets a damaged picture has no size", '"stop"')
    if facts.one_size(names.MODELS[config["model"]["name"]]):
        others = ", ".join(name for name, other in sorted(names.MODELS.items()) if not facts.one_size(other))
        why = f"config.model.name = {config['model']['name']!r} learns the positions of one size"
        raise refused(config, "data.buckets.area", why, f"0, or a model out of {others}")
    if shape is None or len(shape) != 3 or tuple(shape[:2]) not in sizes:
        valid = f"(height, width, channels) of a size out of {', '.join(f'{h} x {w}' for h, w in sizes)}"
        raise refused(config, "data.shape", "config.data.buckets needs the shape of the samples", valid)
    for size in sizes:  # patches and halvings
        resolver.model((*size, shape[-1]))
