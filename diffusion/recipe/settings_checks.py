"""Checks that the settings of a run, from a config or from Python, fit each other, the parts, and the named files."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion.metrics import features, ngrams, vector_distances
from diffusion.models import facts
from diffusion.recipe import class_folders, null_condition
from diffusion.recipe.config_errors import ConfigError, unknown
from diffusion.recipe.values import refused, wrappers
from diffusion.training import sharding

LOSS = "held_out_loss"  # the figure of config.evaluate.loss, of the moving average


def check(recipe: Any) -> None:
    """Refuses settings that do not fit the recipe, or that nothing of it reads.

    Raises:
        ConfigError: naming the first field at fault, its value and what is valid.
    """
    _check_training(recipe.config)
    _check_evaluation(recipe.config)
    _check_no_base(recipe)
    _check_text(recipe)
    _check_autoencoder(recipe)
    _check_encoder(recipe)
    _check_latents(recipe.config)
    _check_held_out_loss(recipe)
    _check_measured(recipe)


def require_sources(config: Mapping) -> None:
    """Refuses a run whose initial weights do not exist.

    Once it has a checkpoint it no longer needs them, and may have been moved to another machine.

    Raises:
        ConfigError: naming init_from.path or teacher.path.
    """
    start = config["init_from"]["path"]
    if start:
        path = pathlib.Path(start).expanduser()
        valid = "a run folder, a checkpoint of one, or a .safetensors file, e.g. one that diffusion convert wrote"
        if not path.exists():
            raise refused(config, "init_from.path", "it does not exist", valid)
        if path.is_dir():
            _require_checkpoints(config, "init_from.path", path, valid)
    teacher = config["teacher"]["path"]
    if teacher:
        path = pathlib.Path(teacher).expanduser()
        if not path.is_dir():
            raise refused(config, "teacher.path", "there is no such folder", "the folder of a run")
        _require_checkpoints(config, "teacher.path", path, "the folder of a run")


def _require_checkpoints(config: Mapping, field: str, path: pathlib.Path, valid: str) -> None:
    """Refuses a folder of a model, which is no run, and any other without checkpoints."""
    if (path / "checkpoints").is_dir() or path.parent.name == "checkpoints":
        return
    if class_folders.is_of_classes(path):
        valid = f"the run that diffusion convert --source={path} --out=RUN writes"
    raise refused(config, field, "this folder holds no checkpoint", valid)


def _check_training(config: Mapping) -> None:
    train = config["train"]
    teacher = config["teacher"]
    devices = math.prod(max(config["mesh"][axis], 1) for axis in sharding.BATCH_AXES)
    parts = max(train["accumulate"], 1) * devices
    if train["batch_size"] % parts:
        into = f"into {train['accumulate']} micro-batches (config.train.accumulate) " if train["accumulate"] else ""
        raise ConfigError(
            f"config.train.batch_size = {train['batch_size']} does not divide evenly {into}on {devices} devices "
            f"(config.mesh). Valid: a multiple of {parts}."
        )
    if not teacher["path"] and not config["base"]["path"] and teacher["scale"] != 1:
        raise refused(config, "teacher.scale", "there is no teacher", "1")
    if not teacher["path"] and teacher["pairs"]["number"]:
        raise refused(config, "teacher.pairs.number", "there is no teacher to generate the pairs", "0")
    if not config["second_player"]["objective"].get("name") and config["second_player"]["updates"] != 1:
        raise refused(config, "second_player.updates", "there is no second player", "1")


def _check_evaluation(config: Mapping) -> None:
    settings = config["evaluate"]
    best = config["checkpoint"]["best"]
    for i, name in enumerate(settings["features"]):
        if name not in features.names():
            raise unknown(f"config.evaluate.features[{i}]", name, features.names(), "features")
    if "inception" in settings["features"] and not pathlib.Path(settings["inception"]).expanduser().is_file():
        valid = "a file of FID's Inception-v3; docs/evaluation.md says where to get it"
        raise refused(
            config, "evaluate.inception", 'it is not a file, and config.evaluate.features has "inception"', valid
        )
    if best:
        distances = [*(f"fd_{name}" for name in settings["features"]), *vector_distances.NAMES, *ngrams.NAMES]
        figures = [LOSS, *(f"{name}{suffix}" for name in distances for suffix in ("", "_over_floor"))]
        if best not in figures:
            raise unknown("config.checkpoint.best", best, figures, "figure")
        section, field = (settings["loss"], "loss.every") if best == LOSS else (settings, "every")
        if section["every"] == 0:
            why = f"config.evaluate.{field} = 0: this figure is not measured during training"
            raise refused(config, "checkpoint.best", why, '"", or evaluations during training, e.g. every 1000 steps')


def _check_no_base(recipe: Any) -> None:
    """Refuses a tuning, and what only a tuning reads, without a base."""
    config = recipe.config
    named = config["tuning"].get("name")
    prior = recipe.objective.beside.prior
    if prior and not prior.prompt:
        raise refused(config, wrappers(config), "prior preservation needs a prompt for the class", "'a photo of a dog'")
    if config["base"]["path"]:
        return
    asks = {"tuning.name": named, "data.text.prompt": config["data"]["text"]["prompt"]}
    asks["objective.name"] = recipe.objective.beside.prompts
    if recipe.objective.beside.prior:
        asks[wrappers(config)] = recipe.objective.beside.prior
    if field := next((field for field, value in asks.items() if value), ""):
        why = "config.base.path = '' names no model to tune"
        raise refused(config, field, why, "'', or config.base.path = a folder with model_index.json")


def _check_text(recipe: Any) -> None:
    config = recipe.config
    by = f"config.model.name = {config['model']['name']!r}"
    text = config["data"]["text"]
    inputs = facts.text_inputs(recipe.network)
    field = null_condition.TEXT_FOLDERS[inputs.form] if inputs else ""
    for other in ("tokenizer", "dir"):
        if text[other] and other != field:
            valid = f"''{f' here, and config.data.text.{field}' if field else ''}"
            raise refused(config, f"data.text.{other}", f"{by} does not receive it", valid)
    if (field or recipe.objective.reads is None) and config["evaluate"]["every"]:
        why = f"{by} has no classes, so no samples can be evaluated during training"
        raise refused(config, "evaluate.every", why, "0")
    if field and config["data"]["buckets"]["area"]:
        why = f"{by} receives text, which is supported only for pictures of one size"
        raise refused(config, "data.buckets.area", why, "0")
    read = getattr(recipe.network, "text_width", None)
    if field == "dir" and read not in (None, recipe.examples.null["text"].shape[-1]):
        width = recipe.examples.null["text"].shape[-1]
        raise refused(config, "model.text_width", f"the captions in {text['dir']} have {width} features", str(width))
    if field == "tokenizer" and facts.kind(recipe.network) == "towers":
        tower = config["model"]["text"]
        ids = int(recipe.examples.null["ids"].max()) + 1
        length = len(recipe.examples.null["ids"])
        if tower["vocabulary"] < ids or tower["positions"] < length:
            raise ConfigError(
                f"config.model.text has vocabulary = {tower['vocabulary']} and positions = {tower['positions']}, but "
                f"{text['tokenizer']} has {ids} ids and texts of {length} ids. Valid: at least these numbers."
            )


def _check_autoencoder(recipe: Any) -> None:
    config = recipe.config
    if recipe.companions.autoencoder is None:
        return
    path = recipe.companions.autoencoder.path
    if path and not pathlib.Path(path).expanduser().exists():
        raise refused(config, "autoencoder.path", "it does not exist", "a folder or file of an autoencoder, or ''")
    if config["data"]["latents"]["dir"]:
        why = "config.autoencoder encodes the pictures in each step"
        raise refused(config, "data.latents.dir", why, "'', or no autoencoder")
    if config["data"]["buckets"]["area"]:
        why = "config.autoencoder is trained together with the model, on pictures of one size"
        raise refused(config, "data.buckets.area", why, "0")


def _check_encoder(recipe: Any) -> None:
    config = recipe.config
    encoder = recipe.companions.encoder
    if encoder is None or not encoder.cached:
        return
    if not encoder.size:
        why = "with latents, the size of the pictures is not known from the data"
        raise refused(config, "encoder.size", why, "the side of the pictures that the encoder reads")
    if recipe.objective.condition.augmentations:
        why = "an augmentation changes the examples, but their features come from a cache"
        raise refused(config, wrappers(config), why, "no augmentation there")
    if config["teacher"]["pairs"]["number"]:
        why = "training uses samples of the teacher, but the cached features are those of the pictures"
        raise refused(config, "teacher.pairs.number", why, "0, or no term that uses an encoder")
    try:
        encoder.features()
    except ValueError as error:
        raise ConfigError(f"config.encoder.size = {encoder.size}: {error}.") from error


def _check_latents(config: Mapping) -> None:
    latents = config["data"]["latents"]
    if not latents["dir"]:
        if latents["autoencoder"]:
            why = "config.data.latents.dir = '': the run uses no latents"
            raise refused(config, "data.latents.autoencoder", why, "'', or latents by `diffusion encode`")
        return
    if config["data"]["augment"]:
        why = f"it changes pictures, but config.data.latents.dir = {latents['dir']!r} holds latents"
        raise refused(config, "data.augment", why, "(); to include mirrored pictures, use diffusion encode --flip")
    if config["evaluate"]["every"] and not latents["autoencoder"]:
        valid = "0, or config.data.latents.autoencoder = the folder of the autoencoder"
        raise refused(config, "evaluate.every", "samples are latents, which must be decoded to pictures", valid)


def _check_held_out_loss(recipe: Any) -> None:
    """Refuses a loss on held-out records for a run without such records for its objective."""
    config = recipe.config
    settings = config["evaluate"]["loss"]
    field = "evaluate.loss.every"
    if not settings["every"]:
        if settings["latents"]:
            raise refused(config, "evaluate.loss.latents", f"config.{field} = 0: no loss is measured", "''")
        return
    data = config["data"]
    missing = {
        "a run that tunes a model has only pictures of its subject": config["base"]["path"],
        "all pairs of a teacher are used for training": config["teacher"]["pairs"]["number"],
        "pictures of several sizes (config.data.buckets) cannot form batches of one size": data["buckets"]["area"],
        "config.data.text.dir contains only the texts of the training split": data["text"]["dir"],
    }
    if why := next((why for why, given in missing.items() if given), ""):
        raise refused(config, field, why, "0")
    if recipe.data is not None and recipe.held_out is None:
        raise refused(config, field, "no records are held out", "0, or Recipe(held_out=records)")
    if bool(data["latents"]["dir"]) != bool(settings["latents"]):
        why = "the run trains on latents, so the held-out records must be latents, too"
        valid = "a folder that `diffusion encode` wrote for another split"
        if settings["latents"]:
            why, valid = "config.data.latents.dir = '': the run trains on no latents", "''"
        raise refused(config, "evaluate.loss.latents", why, valid)


def _check_measured(recipe: Any) -> None:
    if recipe.data is not None and recipe.sampling.measured and not recipe.sampling.measured.from_file:
        why = "Recipe(data=...) has no splits"
        raise refused(recipe.config, "sample.measurement.pictures", why, "a .npz or .npy file")
