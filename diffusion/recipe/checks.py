"""Checks of a config: its fields must fit each other, the data, and the files that they name."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax

from diffusion.arrays import pytrees
from diffusion.data import series_masks, sources
from diffusion.io.leaf_names import leaves_of
from diffusion.models import facts
from diffusion.recipe import data, deprecated_fields, fields, fits, names, picture_sizes, settings_checks, symbol_runs
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import blamed_on, built_in_python, plain, refused, value_at, wrappers


def validate(config: Mapping) -> Recipe:
    """The recipe that a config describes; refuses one that cannot run, before anything is read or compiled.

    Raises:
        ConfigError: naming the first field at fault, its value and what is valid.
    """
    config = deprecated_fields.warned(config)
    fields.check(config)
    recipe = Recipe.from_config(config, config["data"]["shape"])
    fits.check(recipe)
    symbol_runs.check(recipe)
    _check_base(recipe)
    settings_checks.check(recipe)
    _check_buckets(recipe)
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
        same = lambda other: facts.takes_symbols(other) == (spec.dtype == "int32")
        valid = ", ".join(n for n, m in sorted(names.MODELS.items()) if same(m) and facts.takes_rank(m, spec.shape))
        raise refused(config, "model.name", f"{name} holds examples of {spec.shape}", valid)
    if not pytrees.is_shape(spec.shape) and not facts.takes_pytrees(recipe.network):
        why = f"the examples of {name} are pytrees of {', '.join(leaves_of(spec.shape, pytrees.is_shape))}"
        valid = "your own network for this pytree, as in docs/pytrees.md"
        raise refused(config, "model.name", why, valid)
    _check_symbols(recipe, spec)
    if recipe.objective.examples.pairs and not spec.pairs:
        why = f"the objective needs pairs with a preference, and {name} has none"
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
        why = f"{name} has a condition that does not contain the class, and a network receives only one condition"
        valid = '0, or the column of the class as an entry of the condition, ("label", ...)'
        raise refused(config, "model.num_classes", why, valid)
    _check_hidden(config)
    on_data = recipe.on(spec)
    _check_condition(on_data, spec)
    fits.check_examples(on_data)
    return on_data


def _check_symbols(recipe: Recipe, spec: sources.DataSpec) -> None:
    """Refuses numbers for an objective of symbols, symbols for one of numbers, and a vocabulary of another size."""
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
            what = f"{number} symbols" if needed == number else f"{number} symbols, and the mask is a further symbol"
            raise ValueError(
                f"the process has {process.size} symbols, but {spec.name} has {what}. Valid: size = {needed}"
            )


def _check_hidden(config: Mapping) -> None:
    """Refuses series that hide only missing values: nobody knows the hidden values."""
    hide = plain(config["data"]["source"]).get("hide")
    if isinstance(hide, Mapping) and names.HIDINGS.get(hide.get("name")) is series_masks.missing:
        why = "missing values cannot be used for training"
        raise refused(config, "data.source.hide", why, f"with the name {hidings_of_known_values()}")


def hidings_of_known_values() -> str:
    """The names of `config.data.source.hide` that hide values which the data have."""
    return ", ".join(sorted(name for name, hiding in names.HIDINGS.items() if hiding is not series_masks.missing))


def on_its_data(recipe: Recipe) -> Recipe:
    """The recipe of a config for the examples of its data; a dataset of TFDS and a cache are not opened.

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
    else:  # latents have the conditions of their pictures
        recipe = recipe.on(spec._replace(shape=shape)).with_parts(dtype=recipe.examples.dtype)
    fits.check_examples(recipe)
    return recipe


def _check_condition(recipe: Recipe, spec: Any) -> None:
    """Refuses a network that does not receive the condition of the records, or that needs another condition."""
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
            has = "a series with a given part" if part else "no given part of a series"
            raise refused(config, "model.given", f"{spec.name} has {has} in its condition", str(part))
    if recipe.objective.condition.augmentations and spec.masks:
        why = f"it would transform the examples of {spec.name}, but not the pictures in their condition"
        raise refused(
            config, wrappers(config), why, "no augmentation in the wrappers; config.data.augment transforms both"
        )
    if config["data"]["buckets"]["area"] and spec.masks:
        why = f"{spec.name} has pictures as conditions, which are not cropped together with the examples"
        raise refused(config, "data.buckets.area", why, "0")


def _check_base(recipe: Recipe) -> None:
    """Refuses settings that the base model's folder states, and settings that do not fit the base model."""
    config = recipe.config
    if not config["base"]["path"]:
        return
    if recipe.companions.tuned is None:
        why = "config.base names a model, but config.tuning names no tuning"
        raise refused(config, "tuning.name", why, ", ".join(sorted(names.TUNINGS)))
    base, tuning = recipe.companions.tuned.base, recipe.companions.tuned.tuning
    for section in ("schedule", "parameterization", "model"):
        if plain(config[section]) != plain(defaults()[section]):
            raise refused(config, section, "it comes from the folder of config.base", "the default")
    alone = {
        "evaluate.every": (0, "a run that tunes a model has no classes to sample"),
        "data.buckets.area": (0, "the pictures are encoded in one size"),
        "data.text.tokenizer": ("", "the model has its own tokenizer"),
        "data.text.dir": ("", "the model's text encoders encode the captions when the run begins"),
        "teacher.path": ("", "the base is the teacher"),
        "encoder.network.name": ("", "an encoder cannot read latents"),
        "perceptual.network.name": ("", "latents are compared without a network"),
        "train.dtype": ("float32", "config.base.dtype sets the type of the computations"),
        "train.products": ("dtype", "config.base.dtype sets the type of the computations"),
        "data.damaged": ("stop", "the pictures are encoded before training starts"),
    }
    for field, (valid, why) in alone.items():
        section, _, last = field.rpartition(".")
        if value_at(plain(config), section).get(last, valid) != valid:
            raise refused(config, field, why, repr(valid))
    if plain(config["data"]["augment"]) not in ((), ({"name": "flip"},)):
        valid = '(), or ({"name": "flip"},)'
        raise refused(config, "data.augment", "the latents of the pictures are cached", valid)
    side = plain(config["data"]["source"]).get("side")
    if side and base.model.kind.video is None and side != base.model.side:
        warnings.warn(
            f"config.data.source.side = {side}, but {base.path} was trained on pictures of {base.model.side} x "
            f"{base.model.side}; its own size is --config.data.source.side={base.model.side}",
            stacklevel=2,
        )
    _check_objective_of_tuning(recipe, tuning)
    if base.model.sees_mask and "mask" not in tuning.reads:
        why = f"{config['base']['path']} was trained to inpaint, and this tuning reads no masks"
        raise refused(config, "tuning.name", why, "another base, or a tuning that reads them")
    edits = base.model.kind.pictures.several
    if base.model.sees_picture or (edits is not None and edits.needed):
        why = f"{config['base']['path']} was trained to edit pictures, which no tuning passes to it"
        raise refused(config, "tuning.name", why, "the text-to-image model from which it was trained")


def _check_objective_of_tuning(recipe: Recipe, tuning: Any) -> None:
    """Refuses an objective whose teacher, prompts or prior pictures lack what the tuning of a base reads."""
    config = recipe.config
    named = config["tuning"].get("name")
    more = (*tuning.reads, *tuning.sees)
    prior = recipe.objective.beside.prior
    if recipe.objective.condition.augmentations:
        raise refused(
            config, "objective.wrappers", "cached latents cannot be augmented", "no augmentation in the wrappers"
        )
    if prior and more:
        why = f"pictures from the base model have no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.wrappers", why, "no prior_preservation in the wrappers")
    if recipe.objective.beside.prompts and more:
        why = f"its prompts have no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.name", why, "'denoising', or a tuning that reads only text")
    teaches = recipe.objective.teacher
    if teaches is None and config["teacher"]["scale"] != 1:
        raise refused(config, "teacher.scale", "config.objective learns from no teacher", "1")
    if teaches is not None and more:
        why = f"the base model, the teacher, reads no {', '.join(more)}, which config.tuning.name = {named!r} reads"
        raise refused(config, "objective.name", why, "'denoising', or a tuning that reads only text")
    if teaches is not None and teaches.stages is not None:
        why = "the student of each stage becomes the next teacher, but here the base model always stays the teacher"
        raise refused(config, "objective.name", why, "an objective without stages, e.g. 'consistency_distillation'")
    second = recipe.objective.second
    if second is not None and (second.logit or prior):
        why = "the second player is a tuning of the base model, without a logit and without prior preservation"
        raise refused(config, "second_player.objective.name", why, "fake_score, without prior_preservation")
    if recipe.objective.beside.prompts and prior:
        why = "config.objective uses only its own prompts, which leaves no place for the class that should be preserved"
        raise refused(config, "objective.wrappers", why, "no prior_preservation in the wrappers")
    if prior and recipe.objective.density and jax.tree.leaves(recipe.objective.density.init()):
        why = "it adapts to the loss at each time, and prior preservation adds losses at other times"
        raise refused(config, "objective.density", why, "a density that does not adapt, or no prior_preservation")


def _check_buckets(recipe: Recipe) -> None:
    """Refuses pictures of several sizes where the data or the network support only one."""
    config = recipe.config
    data = config["data"]
    shape = data["shape"]
    sizes = picture_sizes.sizes(config)
    if not sizes:
        return
    if data["latents"]["dir"]:
        why = f"config.data.latents.dir = {data['latents']['dir']!r} holds latents of one size"
        raise refused(config, "data.buckets.area", why, "0, or pictures")
    if data["damaged"] == "skip":
        raise refused(
            config,
            "data.damaged",
            "config.data.buckets must know the size of each picture, which a damaged one does not have",
            '"stop"',
        )
    if facts.one_size(recipe.network):
        others = ", ".join(name for name, other in sorted(names.MODELS.items()) if not facts.one_size(other))
        why = f"config.model.name = {config['model']['name']!r} learns positions for only one size"
        raise refused(config, "data.buckets.area", why, f"0, or one of the models {others}")
    if shape is None or len(shape) != 3 or tuple(shape[:2]) not in sizes:
        valid = f"(height, width, channels) with one of the sizes {', '.join(f'{h} x {w}' for h, w in sizes)}"
        raise refused(config, "data.shape", "config.data.buckets needs the shape of samples", valid)
    for size in sizes:  # refuses a side that the network cannot divide into patches or halve
        recipe.at((*size, shape[-1]))
