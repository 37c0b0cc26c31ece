"""The examples of a run that tunes a model: pictures with captions, which the networks of the base encode once.

    WORKDIR/latents   latents of the pictures, in the form of diffusion encode
    WORKDIR/captions  outputs of the text encoders for the captions, or tokens, in the form of diffusion encode_text
    WORKDIR/seen      latents of controls, and features of image prompts

The run writes these files when it begins, and reads them when it continues.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.adapters.tuning import Tuning
from diffusion.data import captions, latent_cache, pipeline, sources
from diffusion.data.sources.preference_pairs import Rejected
from diffusion.data.sources.streams import Stream
from diffusion.experiments.run import caption_metadata, encoded_pictures
from diffusion.experiments.run.conditioned_latents import Beside, every_record
from diffusion.experiments.run.examples import Examples
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.models.autoencoders import latent_space
from diffusion.recipe import ConfigError, data
from diffusion.recipe.base import CAPTIONED, Base, TunedNetwork
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain
from diffusion.text_to_image import check_words
from diffusion.training.runtime import agreement, progress

REJECTED = "latents_of_rejected"  # the folder inside the run folder for latents of rejected pictures
BATCH = 8  # pictures, or captions, that are encoded at once


def tuned_network(recipe: Recipe) -> TunedNetwork:
    """The model that a run tunes, with its tuning."""
    tuned = recipe.companions.tuned
    assert tuned is not None
    return tuned


@every_record()
def pictures(recipe: Recipe) -> Examples:
    """The pictures of a run; their description already describes the encoded records.

    An encoded record has latents, and the network's inputs from a caption.

    Raises:
        ConfigError: if the data are not pictures with captions, or their sides do not fit the model.
    """
    source = data.open_recipe(recipe)
    spec = source.spec
    tuned = tuned_network(recipe)
    base, tuning = tuned.base, tuned.tuning
    model = base.model
    if isinstance(source, Stream):
        raise ConfigError(
            f"{spec.name} is a stream, but config.base needs pictures with random access to encode them. Valid: files."
        )
    if not spec.pictures:
        raise ConfigError(f"config.data: {spec.name} holds examples of {spec.shape} {spec.dtype}. Valid: pictures.")
    height, width, _ = spec.shape
    if height % model.multiple or width % model.multiple:
        raise ConfigError(
            f"config.data: {spec.name} has pictures of {height} x {width}, a size that the model of config.base.path "
            f"= {base.path!r} does not support. Valid: sides that are multiples of {model.multiple}, e.g. "
            f"config.data.source.side = {model.side}."
        )
    texts = _texts(recipe, source)
    try:
        check_words(tuning.base, texts)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error
    if spec.pairs and recipe.config["data"]["latents"]["dir"]:
        raise ConfigError(
            f"config.data.latents.dir = {recipe.config['data']['latents']['dir']!r}: {spec.name} has two pictures in "
            "each record, but a cache holds the latents of one. Valid: '', so that the run encodes both."
        )
    for word in tuning.base.words:
        if not any(word.lower() in text.lower() for text in texts):
            raise ConfigError(
                f"config.tuning teaches the word {word!r}, but no caption contains it, e.g. {texts[0][:60]!r}. Valid: "
                f"captions with the word, config.data.text.prompt = 'a photo of {word}'"
            )
    native = _data_entries(tuned, spec)
    if _moves(tuning) and recipe.config["data"]["augment"]:
        raise ConfigError(
            f"config.data.augment = {recipe.config['data']['augment']}: latents of mirrored pictures are stored, but "
            f"not their mirrored {', '.join(_moves(tuning))}. Valid: ()."
        )
    factor = model.modules["vae"].factor
    leaves = {name: sources.Leaf(tuple(shape), "float32") for name, shape in tuning.sees.items()}
    latents = spec._replace(
        shape=(height // factor, width // factor, model.channels),
        dtype="float32",
        num_classes=0,
        classes=(),
        condition={**native, **leaves, **tuned.text()},
    )
    return Examples(source, latents, (), where=source.where)


@every_record()
def encoded(recipe: Recipe, workdir: str | pathlib.Path, examples: Examples) -> tuple[Recipe, Examples]:
    """Encodes the pictures and captions that are not encoded yet; every process of a run calls it.

    Args:
        recipe: the recipe of the run.
        workdir: the run folder, which stores the results.
        examples: the pictures of the run.

    Returns:
        (the recipe, whose base has the null condition; the examples).

    Raises:
        ConfigError: if the caches in the folder, or the cache that the config names, belong to other pictures.
    """
    tuned = tuned_network(recipe)
    base, tuning = tuned.base, tuned.tuning
    source = examples.source
    assert not isinstance(source, Stream)  # `pictures` refuses one
    folder = pathlib.Path(workdir)
    settings = recipe.config["data"]
    cache = settings["latents"]["dir"] or str(folder / "latents")
    rejected = None
    try:
        if not settings["latents"]["dir"]:
            agreement.first(lambda: encode(recipe, source, cache))
        latents, _ = latent_cache.open_cache(cache)
        if source.spec.pairs:
            agreement.first(lambda: encode(recipe, Rejected(source), folder / REJECTED))
            rejected, _ = latent_cache.open_cache(folder / REJECTED)
        if settings["latents"]["dir"]:
            _require_same(base, latents.description, source, cache)
        texts = _texts(recipe, source)
        agreement.first(lambda: read(recipe, source.spec, texts, folder / "captions"))
        table = captions.read(folder / "captions")
        sights = _sights(recipe, examples.spec.shape, latents.description.autoencoder["sha256"])
        for name, sight in sights.items():
            place = folder / encoded_pictures.FOLDER / name
            make = functools.partial(encoded_pictures.write, sight, source, place, threads=settings["threads"])
            agreement.first(make)
    except (FileNotFoundError, latent_cache.CacheError) as error:
        raise ConfigError(f"config.data: {error}") from error
    if latents.description.shape != examples.spec.shape:
        raise ConfigError(
            f"config.data.latents.dir = {cache!r} holds latents of shape {latents.description.shape}, but the latents "
            f"of these pictures have the shape {examples.spec.shape}. Valid: latents of pictures of the same size."
        )
    if _moves(tuning) and len(latents.description.views) > 1:
        raise ConfigError(
            f"config.data.latents.dir = {cache!r} also holds latents of mirrored pictures, but not their mirrored "
            f"{', '.join(_moves(tuning))}. Valid: latents of the pictures alone, by diffusion encode without --flip."
        )
    null = {name: leaf for name, leaf in table.null.items() if name != CAPTIONED}
    records = latents if set(tuning.reads) <= set(tuning.latents) else Beside(latents, source)
    if rejected is not None:
        records = sources.preferences([latents, rejected])
    for name, sight in sights.items():
        records = encoded_pictures.Seen(records, name, sight, folder / encoded_pictures.FOLDER / name)
    try:
        records = caption_metadata.with_metadata(recipe, captions.Captioned(records, table), lambda: texts)
    except latent_cache.CacheError as error:
        raise ConfigError(f"config.data: {error}") from error
    known = TunedNetwork(dataclasses.replace(base, null=null), tuning)
    return recipe.with_parts(network=known, tuned=known), examples._replace(source=records, augment=(latents.draw,))


def prompted(recipe: Recipe, workdir: str | pathlib.Path, examples: Examples) -> Examples:
    """The examples; if the objective has prompts, each batch has their conditions as the entry "prompts".

    Every process of a run calls it.
    """
    prompts = recipe.objective.beside.prompts
    if not prompts:
        return examples
    folder = pathlib.Path(workdir) / "prompts"
    spec = examples.spec._replace(name="prompts", size=len(prompts))
    agreement.first(lambda: read(recipe, spec, list(prompts.values()), folder))
    table = captions.read(folder)
    conditions = {
        name: {entry: rows[row] for entry, rows in table.entries.items()} for name, row in zip(prompts, table.row)
    }
    return examples._replace(stored=examples, complete=functools.partial(_with_prompts, conditions))


def _with_prompts(conditions: Mapping[str, Mapping[str, np.ndarray]], batch: pipeline.Batch) -> pipeline.Batch:
    """A batch with the network's inputs from each prompt, {its name: {entry: [...]}}, for each example."""
    repeated = lambda leaf: np.repeat(leaf[None], len(batch["x"]), axis=0)
    return batch | {"prompts": jax.tree.map(repeated, dict(conditions))}


def _moves(tuning: Tuning) -> tuple[str, ...]:
    """The entries of a record, besides its latents, that are valid for its picture but not for the mirrored picture."""
    return (*tuning.reads, *tuning.sees)


def _require_same(base: Base, description: latent_cache.Description, source: sources.Source, where: str) -> None:
    """Refuses latents of other pictures or of another autoencoder, by the description of their cache.

    The version in the description is a digest of the examples if a run wrote the latents, and the version of the
    dataset if diffusion encode wrote them.

    Raises:
        CacheError: names what differs.
    """
    spec = source.spec
    latent_cache.require(description, spec.name, spec.split, _autoencoder(base).record, where)
    dataset = description.dataset
    valid = {"size": (spec.size,), "shape": (list(spec.shape),), "version": (spec.version, _content(source))}
    for field, values in valid.items():
        if dataset[field] not in values:
            raise latent_cache.CacheError(
                f"{where} holds latents of other examples: the {field} of the dataset is {dataset[field]!r} there, "
                f"but {values[-1]!r} here. Write the latents of these examples by diffusion encode into another "
                "folder."
            )
    latent_cache.require_same_records(where, source)


def _data_entries(tuned: TunedNetwork, spec: sources.DataSpec) -> dict[str, Any]:
    """The entries of the data's own condition that the tuning reads."""
    tuning, model = tuned.tuning, tuned.base.model
    reads = tuning.reads
    needed = (*reads, *filter(None, [tuning.sees_of]))
    there = spec.condition if isinstance(spec.condition, Mapping) else {}
    if missing := [name for name in needed if name not in there]:
        raise ConfigError(
            f"config.tuning reads {', '.join(missing)} from each record, but the condition of {spec.name} has "
            f"{', '.join(there) or 'no entries'}. Valid: config.data.source.condition = {tuple(needed)!r}, columns of "
            "the data."
        )
    if column := tuning.sees_of:
        shape, dtype = there[column].shape, there[column].dtype
        if dtype != "uint8" or len(shape) != 3 or shape[-1] != 3:
            raise ConfigError(
                f"config.tuning sees {column} of each record, which in {spec.name} is {dtype} {list(shape)}. Valid: "
                "pictures, uint8 [*, *, 3]."
            )
    latents = tuning.latents
    for name in latents:
        if there[name].shape != spec.shape or there[name].dtype != "uint8":
            raise ConfigError(
                f"config.tuning encodes {name} of each record by the autoencoder, which in {spec.name} is "
                f"{there[name].dtype} {list(there[name].shape)}. Valid: pictures, uint8 {list(spec.shape)}."
            )
    stored = there if set(reads) > set(latents) else latents
    factor = model.modules["vae"].factor
    encoded = sources.Leaf((spec.shape[0] // factor, spec.shape[1] // factor, model.channels), "float32")
    return {name: encoded if name in latents else there[name] for name in stored} if reads else {}


def _texts(recipe: Recipe, source: sources.Source) -> list[str]:
    """The caption of each picture, which is config.data.text.prompt for all if it is set."""
    prompt = recipe.config["data"]["text"]["prompt"]
    if prompt:
        return [prompt] * len(source)
    try:
        return captions.texts_of(source)
    except ValueError as error:
        raise ConfigError(
            f"config.data: {error} Or use one caption for all pictures: config.data.text.prompt = 'a photo of ...'"
        ) from error


def _autoencoder(base: Base) -> autoencoder_folders.Autoencoder:
    return autoencoder_folders.load(pathlib.Path(base.path).expanduser() / "vae")


def _sights(recipe: Recipe, latent: tuple[int, ...], autoencoder: str) -> dict[str, encoded_pictures.Sight]:
    """{name: entry} for the entries that the run computes from pictures, besides their latents.

    Args:
        recipe: the recipe of the run.
        latent: the shape of the latents of a picture.
        autoencoder: the sha256 of the autoencoder's weights.
    """
    tuned = tuned_network(recipe)
    base, tuning = tuned.base, tuned.tuning
    # These settings change the pictures. The path is left out, since the files may move.
    settings = plain(recipe.config["data"]["source"])
    dataset = {"source": {name: value for name, value in settings.items() if name != "path"}}
    by = dataset | {"autoencoder": autoencoder}
    encode = _encoding(base)
    sights = {name: encoded_pictures.Sight(encode, latent, name, by) for name in tuning.latents}
    return sights | seeing(tuning, dataset | {"tuning": plain(recipe.config["tuning"])})


def seeing(tuning: Tuning, facts: Mapping[str, Any]) -> dict[str, encoded_pictures.Sight]:
    """The entries that a tuning computes from the records' own pictures, or from a column of pictures.

    Args:
        tuning: the tuning of a run; if it computes none, the result is {}.
        facts: the facts that the entries depend on besides the pictures.
    """
    see = tuning.see
    if see is None:
        return {}
    part = lambda name: lambda pictures: np.asarray(see(pictures)[name], np.float32)
    return {
        name: encoded_pictures.Sight(part(name), tuple(shape), tuning.sees_of, facts)
        for name, shape in tuning.sees.items()
    }


def _encoding(base: Base) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """A function from pictures to the denoiser's latents; its first call loads the autoencoder."""
    encode = functools.cache(lambda: autoencoder_folders.encoder(_autoencoder(base)))
    module = base.model.modules["vae"]

    def encoded(pictures: Sequence[np.ndarray]) -> np.ndarray:
        mean = encode()(np.stack(pictures))[:, 0]
        return np.asarray(latent_space.to_diffusion(jnp.asarray(mean), module.scale, getattr(module, "shift", 0.0)))

    return encoded


def encode(recipe: Recipe, source: sources.Source, folder: str | pathlib.Path) -> None:
    """Encodes the pictures whose latents the folder lacks, and writes their latents.

    Raises:
        CacheError: if the folder holds latents of other pictures.
    """
    vae = _autoencoder(tuned_network(recipe).base)
    spec = source.spec
    known = {"name": latent_cache.named(folder, spec.name), "version": _content(source), "num_classes": 0}
    flip = len(recipe.config["data"]["augment"]) > 0
    description = autoencoder_folders.describe_cache(vae, spec._replace(**known), flip)
    from diffusion.data import latent_writer  # imported here: array_record takes a while

    with progress.bar("encoding", spec.size, "pictures") as advance:
        latent_writer.write(
            folder,
            source,
            spec,
            description,
            autoencoder_folders.encoder(vae),
            batch_size=min(BATCH, spec.size),
            threads=recipe.config["data"]["threads"],
            begin=lambda records: advance,
        )


def _content(source: sources.Source) -> str:
    """A digest of the pictures, by which their latents are recognized."""
    return hashlib.sha256(json.dumps(source.fingerprint(), sort_keys=True).encode()).hexdigest()[:16]


def read(recipe: Recipe, spec: sources.DataSpec, texts: Sequence[str], folder: pathlib.Path) -> None:
    """Writes the network's inputs from the captions of pictures, unless the folder has them.

    The inputs are known by the texts and by the files of the tokenizers and text encoders that read them.
    """
    tuned = tuned_network(recipe)
    base, tuning = tuned.base, tuned.tuning
    trained = base.model.readers if tuning.encodes else ()  # their weights change, and tokens are stored
    identity = {
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
        "model": {part: digest for part, digest in base.text_fingerprints.items() if part not in trained},
        "entries": {name: [list(leaf.shape), leaf.dtype] for name, leaf in tuned.text().items()},
    }
    description = captions.describe(spec, json.dumps(identity, sort_keys=True))
    try:
        if captions.description_of(folder) == json.loads(json.dumps(description)):
            return
    except FileNotFoundError:
        pass
    params = {} if tuning.encodes else base.load(base.model.readers)
    apply = jax.jit(lambda params, tokens: tuning.base.encoded(params, tokens))

    def entries(few: list[str]) -> dict[str, Any]:
        tokens = tuning.base.tokens(few)
        rows = tokens if tuning.encodes else apply(params, tokens)
        captioned = np.array([float(text != "") for text in few], np.float32)
        return {name: _stored(leaf) for name, leaf in rows.items()} | {CAPTIONED: captioned}

    table = captions.table(texts, entries, BATCH)
    if base.model.zeros and not tuning.encodes:
        for name in table.entries:
            table.entries[name][0] = 0
    captions.write(folder, table, description)


def _stored(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float32) if leaf.dtype.kind not in "biu" else leaf
