"""What the parts of a config must fit: with each other, with the data, with the files that they name."""

import inspect
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion import parameterizations
from diffusion.guidance import Unpaired
from diffusion.metrics import features
from diffusion.training import sharding
from experiments import fields, names, resolve
from experiments.config import ConfigError, plain, unknown


def validate(config: Mapping, spec: Any = None) -> None:
    """Refuses a config that cannot run, before anything is read or compiled.

    Checks every field by itself, resolves every name, and checks what must fit together.

    Args:
      config: the config.
      spec: of the dataset, once it is known: `shape` (H, W, C) and `num_classes` (0 for none).

    Raises:
      ConfigError: naming the first field at fault, its value and what is valid.
    """
    fields.check(config)
    process, read, times = resolve.schedule(config), resolve.parameterization(config), resolve.plan(config).t
    resolve.objective(config), resolve.optimizer(config), resolve.augmentations(config), resolve.model(config)
    _check_training(config)
    _check_teacher(config)
    _check_sampling(config)
    try:
        parameterizations.check(read, process, np.append(times, process.t_max))
    except ValueError as error:
        raise ConfigError(f"config.parameterization, on the times of config.sample: {error}") from error
    shape = config["data"]["shape"] if spec is None else spec.shape
    if shape is not None:
        resolve.check_shape(config, tuple(shape))
    for i, name in enumerate(config["evaluate"]["features"]):
        if name not in features.names():
            raise unknown(f"config.evaluate.features[{i}]", name, features.names(), "features")
    _check_evaluation(config)
    _check_latents(config)
    _check_buckets(config)
    if spec is not None:
        _check_dataset(config, spec)


def _check_training(config: Mapping) -> None:
    train, devices = config["train"], math.prod(max(config["mesh"][axis], 1) for axis in sharding.BATCH_AXES)
    parts = train["accumulate"] * devices
    if train["batch_size"] % parts:
        raise ConfigError(f"config.train.batch_size = {train['batch_size']} does not divide into "
                          f"{train['accumulate']} micro-batches (config.train.accumulate) on {devices} "
                          f"devices (config.mesh). Valid: a multiple of {parts}.")
    spec = config["objective"]
    rows = train["batch_size"] // train["accumulate"]
    for entry, function, path in ((spec, names.OBJECTIVES[spec["name"]], "config.objective"),
                                  (spec.get("coupling", {}), names.COUPLINGS.get(spec.get("coupling", {}).get("name")),
                                   "config.objective.coupling")):
        if function is not None and "block" in inspect.signature(function).parameters:
            block = entry.get("block", inspect.signature(function).parameters["block"].default)
            if rows % block:
                raise ConfigError(f"{path}.block = {block} does not divide the {rows} examples of a micro-batch. "
                                  f"Valid: a divisor, e.g. {math.gcd(rows, block)}.")
    source = pathlib.Path(config["init_from"]["path"]).expanduser()
    if config["init_from"]["path"] and not source.exists():
        raise ConfigError(f"config.init_from.path = {str(source)!r}: there is no such run folder, checkpoint or file.")


def _check_teacher(config: Mapping) -> None:
    name, path = config["objective"]["name"], config["teacher"]["path"]
    if name in names.TAUGHT and not path:
        raise ConfigError(f"config.objective.name = {name!r} learns from a teacher: --config.teacher.path=RUN, the "
                          "folder of a run whose moving average is to be distilled.")
    if path and not resolve.takes(names.OBJECTIVES[name], "teacher"):
        raise ConfigError(f"config.teacher.path = {path!r}, but config.objective.name = {name!r} has no use for a "
                          f"teacher. Valid: \"\" here; a run to start from is config.init_from.path.")
    if path and not pathlib.Path(path).expanduser().is_dir():
        raise ConfigError(f"config.teacher.path = {path!r}: there is no such run folder.")


def _check_sampling(config: Mapping) -> None:
    scale = config["sample"]["guidance"]["scale"]
    guided = resolve.guidance(config, lambda x, t: None)  # checks its arguments
    name, walks = config["objective"]["name"], resolve.sampler(config)
    if (name in names.FLOW_MAPS) != walks.of_flow_maps:
        words = ("trains a flow map. Valid: flow_map, consistency or tcd" if name in names.FLOW_MAPS
                 else "trains a denoiser, which samplers of flow maps do not take. Valid: e.g. heun or dpmpp_2m")
        raise ConfigError(f"config.sample.sampler.name = {config['sample']['sampler']['name']!r}, but "
                          f"config.objective.name = {name!r} {words}.")
    if walks.of_flow_maps and scale != 1:
        raise ConfigError(f"config.sample.guidance.scale = {scale}, but a flow map is guided while it is trained, not "
                          "when it is sampled. Valid: 1.")
    if isinstance(guided, Unpaired) and scale != 1 and not walks.reads_both:
        raise ConfigError(f"config.sample.guidance.name = {config['sample']['guidance']['name']!r} needs a sampler "
                          'that reads x0 and eps as they are. Valid: {"name": "ddim"}.')
    if scale != 1:
        resolve.null_class(config)
        if config["objective"].get("condition_dropout", 0.0) == 0:
            raise ConfigError(f"config.sample.guidance.scale = {scale}, but config.objective.condition_dropout = 0: "
                              "the network never sees the null class. Valid: a scale of 1, or a dropout of e.g. 0.1.")
    solver = config["sample"]["sampler"]
    if solver["name"] == "ddpm" and solver.get("variance") == "learned":
        predicts = config["parameterization"]["name"]
        if predicts != "learned_variance":
            raise ConfigError(f'config.sample.sampler.variance = "learned", but config.parameterization.name = '
                              f'{predicts!r} predicts none. Valid: "small" or "large".')
    coupling = config["objective"].get("coupling", {}).get("name", "independent")
    if coupling != "independent" and walks.draws:
        raise ConfigError(f"config.sample.sampler = {plain(solver)!r} adds noise by the score, which a network trained "
                          f"with config.objective.coupling.name = {coupling!r} does not know. Valid: a deterministic "
                          "sampler, e.g. euler, heun or dpmpp_2m.")


def _check_evaluation(config: Mapping) -> None:
    settings, best = config["evaluate"], config["checkpoint"]["best"]
    if "inception" in settings["features"] and not pathlib.Path(settings["inception"]).expanduser().is_file():
        raise ConfigError(f'config.evaluate.features has "inception", but config.evaluate.inception = '
                          f"{settings['inception']!r} is no file. Valid: a file of FID's Inception-v3; "
                          "docs/evaluation.md says where to get it.")
    if best:
        figures = [f"fd_{name}{suffix}" for name in settings["features"] for suffix in ("", "_over_floor")]
        if best not in figures:
            raise unknown("config.checkpoint.best", best, figures, "figure")
        if settings["every"] == 0:
            raise ConfigError(f"config.checkpoint.best = {best!r}, but config.evaluate.every = 0: nothing is evaluated "
                              "in the loop. Valid: the steps between two evaluations, e.g. 1000.")


def _check_latents(config: Mapping) -> None:
    data = config["data"]
    if not data["latents"]["dir"]:
        if data["latents"]["autoencoder"]:
            raise ConfigError(f"config.data.latents.autoencoder = {data['latents']['autoencoder']!r}, but "
                              "config.data.latents.dir = '': there are no latents that it could have made. Write them "
                              "by python -m experiments.encode.")
        return
    if data["augment"]:
        raise ConfigError(f"config.data.augment = {plain(data['augment'])!r} changes pictures, and "
                          f"config.data.latents.dir = {data['latents']['dir']!r} holds latents. Valid: (); "
                          "experiments.encode --flip keeps those of mirrored pictures.")
    if config["evaluate"]["every"] and not data["latents"]["autoencoder"]:
        raise ConfigError(f"config.evaluate.every = {config['evaluate']['every']}, but samples of latents are no "
                          "pictures. Valid: 0, or config.data.latents.autoencoder = the folder of the autoencoder.")


def _check_buckets(config: Mapping) -> None:
    sizes, data, name = resolve.sizes(config), config["data"], config["model"]["name"]
    if not sizes:
        return
    on = f"config.data.buckets.area = {data['buckets']['area']}"
    if data["latents"]["dir"]:
        raise ConfigError(f"{on}, but config.data.latents.dir = {data['latents']['dir']!r} holds latents of one size. "
                          "Valid: an area of 0, or pictures.")
    if data["damaged"] == "skip":
        raise ConfigError(f'{on}, but config.data.damaged = "skip": a damaged picture has no size. Valid: "stop".')
    if name in names.ONE_SIZE:
        raise ConfigError(f"{on}, but config.model.name = {name!r} learns the positions of one size. Valid: an area of "
                          f"0, or one of {', '.join(sorted(names.MODELS.keys() - {*names.ONE_SIZE}))}.")
    shape = data["shape"]
    if shape is None or len(shape) != 3 or tuple(shape[:2]) not in sizes:
        raise ConfigError(f"config.data.shape = {shape if shape is None else tuple(shape)}, but {on} needs the shape "
                          "of the samples. Valid: (height, width, channels) of a size out of "
                          f"{', '.join(f'{h} x {w}' for h, w in sizes)}.")
    for size in sizes:  # patches and halvings
        resolve.model(config, (*size, shape[-1]))


def _check_dataset(config: Mapping, spec: Any) -> None:
    if config["data"]["shape"] is not None and tuple(config["data"]["shape"]) != tuple(spec.shape):
        raise ConfigError(f"config.data.shape = {tuple(config['data']['shape'])}, but {config['data']['name']} holds "
                          f"examples of shape {tuple(spec.shape)}. Valid: that, or None.")
    classes = config["model"].get("num_classes", 0)
    if classes not in (0, spec.num_classes):
        raise ConfigError(f"config.model.num_classes = {classes}, but {config['data']['name']} has {spec.num_classes} "
                          f"classes. Valid: {spec.num_classes}, or 0 for an unconditional model.")
    if "classifier" in config["evaluate"]["features"] and not spec.num_classes:
        raise ConfigError(f'config.evaluate.features has "classifier", but {config["data"]["name"]} has no classes to '
                          f"train one on. Valid: {', '.join(sorted(names.FEATURES.keys() - {'classifier'}))}.")
