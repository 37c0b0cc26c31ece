"""Real images that samples are compared with: a split of a run's dataset, or captioned images of a named one."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.data import buckets, captions, own_records, pipeline, sources
from diffusion.experiments.config import ConfigError
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.config.resolve import varied


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]`, labels int64 `[N]` (zeros without classes), the split's description, captions."""

    images: np.ndarray
    labels: np.ndarray
    spec: sources.DataSpec
    captions: tuple[str, ...] = ()


def split_of(config: Mapping, split: str) -> Split:
    """Images of a split of the run's dataset, read once.

    Raises:
        ConfigError: if the dataset or the split is not there.
    """
    data = config["data"]
    try:
        return _read_split(data["name"], split, data["dir"], data["damaged"], varied(config))
    except sources.DamagedRecord:
        raise  # no mistake in the config
    except ValueError as error:
        how = ""
        if data["latents"]["dir"]:
            how = (
                f" The samples of a run on latents are measured by --samples=RUN/samples.npz --reference="
                f"{data['name']}@{data['split']} --size=SIDE --protocol=adm, without --workdir."
            )
        raise ConfigError(f"config.data, config.evaluate.split: {error}{how}") from error


def of_recipe(recipe: Recipe) -> tuple[Split, Split]:
    """The images that a run was trained on, and those that its samples are compared with.

    Raises:
        ConfigError: if they are not there.
        ValueError: if the recipe has records of its own that are no pictures, or none that are held out.
    """
    if recipe.data is None:
        return split_of(recipe.config, recipe.config.data.split), split_of(recipe.config, recipe.config.evaluate.split)
    if recipe.entry != "image":
        raise ValueError(
            f"evaluate measures pictures, and the recipe's records hold arrays of shape {recipe.shape}. Valid: records "
            'with "image"; for other samples a metric of your own, e.g. by diffusion.metrics.frechet of the arrays'
        )
    if recipe.held_out is None:
        raise ValueError("samples are measured beside pictures that are held out. Valid: Recipe(held_out=records)")
    return _of_records(recipe.data, "train", recipe), _of_records(recipe.held_out, "held out", recipe)


def _of_records(own: Sequence[Mapping], split: str, recipe: Recipe) -> Split:
    spec = own_records.describe(own, recipe.num_classes, split)
    labels = np.array([record.get("label", 0) for record in own], np.int64)
    return Split(np.stack([record["image"] for record in own]), labels, spec)


@functools.lru_cache(maxsize=4)
def _read_split(name: str, split: str, data_dir: str, damaged: str, sizes: tuple[int, ...]) -> Split:
    source, spec = sources.open_source(name, split, data_dir, varied=sizes)
    images = np.empty((spec.size, *spec.shape), np.uint8)
    labels = np.zeros(spec.size, np.int64)
    count = 0
    for start in range(0, spec.size, 1000):
        rows = range(start, min(start + 1000, spec.size))
        for record in pipeline.sound(source, rows) if damaged == "skip" else source.__getitems__(rows):
            if record is not None:
                images[count] = buckets.fit(record["image"], sizes)[0] if sizes else record["image"]  # the middle
                labels[count] = record.get("label", 0)
                count += 1
    return Split(images[:count], labels[:count], spec)


def captioned(data: str, data_dir: str = "", number: int = 0) -> Split:
    """Images of a dataset with their captions.

    Args:
        data: NAME@SPLIT.
        data_dir: folder of prepared datasets; TFDS_DATA_DIR by default.
        number: of the first images; 0 for all.

    Raises:
        ConfigError: if they are not there, or captions are empty.
    """
    name, at, part = data.rpartition("@")
    if not at:
        raise ConfigError(f"{data} is no dataset with its split. Valid: NAME@SPLIT, e.g. noto_emoji@train.")
    try:
        source, spec = sources.open_source(name, part, data_dir)
        texts = captions.texts_of(name, part, data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{data}: {error}") from error
    count = min(number or spec.size, spec.size)
    images = np.stack([record["image"] for record in source.__getitems__(range(count))])
    return Split(images, np.zeros(count, np.int64), spec, tuple(texts[:count]))


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """Row numbers `[N]` so that the classes take turns, each in the order of its rows."""
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return np.lexsort((labels, turn))
