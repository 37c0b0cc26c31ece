"""Measures a row, from its file to its figure, in stages that resume after an interruption at any point.

OUT contains samples.npz, samples.json (which describes the samples), record.json (the figures, which `diffusion
evaluate --verify` measures again) and row.json (which compares the row's figure with the published one). During
sampling, OUT/.samples-KEY contains the batches. Features are kept in the cache of `references.cache_folder`. Sample i
depends only on its seed, its class and the parameters, so an interrupted measurement ends with the same figures.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion.experiments.evaluation import comparison, records
from diffusion.experiments.evaluation.comparison import Request
from diffusion.experiments.sampling import autoencoder_folders, batches_on_disk, generate
from diffusion.experiments.zoo import checkpoint_file, sampling_cost
from diffusion.experiments.zoo.row import Row
from diffusion.io import files, json_files, limits, opener
from diffusion.metrics import references
from diffusion.models.interchange.folders import Found
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import config_hash, plain
from diffusion.training import sharding
from diffusion.training.runtime import progress

STAGES = ("checks", "weights", "samples", "figures")


class Needs(NamedTuple):
    """The files of a measurement, as a user names them.

    Attributes:
        weights: the network's weights: the published file, the file that its export wrote, or a folder of `diffusion
            convert`.
        reference: the statistics or images that the samples are compared with.
        network: the network of the protocol's features: FID's Inception, or the folder of an encoder; "" for pixels.
        autoencoder: the autoencoder's folder or file, for a row on latents.
    """

    weights: str
    reference: str
    network: str = ""
    autoencoder: str = ""


class Checked(NamedTuple):
    """A measurement whose files have been checked."""

    row: Row
    recipe: Recipe
    files: Found
    request: Request
    decoder: str  # sha256 of the parameters of the samples' decoder; "" on pixels


def recipe_of(row: Row, autoencoder: str = "", number: int = 0, batch_size: int = 0, seed: int = 0) -> Recipe:
    """The recipe of a row, with the number of samples to make.

    Args:
        row: the row.
        autoencoder: the folder or file of the autoencoder that decodes latents.
        number: the number of samples; 0 for the row's number.
        batch_size: the number of samples at once; 0 for the recipe's number.
        seed: the seed of the samples; different seeds share no samples.

    Raises:
        ConfigError: if the row's changes do not fit its recipe.
    """
    config = row.config()
    config.data.latents.autoencoder = autoencoder
    if autoencoder:
        config.data.latents.dir = (
            f"zoo/{row.name}"  # a folder that does not exist, so no cache is compared with the VAE
        )
    config.sample.seed = seed
    if number:
        config.sample.number = number
    if batch_size:
        config.sample.batch_size = batch_size
    return checks.validate(config)


def check(row: Row, needs: Needs, out: pathlib.Path, number: int = 0, batch_size: int = 0, seed: int = 0) -> Checked:
    """Checks all files of a measurement, before anything is compiled; the arguments are those of `recipe_of`.

    Raises:
        ConfigError: for a missing argument, or one that the row does not use.
        Mismatch: for weights of another network; the message names the first tensor that differs.
        StatisticsError: for statistics of another protocol.
        WeightsError: if the network of the features is not the protocol's.
    """
    recipe = recipe_of(row, needs.autoencoder, number, batch_size, seed)
    if bool(row.autoencoder) != bool(needs.autoencoder):
        valid = f"--autoencoder=FOLDER of {row.autoencoder}" if row.autoencoder else "no --autoencoder"
        raise ConfigError(
            f"the network of {row.name} works on {'latents' if row.autoencoder else 'pixels'}. Valid: {valid}."
        )
    _check_autoencoder(row, needs.autoencoder)
    network_file = checkpoint_file.find(row, recipe, needs.weights)
    decoder, decode = autoencoder_folders.decoding(recipe.config)
    try:
        jax.eval_shape(decode, decoder, jax.ShapeDtypeStruct((1, *recipe.examples.shape), np.float32))
    except ValueError as error:
        raise ConfigError(f"--autoencoder={needs.autoencoder} is not the autoencoder of {row.name}: {error}") from error
    request = request_of(row, needs, out)
    space, _ = comparison.space_of(request)
    reference = references.open_reference(request.reference)
    references.in_space(reference, space)
    return Checked(row, recipe, network_file, request, autoencoder_folders.digest(decoder) if row.autoencoder else "")


def _check_autoencoder(row: Row, path: str) -> None:
    """Refuses an autoencoder's folder whose config.json lacks the values that the row's latents need."""
    if not row.autoencoder_config:
        return
    file = pathlib.Path(path).expanduser() / "config.json"
    try:
        config = opener.read_table(file)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--autoencoder={path} has no config.json. Valid: the folder of {row.autoencoder}."
        ) from error
    for name, value in row.autoencoder_config.items():
        if config.get(name) != value:
            raise ConfigError(
                f"{file} has {name} = {config.get(name)!r}, but the latents of {row.name} need {value!r}."
            )


def request_of(row: Row, needs: Needs, out: pathlib.Path) -> Request:
    """The measurements of a row's samples."""
    request = Request(str(out / "samples.npz"), needs.reference, metrics=(row.published.metric,))
    if not row.network:
        return request._replace(features="pixels")
    return request._replace(protocol=row.protocol, **{row.network: needs.network})


def measure(checked: Checked, out: pathlib.Path, advance: Callable[[int], None] = lambda done: None) -> dict:
    """Measures a row, and continues an interrupted measurement in the folder.

    Args:
        checked: the measurement, from `check`.
        out: the folder, made if missing.
        advance: a function that receives the number of finished samples after each batch.

    Returns:
        The content of row.json.
    """
    row, recipe, network_file, request, decoder = checked
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with _stage("weights", seconds, f"{network_file.tensors.path}"):
        weights = checkpoint_file.read(row, recipe, network_file)
        digest = autoencoder_folders.digest(weights.params)
    expected = sampling_cost.cost(recipe, recipe.config.sample.number)
    summary = f"{recipe.config.sample.number:,}; evaluations of the network for each: {expected.evaluations}"
    with _stage("samples", seconds, summary):
        key = _samples(recipe, weights.params, digest, decoder, out, advance)
    with _stage("figures", seconds, f"{row.published.metric}, protocol {row.protocol or 'none: pixels'}"):
        measurement = records.measure(request)
    records.write(out / "record.json", measurement)
    content = json_files.plain(
        {
            "row": row.name,
            "weights": {"file": network_file.tensors.path.name, "sha256": digest, "parameters": weights.parameters},
            "config": plain(recipe.config),
            "config_hash": config_hash(recipe.config),
            "samples": {"number": recipe.config.sample.number, "seed": recipe.config.sample.seed, "key": key},
            "protocol": row.protocol,
            "published": row.published._asdict(),
            "figure": beside(row, measurement, recipe.config.sample.number),
            "record": measurement["sha256"],
            "device": jax.devices()[0].device_kind,
            "seconds": seconds,
        }
    )
    json_files.write(out / "row.json", content)
    return content


def beside(row: Row, measurement: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Compares the measured figure with the published one.

    Returns:
        {"value", "standard_error", "difference", "compares": whether the two are comparable, "why": the reasons why
        they are not}.
    """
    figures = measurement["figures"]
    figure = figures.get(row.published.metric) or next(iter(figures.values()))
    why = list(measurement["warnings"])
    if number != row.number:
        why.insert(0, f"the figure is of {number:,} samples, but the published one of {row.number:,}")
    value = figure["value"]
    return {
        "value": value,
        "standard_error": figure.get("standard_error"),
        "difference": None if value is None else value - row.published.value,
        "compares": not why,
        "why": why,
    }


def _samples(
    recipe: Recipe, params: Any, digest: str, decoder: str, out: pathlib.Path, advance: Callable[[int], None]
) -> str:
    """Makes samples.npz, unless it holds these samples already; returns the samples' key."""
    config = recipe.config
    number = config.sample.number
    labels = generate.conditions_of(recipe, number)
    seeds = generate.seeds(config, number)
    source = {"autoencoder": config.data.latents.autoencoder}
    if decoder:
        source["decoder"] = decoder
    key = batches_on_disk.key(config, {"sha256": digest}, json.dumps(source), labels, seeds)
    if _key_of_samples(out) == key:
        advance(number)
        return key
    params, mesh = sharding.on_local_devices(params)
    make = generate.generator(recipe, mesh)
    with progress.bar("sampling", number, "images") as show:

        def shown(done):
            show(done)
            advance(done)

        batch_size = min(config.sample.batch_size, number)
        folder = out / f".samples-{key}"
        images = batches_on_disk.images(make.images, params, labels, seeds, batch_size, folder, shown, work=make.work)
    infinite = int(batches_on_disk.work(folder)[2])
    try:
        generate.check_finite(config, number, infinite)
    except ValueError as error:
        batches_on_disk.clear(out)
        raise ConfigError(str(error)) from error
    (out / "samples.json").unlink(missing_ok=True)  # else a kill at this point would leave an old key with new samples
    with files.atomic(out / "samples.npz") as file:
        np.savez(file, images=images, labels=generate.classes_of(recipe, labels), seeds=seeds)
    record = {"key": key, "sample": plain(config.sample), "nfe": make.nfe, "config": config_hash(config)}
    if infinite:
        record["not_finite"] = infinite
    json_files.write(out / "samples.json", record)
    batches_on_disk.clear(out)
    return key


def _key_of_samples(out: pathlib.Path) -> str:
    """The key of the samples in a folder; "" if they are incomplete."""
    try:
        record = opener.read_json(out / "samples.json")
    except (FileNotFoundError, limits.Refused):
        return ""
    return record.get("key", "") if isinstance(record, dict) and (out / "samples.npz").is_file() else ""


@contextmanager
def _stage(name: str, seconds: dict[str, float], summary: str) -> Iterator[None]:
    """Prints when a stage begins and how long it took, and records the seconds."""
    print(f"stage {STAGES.index(name) + 1} of {len(STAGES)}, {name}: {summary}", flush=True)
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
    print(f"  {name}: {progress.duration(seconds[name])}", flush=True)
