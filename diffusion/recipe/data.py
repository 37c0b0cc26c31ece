"""The data of a config: one split of the source that `config.data.source` names."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.data import latent_cache, sources
from diffusion.data.sources import python_objects
from diffusion.data.sources.streams import Stream
from diffusion.io import limits
from diffusion.recipe import extensions, kinds, names, picture_sizes
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import call
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain


def source(config: Mapping, split: str) -> sources.Source:
    """Opens the data of a config at a split.

    Raises:
        ConfigError: for a mistake in config.data.source, or data that do not exist.
        DamagedRecord: if no record is sound.
    """
    return open_settings(config["data"], split, config["seed"])


def open_settings(settings: Mapping, split: str, seed: int = 0) -> sources.Source:
    """Opens the data that config.data names, at a split.

    Args:
        settings: the section config.data.
        split: the split's name.
        seed: the seed of a stream's order; an evaluation reads the stream in the same order in every run.

    Raises:
        ConfigError, DamagedRecord: as `source`.
    """
    varied = picture_sizes.varied(settings)
    return _opened(
        settings["source"], split, settings["name"], settings["dir"], varied, seed, settings.get("viewed", True)
    )


def reopen(settings: Mapping, split: str, seed: int, extended: Sequence[str]) -> sources.Source:
    """Opens the data of `open_settings` in another process, which first runs the user's code, see `extensions`."""
    for name in extended:
        extensions.extend(name)
    return open_settings(settings, split, seed)


def _opened(
    entry: Any,
    split: str,
    name: str = "",
    folder: str = "",
    varied: tuple[int, ...] = (),
    seed: int = 0,
    viewed: bool = True,
) -> sources.Source:
    def opened(spec: Any, path: str) -> Any:
        if isinstance(spec, (tuple, list)):  # the specs of a mixture
            return tuple(opened(part, f"{path}[{i}]") for i, part in enumerate(spec))
        records = call(
            names.SOURCES,
            spec,
            path,
            "source",
            nested={
                "of": opened,
                "by": lambda entry, path: kinds.build("filter", entry, path),
                "control": lambda entry, path: kinds.build("control", entry, path),
                "hide": lambda entry, path: None if entry is None else kinds.build("part that is hidden", entry, path),
                "form": lambda entry, path: kinds.build("form", entry, path),
                "parse": lambda entry, path: kinds.build("parser", entry, path),
            },
            dataset=name,
            folder=folder,
            split=split,
            varied=varied,
            seed=seed,
            viewed=viewed,
        )
        if not hasattr(records, "spec"):
            raise ConfigError(
                f"{path}.name = {spec['name']!r} returns {limits.kind(records)}. Valid: a function that returns a "
                "source, e.g. sources.sequences.Records(records, num_classes, split); see docs/data.md#your-own-format."
            )
        return records

    try:
        return opened(entry, "config.data.source")
    except FileNotFoundError as error:
        raise ConfigError(f"config.data.source: {error}") from error


def open_recipe(recipe: Recipe) -> sources.Source | Stream:
    """The records of a recipe: those that Python gave it, or those that its config names at config.data.split.

    Raises:
        ConfigError, DamagedRecord: as `source`.
    """
    if recipe.data is not None:
        return python_objects.source_of(recipe.data, recipe.examples.num_classes)
    return source(recipe.config, recipe.config["data"]["split"])


def named(data: str | sources.Source, folder: str = "", side: int = 0) -> sources.Source:
    """Opens the data that a flag --data names; an open source is returned unchanged.

    Args:
        data: NAME@SPLIT for a dataset of TFDS; ENTRY@SPLIT, where ENTRY is a value of `config.data.source` in JSON; or
            an open source.
        folder: the folder of datasets that TFDS has prepared.
        side: the side of the squares to cut, for a dataset of TFDS with pictures of any size; 0 for none.

    Raises:
        ConfigError: if `data` has another form, or names data that do not exist; or for a side without a dataset of
            TFDS.
        DamagedRecord: if no record is sound.
    """
    if side and (not isinstance(data, str) or data.startswith("{")):
        text = data if isinstance(data, str) else type(data).__name__
        raise ConfigError(
            f"--size={side} is for datasets of TFDS, but --data={text} is a source with arguments of its own. Valid: "
            f'"side": {side} among these'
        )
    if not isinstance(data, str):
        return data
    name, at, split = data.rpartition("@")
    if not at:
        raise ConfigError(
            f'--data={data} is not a dataset with its split. Valid: NAME@SPLIT, e.g. cifar10@train, or \'{{"name": '
            '"picture_folder", "path": FOLDER}@train\'.'
        )
    try:
        if not name.startswith("{"):
            return sources.open_source(name, split, folder, side)[0]
        return _opened(json.loads(name), split)
    except (sources.DamagedRecord, ConfigError):
        raise
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--data={data}: {error}") from error


def name_of(config: Mapping) -> str:
    """The name of a config's data: `config.data.name` for TFDS, otherwise the name of their source."""
    return config["data"]["name"] if is_tfds(config) else source(config, config["data"]["split"]).spec.name


def is_tfds(config: Mapping) -> bool:
    """Whether the data are a dataset of TFDS, which `config.data.name` names."""
    return plain(config["data"]["source"]).get("name") == "tfds"


def known_shape(config: Mapping) -> tuple[int, ...] | None:
    """The shape of one example, read without opening the data; None if this is not possible.

    It is possible for a cache of latents, and for a dataset of TFDS whose pictures are not cut.
    """
    data = config["data"]
    if data["latents"]["dir"]:
        return data["shape"] or latent_cache.describe(data["latents"]["dir"]).shape
    if is_tfds(config) and not plain(data["source"]).get("side"):
        return data["shape"] or sources.shape(data["name"], data["split"], data["dir"])
    return None


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """The names of a recipe's classes, by their numbers; () if they have no names, or the data do not exist."""
    if not recipe.examples.num_classes:
        return ()
    try:
        return open_recipe(recipe).spec.classes
    except (ConfigError, sources.DamagedRecord):
        return ()
