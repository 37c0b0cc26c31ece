"""The training examples of a run: records of a dataset, such as pictures of one or several sizes, or cached latents."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion.arrays import pytrees
from diffusion.data import buckets, captions, feature_cache, latent_cache, pipeline, sources
from diffusion.data.sources import process_records, python_objects
from diffusion.data.sources.streams import Stream
from diffusion.data.stream_batches import StreamBatches
from diffusion.data.transforms import Augmentation
from diffusion.experiments.evaluation import held_out
from diffusion.experiments.run.caption_metadata import with_metadata
from diffusion.experiments.run.conditioned_latents import Beside
from diffusion.experiments.sampling import autoencoder_folders, encoder_features
from diffusion.manifolds import Manifold
from diffusion.models import facts
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError, data, extensions, null_condition, picture_sizes, symbol_runs
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain
from diffusion.training.runtime import agreement

CHECKED = 256  # the number of records that are checked to lie on the manifold
NAMED = 10  # the most names of classes that the start of a run prints


class Examples(NamedTuple):
    """The examples of a run: a source, its description, augmentations and buckets.

    Attributes:
        source: the source of the records.
        spec: the description of the records.
        augment: the augmentations of each example, in order.
        sizes: (height, width) of each bucket; () if all pictures have one size.
        bucket: the bucket of each picture, int [N], in 0..len(sizes) - 1.
        where: the folder that holds the records.
        stored: the examples from which batches are read before `complete` changes them; None without `complete`.
        complete: a function from a batch of `stored` to a batch of the run; None if batches are used as they are read.
        beside: a description of what the batches hold besides the examples, which the start of a run prints; "" if
            they hold nothing else.
    """

    source: sources.Source | Stream
    spec: sources.DataSpec
    augment: tuple[Augmentation, ...]
    sizes: tuple[buckets.Size, ...] = ()
    bucket: Sequence[int] | np.ndarray = ()
    where: str = ""
    stored: "Examples | None" = None
    complete: Callable[[pipeline.Batch], pipeline.Batch] | None = None
    beside: str = ""

    def __str__(self) -> str:
        """One line for the start of a run: the kind, the number and the place of the examples."""
        shape = str(self.spec.shape)
        if pytrees.is_shape(self.spec.shape):
            shape = " x ".join(map(str, self.spec.shape))
            if len(self.spec.shape) == 1:
                shape += " number each" if self.spec.shape == (1,) else " numbers each"
        classes = self.spec.num_classes
        kind = "pictures" if self.spec.pictures else "examples"
        if isinstance(self.source, latent_cache.Latents):
            kind = "latents"
        elif isinstance(self.source, feature_cache.Featured):
            kind = "latents with features of an encoder"
        sizes = f"{len(self.sizes)} sizes near {shape}" if self.sizes else shape
        numbers = tuple(map(str, range(classes)))
        names = () if self.spec.classes == numbers else self.spec.classes  # numbers as names say nothing more
        listed = f" ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})" if names else ""
        classes_text = f" of {classes} class{'es' if classes > 1 else ''}{listed}" if classes else ""
        named = " ".join(filter(None, (self.spec.name, self.spec.version)))
        shapes = jax.tree.map(_form, self.spec.condition, is_leaf=lambda node: isinstance(node, sources.Leaf))
        condition = f", with a condition {shapes}" if self.spec.condition is not None else ""
        number = "a stream of" if isinstance(self.source, Stream) else f"{self.spec.size:,}"
        what = f"{number} {kind}{classes_text}, {sizes}{condition}"
        return f"{named} ({self.spec.split}): {what}, in {self.where}{self.beside}"

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the source, and how opacity is resized, which earlier versions did in another way."""
        opacity = {"opacity": "multiplied"} if self.sizes and self.spec.pictures and self.spec.shape[-1] == 4 else {}
        return self.source.fingerprint() | opacity

    def batches(
        self,
        config: Mapping,
        start: int,
        positions: Sequence[int] | np.ndarray,
        threads: int,
        state: Mapping | None = None,
        order: int = pipeline.ORDER,
    ) -> pipeline.Batches:
        """The batches of a run, in the form of `pipeline.batches`.

        With buckets, the images [b, h, w, C] of a batch have the size of its bucket. The entry "size" is left out,
        since no network that a config can name receives it.

        Args:
            config: the config of the run.
            start: the global index of the first example, a multiple of the batch size.
            positions: the rows of every global batch that this process reads, int [b].
            threads: the number of threads that read.
            state: the state of a stream, from the run's checkpoint; None at the beginning.
            order: the version of the order of records, see `pipeline.records_at`.
        """
        if self.stored is not None and self.complete is not None:
            return _completed(self.complete, self.stored.batches(config, start, positions, threads, state, order))
        seed = config["seed"]
        batch_size = config["train"]["batch_size"]
        damaged = config["data"]["damaged"]
        place = {"seed": seed, "batch_size": batch_size, "start": start}
        reading = {"positions": positions, "augment": self.augment, "threads": threads}
        if isinstance(self.source, Stream):
            try:
                return StreamBatches(self.source, state=state, damaged=damaged, **place, **reading)
            except ValueError as error:
                raise ConfigError(f"config.data: {error}") from error
        if self.sizes:
            turns = buckets.Order.from_buckets(np.asarray(self.bucket), len(self.sizes), batch_size, seed)
            step = start // batch_size
            return buckets.batches(self.source, turns, self.sizes, start=step, with_sizes=False, **reading)
        return pipeline.batches(self.source, self.spec, damaged=damaged, order=order, **place, **reading)


def _completed(
    complete: Callable[[pipeline.Batch], pipeline.Batch], batches: pipeline.Batches
) -> Generator[pipeline.Batch, None, None]:
    """Applies `complete` to each batch, and closes the batches at the end."""
    with contextlib.closing(batches):
        yield from map(complete, batches)


def _form(leaf: sources.Leaf) -> str:
    return f"{leaf.dtype} {' x '.join(map(str, leaf.shape)) or 'number'}"


def open_examples(recipe: Recipe) -> Examples:
    """Opens the recipe's records, or the data that its config names.

    Raises:
        ConfigError: if the data are missing, or if a cache holds latents of other pictures or another autoencoder.
        DamagedRecord: if a record that is read at once is damaged.
    """
    config = recipe.config
    settings = config["data"]
    if recipe.data is not None:
        if settings["processes"]:
            raise _no_processes(settings, "the records come from Python")
        return _source_examples(recipe, data.open_recipe(recipe))
    folder = settings["latents"]["dir"]
    try:
        if not folder:
            return _source_examples(recipe, _by_processes(config, data.source(config, settings["split"])))
        if settings["processes"]:
            raise _no_processes(settings, "latents need no decoding")
        cache, spec = latent_cache.open_cache(folder)
        required = settings["latents"]["autoencoder"]
        autoencoder = autoencoder_folders.load(required).record if required else None
        name = data.name_of(config)
        latent_cache.require(cache.description, name, settings["split"], autoencoder, where=folder)
        source = cache
        if recipe.companions.encoder is not None:
            features = feature_cache.open_beside(folder, cache.description)
            encoder_features.require(features.description, recipe.companions.encoder, folder)
            source = feature_cache.Featured(cache, features)
        pictures = functools.cache(lambda: _pictures_of(folder, data.source(config, settings["split"])))
        if not (data.is_tfds(config) or recipe.receives_text or recipe.companions.encoder):
            if (made_of := pictures()).spec.condition is not None:
                source = Beside(cache, made_of)
                spec = source.spec
        captioned = _with_texts(recipe, source, name, pictures)
        captioned = with_metadata(recipe, captioned, lambda: captions.texts_of(pictures()))
        return Examples(captioned, spec, (cache.draw,), where=folder)
    except (sources.DamagedRecord, ConfigError):
        raise  # a damaged record is no mistake in the config
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.data: {error}") from error


def _pictures_of(folder: str, source: sources.Source) -> sources.Source:
    """The source of a cache's pictures, whose captions and conditions are read beside the latents.

    Raises:
        CacheError: if the latents were made from other records.
    """
    latent_cache.require_same_records(folder, source)
    return source


def open_held_out(recipe: Recipe, seed: int, batch_size: int) -> tuple[Examples, ConfigDict]:
    """Opens held-out records, in the form and with the augmentations of the records that a recipe trains on.

    Args:
        recipe: the recipe of the run; one with its own records has `held_out` records too.
        seed: the seed of the order and of the augmentations.
        batch_size: the number of examples of a batch.

    Returns:
        The examples, and the config that `Examples.batches` takes for them.

    Raises:
        ConfigError, DamagedRecord: as `open_examples`.
    """
    config = recipe.config.copy_and_resolve_references()
    config.update({"seed": seed, "train": {"batch_size": batch_size}, "data": {"processes": 0}})
    if recipe.data is not None:
        source = python_objects.source_of(recipe.held_out, recipe.examples.num_classes, "held out")
        return _source_examples(recipe, source), config
    config.data.latents.dir = config.evaluate.loss.latents
    cached = config.data.latents.dir and latent_cache.describe(config.data.latents.dir)
    config.data.split = cached.dataset["split"] if cached else held_out.split_in_the_loop(recipe.config)
    return open_examples(dataclasses.replace(recipe, config=config)), config


def _by_processes(config: ConfigDict, source: sources.Source | Stream) -> sources.Source | Stream:
    """The records of a config's source, read by worker processes if the config asks for them."""
    settings = plain(config["data"])
    if not settings["processes"]:
        return source
    if isinstance(source, Stream):
        raise _no_processes(settings, f"{source.spec.name} is a stream")
    reopen = functools.partial(data.reopen, settings, settings["split"], config["seed"], tuple(extensions.loaded))
    return process_records.ProcessRecords(source, reopen, settings["processes"])


def _no_processes(settings: Mapping, why: str) -> ConfigError:
    """The error for worker processes, which do not read such data."""
    return ConfigError(f"config.data.processes = {settings['processes']}, but {why}. Valid: 0")


def _source_examples(recipe: Recipe, source: sources.Source | Stream) -> Examples:
    """The examples of a source of records, in the buckets of `config.data.buckets`."""
    spec = source.spec
    settings = recipe.config["data"]
    augmentations = recipe.training.augmentations
    if isinstance(recipe.objective.reads, Moves):
        check_points(recipe.objective.reads, source)
        augmentations = (*augmentations, _requiring(functools.partial(_off_manifold, recipe.objective.reads.manifold)))
    if recipe.objective.process is not None:
        symbol_runs.check_records(recipe.objective.process, source)
        augmentations = (*augmentations, _requiring(functools.partial(symbol_runs.outside, recipe.objective.process)))
    if isinstance(source, Stream):
        _check_stream(recipe, source)
    sizes = picture_sizes.sizes(recipe.config)
    if sizes and not (spec.pictures and hasattr(source, "sizes")):
        raise ConfigError(
            f"config.data.buckets.area = {settings['buckets']['area']}, but {spec.name} does not know the sizes of "
            "its pictures. Valid: 0, or a source of pictures with sizes(rows) -> int [n, 2] and stamp()"
        )
    bucket = buckets.nearest(buckets.measured_once(source, settings["threads"]), sizes) if sizes else ()
    captioned = _with_texts(recipe, source, spec.name)
    records: Any = source  # a stream is refused before its captions are read
    captioned = with_metadata(recipe, captioned, lambda: captions.texts_of(records))
    return Examples(captioned, spec, augmentations, sizes, bucket, source.where)


def check_points(reads: Moves, source: sources.Source | Stream) -> None:
    """Refuses data or draws of the prior that lie off the manifold, such as angles in degrees.

    They are checked here because a compiled program cannot raise an error.

    Args:
        reads: the kind of motion that the objective reads.
        source: the source; some of its records are read, of a stream the first ones.

    Raises:
        ConfigError: for a point off the manifold; the message names the farthest one.
    """
    if isinstance(source, Stream):
        records = [source.decode(raw) for raw in source.first]
    else:
        records = [source[row] for row in np.unique(np.linspace(0, len(source) - 1, CHECKED).astype(int)).tolist()]
    for what, points in (
        ("config.data", np.stack([record[source.spec.entry] for record in records])),
        ("config.objective.prior", reads.prior.sample(jax.random.split(jax.random.key(0), 4))),
    ):
        try:
            reads.manifold.check(points)
        except ValueError as error:
            raise ConfigError(f"{what}: {error}") from error


def _requiring(wrong: Callable[[np.ndarray], str]) -> Augmentation:
    """An augmentation that changes nothing, but refuses wrong examples, e.g. -1 or zeros in place of a missing value.

    Only some records are checked before a run, and a compiled program cannot raise an error.

    Args:
        wrong: a function from examples `[b, ...]` to what is wrong with them, in words; "" for valid examples.
    """

    def checked_batch(rngs: Iterable[np.random.Generator], x: np.ndarray) -> np.ndarray:
        if words := wrong(x):
            raise sources.DamagedRecord(f"an example of the training has {words}. Correct or remove it.")
        return x

    def checked(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        return checked_batch((rng,), x)

    checked.of_batch = checked_batch  # type: ignore[attr-defined]
    return checked


def _off_manifold(manifold: Manifold, x: np.ndarray) -> str:
    """The point of examples that lies off a manifold, in words; "" if none does."""
    try:
        manifold.check(x)
    except ValueError as error:
        return f"a point off the manifold: {error}"
    return ""


def _check_stream(recipe: Recipe, stream: Stream) -> None:
    """Refuses a stream if the run needs random access to records.

    Raises:
        ConfigError: names what the run needs.
    """
    inputs = facts.text_inputs(recipe.network)
    needs = {
        "the outputs of a text encoder, which config.data.text.dir stores by the numbers of records": (
            inputs is not None and inputs.form == "embeddings"
        ),
        "the sizes of all pictures (config.data.buckets)": recipe.config["data"]["buckets"]["area"],
        "pairs of noise and sample, which are stored by the numbers of records": recipe.companions.teacher
        and recipe.companions.teacher.pairs,
        "the same records on all of its processes, which this stream does not repeat": (
            stream.resume == "anew" and jax.process_count() > 1
        ),
    }
    for need, needed in needs.items():
        if needed:
            raise ConfigError(f"{stream.name} is a stream, but this run needs {need}. Valid: data with random access.")


def require_same(config: Mapping, before: Mapping | None, now: Mapping) -> None:
    """Refuses other examples than the run has been trained on; every process of the run calls it.

    Args:
        config: the config of the run.
        before: the fingerprint in the run's checkpoint; None if an earlier version wrote it.
        now: the fingerprint of the source.

    Raises:
        ConfigError: if the fingerprints differ, unless config.data.changed = "accept", or if a process has other data;
            the message names the difference or the process.
    """
    everywhere = [json.loads(text) for text in agreement.gather("data", json.dumps(now))]
    if other := [str(i) for i, theirs in enumerate(everywhere) if theirs != everywhere[0]]:
        what = _differing(everywhere[0], everywhere[int(other[0])])
        raise ConfigError(
            f"config.data: process {', '.join(other)} of this run reads other examples than process 0: {what}. Valid: "
            "the same data on every host."
        )
    if before is None or before == now or config["data"]["changed"] == "accept":
        return
    read = {"viewed": True, None: False}
    back = (
        f"Read the pictures as before by --config.data.viewed={read[before.get('pixels')]} (in Python by the source's "
        "argument viewed)"
        if before.get("pixels") != now.get("pixels")
        else "Put the old examples back"
    )
    raise ConfigError(
        f"config.data: these are not the examples that the run has been trained on: {_differing(before, now)}. {back}, "
        "or continue with these by --config.data.changed=accept; the beginning of the run can then not be repeated."
    )


def _differing(before: Mapping, now: Mapping) -> str:
    """The entries of two fingerprints that differ, in words."""
    words = {
        "records": "number of records",
        "bytes": "bytes of the files",
        "sha256": "digest of sampled records",
        "conditions": "digest of their conditions",
        "prior": "digest of the pictures of the class",
        "features": "digest of sampled features",
        "encoder": "digest of the encoder's weights",
        "pixels": "pixels of the pictures",
        "opacity": "resizing of their opacity",
    }
    return "; ".join(
        f"{words.get(key, key)} {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )


def _with_texts(
    recipe: Recipe, source: sources.Source | Stream, name: str, captioned: Callable[[], sources.Source] | None = None
) -> sources.Source | Stream:
    """The source with the network's inputs from each record's caption, if the network receives text.

    Args:
        recipe: the recipe of the run.
        source: the source of the examples.
        name: the name of the data.
        captioned: a function that opens the source of the captions, for a network that receives their tokens; None if
            the source of the examples has them.
    """
    inputs = facts.text_inputs(recipe.network)
    if inputs is None:
        return source
    settings = recipe.config["data"]
    folder = settings["text"][null_condition.TEXT_FOLDERS[inputs.form]]
    if isinstance(source, Stream):
        return captions.tokenized_stream(source, folder, inputs.entries)
    if inputs.form == "embeddings":
        captions.require(folder, name, settings["split"], len(source))
        if captioned is None and not source.spec.version:  # the version of a dataset determines its captions
            captions.require_same_texts(folder, source)
        if captioned is not None:
            captions.require_order_of_latents(folder, settings["latents"]["dir"])
        table = captions.read(folder)
    else:
        table = captions.tokens(captions.texts_of(captioned() if captioned else source), folder)
    return captions.Captioned(source, table._replace(entries={name: table.entries[name] for name in inputs.entries}))
