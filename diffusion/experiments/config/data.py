"""The data of a config: the source that `config.data.source` names, at a split."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.data import latent_cache, sources
from diffusion.data.sources import sequences
from diffusion.experiments.config import ConfigError, names, resolve
from diffusion.experiments.config.entries import call
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.config.values import plain


def source(config: Mapping, split: str) -> sources.Source:
    """Opens the data of a config at a split.

    Raises:
        ConfigError: for a mistake in config.data.source, or data that are not there.
        DamagedRecord: if no record is sound.
    """
    data = config["data"]

    def opened(spec: Any, path: str) -> Any:
        if isinstance(spec, (tuple, list)):  # those of a mixture
            return tuple(opened(each, f"{path}[{i}]") for i, each in enumerate(spec))
        return call(
            names.SOURCES,
            spec,
            path,
            "source",
            nested={
                "of": opened,
                "by": lambda entry, path: call(names.FILTERS, entry, path, "filter"),
                "parse": lambda entry, path: call(names.PARSERS, entry, path, "parser"),
            },
            dataset=data["name"],
            folder=data["dir"],
            split=split,
            varied=resolve.varied(config),
        )

    try:
        return opened(data["source"], "config.data.source")
    except FileNotFoundError as error:
        raise ConfigError(f"config.data.source: {error}") from error


def of_recipe(recipe: Recipe) -> sources.Source:
    """The records of a recipe: its own, or those of its config at config.data.split.

    Raises:
        ConfigError, DamagedRecord: as `source`.
    """
    if recipe.data is not None:
        return sequences.source_of(recipe.data, recipe.num_classes)
    return source(recipe.config, recipe.config["data"]["split"])


@contextlib.contextmanager
def named(data: str) -> Iterator[tuple[str, str]]:
    """The name and the split in `--data=NAME@SPLIT`; what a block that reads them lacks becomes an error of the flag.

    Raises:
        ConfigError: where there is no split, and for a `FileNotFoundError` or `ValueError` of the block.
    """
    name, at, split = data.rpartition("@")
    if not at:
        raise ConfigError(f"--data={data} is no dataset with its split. Valid: NAME@SPLIT, e.g. cifar10@train.")
    try:
        yield name, split
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--data={data}: {error}") from error


def is_tfds(config: Mapping) -> bool:
    """Whether the data are a dataset of TFDS, which `config.data.name` names."""
    return plain(config["data"]["source"]).get("name") == "tfds"


def known_shape(config: Mapping) -> tuple[int, ...] | None:
    """The shape of one example of a dataset of TFDS or a cache, which are not opened; None for other sources."""
    data = config["data"]
    if data["latents"]["dir"]:
        return data["shape"] or latent_cache.describe(data["latents"]["dir"]).shape
    if is_tfds(config) and not plain(data["source"]).get("side"):
        return data["shape"] or sources.shape(data["name"], data["split"], data["dir"])
    return None
