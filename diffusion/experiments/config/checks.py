"""What the parts of a config must fit: with each other, with the data, with the files that they name."""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffusion import parameterizations
from diffusion.experiments.config import ConfigError, fields, names, resolve, unknown
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.config.values import plain
from diffusion.flow_maps import FlowMap
from diffusion.guidance import Unpaired
from diffusion.metrics import features
from diffusion.models import facts
from diffusion.objectives import Objective
from diffusion.training import sharding


def validate(config: Mapping, spec: Any = None) -> Recipe:
    """The recipe that a config describes; refuses one that cannot run, before anything is read or compiled.

    Checks every field by itself, resolves every name, and checks what must fit together.

    Args:
        config: the config.
        spec: of the dataset, once it is known: `shape` (H, W, C) and `num_classes` (0 for none).

    Returns:
        The recipe, for the dataset's shape where that is known.

    Raises:
        ConfigError: naming the first field at fault, its value and what is valid.
    """
    fields.check(config)
    made = resolve.Resolver(config)
    schedule = made.schedule
    times = made.plan.t
    objective = made.objective
    _ = made.optimizer, made.augmentations, made.model()  # their own mistakes, before those of several together
    _check_training(config, objective)
    _check_teacher(made)
    _check_second(made)
    _check_sampling(made)
    try:
        parameterizations.check(made.parameterization, schedule, np.append(times, schedule.t_max))
    except ValueError as error:
        raise ConfigError(f"config.parameterization, on the times of config.sample: {error}") from error
    if spec is not None:
        resolve.check_shape(config, tuple(spec.shape))
    for i, name in enumerate(config["evaluate"]["features"]):
        if name not in features.names():
            raise unknown(f"config.evaluate.features[{i}]", name, features.names(), "features")
    _check_evaluation(config)
    _check_text(made)
    _check_latents(config)
    _check_buckets(made)
    recipe = made.recipe(config["data"]["shape"])
    return recipe if spec is None else with_data(recipe, spec)


def with_data(recipe: Recipe, spec: Any) -> Recipe:
    """The recipe for the examples of a dataset.

    Args:
        recipe: of a config.
        spec: of the dataset: `shape` (H, W, C) and `num_classes` (0 for none).

    Raises:
        ConfigError: if they do not fit.
    """
    _check_dataset(recipe.config, spec)
    return recipe.at(spec.shape)


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Turns a ValueError of the values that are checked within into a ConfigError with the path of the value."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error


def _check_training(config: Mapping, objective: Objective) -> None:
    train = config["train"]
    devices = math.prod(max(config["mesh"][axis], 1) for axis in sharding.BATCH_AXES)
    parts = max(train["accumulate"], 1) * devices
    if train["batch_size"] % parts:
        raise ConfigError(
            f"config.train.batch_size = {train['batch_size']} does not divide into "
            f"{train['accumulate']} micro-batches (config.train.accumulate) on {devices} "
            f"devices (config.mesh). Valid: a multiple of {parts}."
        )
    rows = train["batch_size"] // max(train["accumulate"], 1)
    try:
        objective.check_rows(rows)
    except ValueError as error:
        path = "config.objective.coupling" if "coupling" in config["objective"] else "config.objective"
        raise ConfigError(f"{path}.{error}.") from error
    source = pathlib.Path(config["init_from"]["path"]).expanduser()
    if config["init_from"]["path"] and not source.exists():
        raise ConfigError(f"config.init_from.path = {str(source)!r}: there is no such run folder, checkpoint or file.")


def _check_teacher(made: resolve.Resolver) -> None:
    config = made.config
    objective = made.objective
    name = config["objective"]["name"]
    path = config["teacher"]["path"]
    teacher = objective.teacher
    if teacher and not path:
        raise ConfigError(
            f"config.objective.name = {name!r} learns from a teacher: --config.teacher.path=RUN, the "
            "folder of a run whose moving average is to be distilled."
        )
    if path and not teacher:
        raise ConfigError(
            f"config.teacher.path = {path!r}, but config.objective.name = {name!r} has no use for a "
            f'teacher. Valid: "" here; a run to start from is config.init_from.path.'
        )
    if path and not pathlib.Path(path).expanduser().is_dir():
        raise ConfigError(f"config.teacher.path = {path!r}: there is no such run folder.")
    scale = config["teacher"]["scale"]
    pairs = config["teacher"]["pairs"]["number"]
    if scale != 1 and not teacher:
        raise ConfigError(
            f"config.teacher.scale = {scale}, but config.objective.name = {name!r} has no teacher. Valid: 1."
        )
    if teacher and teacher.scale not in (None, scale):
        raise ConfigError(
            f"config.teacher.scale = {scale}, but config.objective.name = {name!r} guides its teacher itself. Valid: "
            f"{teacher.scale:g}."
        )
    if scale != 1 and config["teacher"]["parameterization"]["name"] == "learned_variance":
        raise ConfigError(
            f"config.teacher.scale = {scale} guides what the teacher puts out, of which a learned "
            "variance is a part. Valid: 1."
        )
    if scale != 1 or objective.strength:
        _ = made.required_null  # says why there is no guidance without a condition
    learns_from_pairs = teacher is not None and teacher.pairs
    if learns_from_pairs != (pairs > 0):
        raise ConfigError(
            f"config.teacher.pairs.number = {pairs}, but config.objective.name = {name!r} "
            + ("learns from pairs. Valid: e.g. 10000." if pairs == 0 else "learns from none. Valid: 0.")
        )
    _ = made.pair_sampler  # deterministic
    if pairs and (config["data"]["augment"] or resolve.sizes(config)):
        raise ConfigError(
            f"config.teacher.pairs.number = {pairs}: pairs are neither augmented nor of several sizes. "
            "Valid: config.data.augment = () and config.data.buckets.area = 0."
        )
    if teacher and teacher.stages:
        with named("config.train.steps, config.objective.stage"):
            teacher.stages.check(config["train"]["steps"])
        if config["ema"]["sigma_rel"]:
            raise ConfigError(
                f"config.ema.sigma_rel = {config['ema']['sigma_rel']} averages a run as a whole, and "
                f"config.objective begins anew after every {teacher.stages.length} steps. Valid: 0."
            )


def _check_second(made: resolve.Resolver) -> None:
    config = made.config
    objective = made.objective
    name = config["objective"]["name"]
    second = config["second_player"]["objective"]
    updates = config["second_player"]["updates"]
    if objective.second is None:
        if second.get("name"):
            raise ConfigError(
                f"config.second_player.objective.name = {second['name']!r}, but config.objective.name = {name!r} has "
                'no second player. Valid: {"name": ""}.'
            )
        if updates != 1:
            raise ConfigError(
                f"config.second_player.updates = {updates}, but config.objective.name = {name!r} has no second player. "
                "Valid: 1."
            )
        return
    network = objective.second.network
    trains = made.second_player.trains if second.get("name") else None
    if trains != network:
        raise ConfigError(
            f"config.second_player.objective.name = {second.get('name')!r}, but config.objective.name = {name!r} plays "
            f"with an objective that trains the network {network!r}. Valid: one such out of "
            f"{', '.join(sorted(names.SECOND_PLAYERS))}."
        )
    _ = made.second_optimizer
    if config["train"]["log_every"] % updates:
        raise ConfigError(
            f"config.train.log_every = {config['train']['log_every']}, but the model acts at every "
            f"{updates}-th step alone (config.second_player.updates). Valid: a multiple of {updates}."
        )


def _check_sampling(made: resolve.Resolver) -> None:
    config = made.config
    objective = made.objective
    scale = config["sample"]["guidance"]["scale"]
    guided = made.guidance(lambda x, t: None)  # checks its arguments
    sampler = made.sampler
    if objective.reads is not None:
        coupling = config["objective"].get("coupling")
        paired = f", config.objective.coupling = {plain(coupling)!r}" if coupling else ""
        with named(f"config.sample.sampler = {plain(config['sample']['sampler'])!r}{paired}"):
            objective.check_sampler(sampler)
    if isinstance(guided, Unpaired) and scale != 1 and Unpaired not in sampler.takes:
        raise ConfigError(
            f"config.sample.guidance.name = {config['sample']['guidance']['name']!r} needs a sampler "
            'that reads x0 and eps as they are. Valid: {"name": "ddim"}.'
        )
    if scale != 1 and not objective.strength and FlowMap not in sampler.takes:
        _ = made.required_null  # says why there is no guidance without a condition
    with named(f"config.sample.guidance.scale = {scale}, config.objective.name = {config['objective']['name']!r}"):
        objective.check_scale(scale)
    solver = config["sample"]["sampler"]
    if solver["name"] == "ddpm" and solver.get("variance") == "learned":
        predicts = config["parameterization"]["name"]
        if predicts != "learned_variance":
            raise ConfigError(
                f'config.sample.sampler.variance = "learned", but config.parameterization.name = '
                f'{predicts!r} predicts none. Valid: "small" or "large".'
            )


def _check_evaluation(config: Mapping) -> None:
    settings = config["evaluate"]
    best = config["checkpoint"]["best"]
    if "inception" in settings["features"] and not pathlib.Path(settings["inception"]).expanduser().is_file():
        raise ConfigError(
            f'config.evaluate.features has "inception", but config.evaluate.inception = '
            f"{settings['inception']!r} is no file. Valid: a file of FID's Inception-v3; "
            "docs/evaluation.md says where to get it."
        )
    if best:
        figures = [f"fd_{name}{suffix}" for name in settings["features"] for suffix in ("", "_over_floor")]
        if best not in figures:
            raise unknown("config.checkpoint.best", best, figures, "figure")
        if settings["every"] == 0:
            raise ConfigError(
                f"config.checkpoint.best = {best!r}, but config.evaluate.every = 0: nothing is evaluated "
                "in the loop. Valid: the steps between two evaluations, e.g. 1000."
            )


def _check_latents(config: Mapping) -> None:
    data = config["data"]
    if not data["latents"]["dir"]:
        if data["latents"]["autoencoder"]:
            raise ConfigError(
                f"config.data.latents.autoencoder = {data['latents']['autoencoder']!r}, but "
                "config.data.latents.dir = '': there are no latents that it could have made. Write them "
                "by python -m experiments.encode."
            )
        return
    if data["augment"]:
        raise ConfigError(
            f"config.data.augment = {plain(data['augment'])!r} changes pictures, and "
            f"config.data.latents.dir = {data['latents']['dir']!r} holds latents. Valid: (); "
            "diffusion encode --flip keeps those of mirrored pictures."
        )
    if config["evaluate"]["every"] and not data["latents"]["autoencoder"]:
        raise ConfigError(
            f"config.evaluate.every = {config['evaluate']['every']}, but samples of latents are no "
            "pictures. Valid: 0, or config.data.latents.autoencoder = the folder of the autoencoder."
        )


def _check_text(made: resolve.Resolver) -> None:
    config = made.config
    objective = made.objective
    name = config["model"]["name"]
    text = config["data"]["text"]
    kind = facts.kind(names.MODELS[name])
    if kind != objective.kind:
        raise ConfigError(
            f"config.objective.name = {config['objective']['name']!r} trains a network of the kind {objective.kind!r}, "
            f"and config.model.name = {name!r} is one of the kind {kind!r}. Valid: "
            f"{', '.join(n for n, network in sorted(names.MODELS.items()) if facts.kind(network) == objective.kind)}."
        )
    inputs = made.text_inputs
    field = resolve.TEXT_FOLDERS[inputs.of] if inputs else ""
    for other in text:
        if text[other] and other != field:
            raise ConfigError(
                f"config.data.text.{other} = {text[other]!r}, which config.model.name = {name!r} does not "
                f"receive. Valid: '' here{f', and config.data.text.{field}' if field else ''}."
            )
    if (field or objective.reads is None) and config["evaluate"]["every"]:
        raise ConfigError(
            f"config.evaluate.every = {config['evaluate']['every']}, but config.model.name = {name!r} "
            "makes no samples of classes that the loop could evaluate. Valid: 0."
        )
    if field and config["data"]["buckets"]["area"]:
        raise ConfigError(
            f"config.data.buckets.area = {config['data']['buckets']['area']}, but config.model.name = "
            f"{name!r} receives text, which comes with pictures of one size. Valid: 0."
        )
    null = made.null
    if field == "dir" and null["text"].shape[-1] != config["model"]["text_width"]:
        raise ConfigError(
            f"config.model.text_width = {config['model']['text_width']}, but the captions in "
            f"{text['dir']} have {null['text'].shape[-1]} features. Valid: that."
        )
    if field == "tokenizer":
        tower = config["model"]["text"]
        ids = int(null["ids"].max()) + 1
        length = len(null["ids"])
        if tower["vocabulary"] < ids or tower["positions"] < length:
            raise ConfigError(
                f"config.model.text has vocabulary = {tower['vocabulary']} and positions = "
                f"{tower['positions']}, but {text['tokenizer']} has {ids} ids and texts of {length}. "
                "Valid: at least these."
            )


def _check_buckets(made: resolve.Resolver) -> None:
    config = made.config
    sizes = resolve.sizes(config)
    data = config["data"]
    name = config["model"]["name"]
    if not sizes:
        return
    on = f"config.data.buckets.area = {data['buckets']['area']}"
    if data["latents"]["dir"]:
        raise ConfigError(
            f"{on}, but config.data.latents.dir = {data['latents']['dir']!r} holds latents of one size. "
            "Valid: an area of 0, or pictures."
        )
    if data["damaged"] == "skip":
        raise ConfigError(f'{on}, but config.data.damaged = "skip": a damaged picture has no size. Valid: "stop".')
    if facts.one_size(names.MODELS[name]):
        raise ConfigError(
            f"{on}, but config.model.name = {name!r} learns the positions of one size. Valid: an area of "
            f"0, or one of {', '.join(n for n, other in sorted(names.MODELS.items()) if not facts.one_size(other))}."
        )
    shape = data["shape"]
    if shape is None or len(shape) != 3 or tuple(shape[:2]) not in sizes:
        raise ConfigError(
            f"config.data.shape = {shape if shape is None else tuple(shape)}, but {on} needs the shape "
            "of the samples. Valid: (height, width, channels) of a size out of "
            f"{', '.join(f'{h} x {w}' for h, w in sizes)}."
        )
    for size in sizes:  # patches and halvings
        made.model((*size, shape[-1]))


def _check_dataset(config: Mapping, spec: Any) -> None:
    if config["data"]["shape"] is not None and tuple(config["data"]["shape"]) != tuple(spec.shape):
        raise ConfigError(
            f"config.data.shape = {tuple(config['data']['shape'])}, but {config['data']['name']} holds "
            f"examples of shape {tuple(spec.shape)}. Valid: that, or None."
        )
    classes = config["model"].get("num_classes", 0)
    if classes not in (0, spec.num_classes):
        raise ConfigError(
            f"config.model.num_classes = {classes}, but {config['data']['name']} has {spec.num_classes} "
            f"classes. Valid: {spec.num_classes}, or 0 for an unconditional model."
        )
    if "classifier" in config["evaluate"]["features"] and not spec.num_classes:
        raise ConfigError(
            f'config.evaluate.features has "classifier", but {config["data"]["name"]} has no classes to '
            f"train one on. Valid: {', '.join(sorted(names.FEATURES.keys() - {'classifier'}))}."
        )
