"""The real images for a comparison: a split of a run's dataset, or captioned images of a named dataset."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.arrays import pytrees
from diffusion.data import buckets, captions, packing, pipeline, shared_records, sources
from diffusion.data.sources import python_objects
from diffusion.data.sources.spec import class_of
from diffusion.data.sources.streams import Stream
from diffusion.recipe import ConfigError, data, picture_sizes
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import from_json, to_json

SEED = 0  # seed of rows that are drawn
STREAMED = 10_000  # the most records of a stream that are read as its split


class Split(NamedTuple):
    """Real examples that samples are compared with."""

    images: np.ndarray  # uint8 or float32 [N, ...]; of pytrees [N, D]
    labels: np.ndarray  # int64 [N], zeros without classes
    spec: sources.DataSpec
    captions: tuple[str, ...] = ()  # only `captioned` fills them
    conditions: Any = None  # a pytree of arrays [N, ...] if the examples are padded; it marks what is real
    stored: shared_records.Known = None  # identities of the records in their dataset


def split_of(config: Mapping, split: str) -> Split:
    """The examples of a split of the run's dataset; the last four splits stay in memory."""
    settings = config["data"]
    try:
        return _read_split(to_json(settings), split)
    except sources.DamagedRecord:
        raise  # no mistake in the config
    except ValueError as error:
        how = ""
        if settings["latents"]["dir"]:
            how = (
                " The samples of a run on latents are measured without --workdir: diffusion evaluate "
                f"--samples=RUN/samples.npz --reference={settings['name']}@{settings['split']} --size=SIDE "
                "--protocol=adm --inception=FILE --out=FILE.json."
            )
        raise ConfigError(f"config.data, config.evaluate.split: {error}{how}") from error


def splits_of(config: Mapping) -> tuple[Split, Split]:
    """(the examples that a run is trained on, the examples that its samples are compared with)."""
    return split_of(config, config["data"]["split"]), split_of(config, config["evaluate"]["split"])


def read_splits(recipe: Recipe) -> tuple[Split, Split]:
    """The splits of a recipe, as `splits_of` returns them; a recipe may bring its own records.

    Raises:
        ValueError: if none are held out.
    """
    if recipe.data is None:
        return splits_of(recipe.config)
    require_held_out(recipe)
    sizes: tuple[int, int] | tuple[()] = ()
    if recipe.config.data.buckets.area:
        height, width, *_ = recipe.examples.shape
        sizes = height, width
    split_of_own = lambda records, split: _read(
        python_objects.source_of(records, recipe.examples.num_classes, split), "stop", sizes
    )
    return split_of_own(recipe.data, "train"), split_of_own(recipe.held_out, "held out")


def require_held_out(recipe: Recipe) -> None:
    """Refuses a recipe with its own records if they cannot be compared with samples.

    Raises:
        ValueError: if none are held out, or the data can be read only once.
    """
    if recipe.held_out is None:
        raise ValueError(
            "samples are compared with held-out examples, but the recipe has none. Valid: Recipe(held_out=records)"
        )
    if isinstance(recipe.data, Stream):
        recipe.data.require_repeatable("a function that returns an iterator, or records that can be indexed")


@functools.lru_cache(maxsize=4)
def _read_split(text: str, split: str) -> Split:
    """The split of a config's data; the fields arrive as JSON text, which can be the key of the cache."""
    settings = from_json(text)
    return _read(data.open_settings(settings, split), settings["damaged"], picture_sizes.varied(settings))


def _read(source: sources.Source | Stream, damaged: str, sizes: tuple[int, int] | tuple[()]) -> Split:
    spec = source.spec
    most = STREAMED if isinstance(source, Stream) else spec.size
    images = np.empty((most, *pytrees.packed_shape(spec.shape)), spec.dtype)
    labels = np.zeros(most, np.int64)
    padded = isinstance(spec.condition, Mapping) and "real" in spec.condition
    conditions = []
    count = 0
    for record in records(source, damaged == "skip"):
        example = record[spec.entry]
        # Pictures of several sizes are cropped to their middle.
        images[count] = buckets.fit(example, sizes)[0] if sizes else packing.pack(example, spec.shape)
        labels[count] = class_of(record)
        if padded:
            conditions.append({"condition": record["condition"]})
        count += 1
    stacked = pipeline.stacked_conditions(conditions)["condition"] if padded else None
    return Split(images[:count], labels[:count], spec, conditions=stacked, stored=shared_records.identify(source))


def records(source: sources.Source | Stream, skip: bool = False) -> Iterator[Mapping[str, Any]]:
    """All records of a source, or the first `STREAMED` of a stream; without damaged records if `skip`."""
    if isinstance(source, Stream):
        yield from source.records(STREAMED, skip)
        return
    for start in range(0, source.spec.size, 1000):
        rows = range(start, min(start + 1000, source.spec.size))
        for record in pipeline.sound(source, rows) if skip else pipeline.fetch(source, np.asarray(rows)):
            if record is not None:
                yield record


def captioned(text: str, data_dir: str = "", number: int = 0) -> Split:
    """Images of a dataset with their captions.

    Args:
        text: the dataset and its split, "NAME@SPLIT", or an entry of a source with its split.
        data_dir: folder of TFDS's datasets; "" for the default folder.
        number: number of images to read, the first ones of the split; 0 for all.
    """
    source = data.named(text, data_dir)
    spec = source.spec
    try:
        texts = captions.texts_of(source)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from error
    count = min(number or spec.size, spec.size)
    images = np.stack([record["image"] for record in pipeline.fetch(source, np.arange(count))])
    return Split(images, np.zeros(count, np.int64), spec, tuple(texts[:count]), stored=shared_records.identify(source))


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """Row numbers, int `[N]`, by which the classes take turns; each class stays in the order of its rows."""
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return np.lexsort((labels, turn))


def drawn_rows(number: int, most: int) -> np.ndarray:
    """At most `most` of the rows 0..number-1, int64 `[min(number, most)]`, drawn without replacement, in random order.

    The first ones would be no sample of the data where records are in the order of their class, time or name.
    """
    return np.random.default_rng(SEED).permutation(number)[:most]
