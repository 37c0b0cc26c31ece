"""From names in a config to functions of the library: tables of allowed names, and one function that reads them.

To add a name: one line in a table. Its arguments are those of the function, checked against its signature.
"""

import inspect
import math
import pathlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import couplings, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.data import transforms
from diffusion.metrics import features
from diffusion.models import MODELS
from diffusion.training import optimizers, sharding
from experiments import fields
from experiments.config import ConfigError, plain, unknown

SCHEDULES = {f.__name__: f for f in (
    schedules.rectified_flow, schedules.cosine, schedules.linear_beta, schedules.scaled_linear,
    schedules.variance_exploding, schedules.edm)}
PARAMETERIZATIONS = {f.__name__: f for f in (
    parameterizations.epsilon, parameterizations.x0, parameterizations.v, parameterizations.score,
    parameterizations.velocity, parameterizations.edm, parameterizations.learned_variance)}
CLOCKS = {f.__name__: f for f in (
    parameterizations.time, parameterizations.steps, parameterizations.log_sigma, parameterizations.reversed_time)}
DENSITIES = {f.__name__: f for f in (
    timesteps.uniform_density, timesteps.discrete_density, timesteps.logit_normal, timesteps.log_normal)}
WEIGHTINGS = {f.__name__: f for f in (
    weightings.constant, weightings.truncated_snr, weightings.min_snr, weightings.edm)}
COUPLINGS = {f.__name__: f for f in (couplings.independent, couplings.optimal_transport)}
OBJECTIVES = {f.__name__: f for f in (objectives.denoising, objectives.flow_matching, objectives.hybrid)}
OPTIMIZERS = optimizers.OPTIMIZERS
SAMPLERS = {f.__name__: f for f in (
    samplers.ddpm, samplers.ddim, samplers.euler, samplers.heun, samplers.dpmpp_2m)}
GRIDS = {f.__name__: f for f in (
    timesteps.uniform, timesteps.uniform_log_snr, timesteps.karras, timesteps.leading, timesteps.trailing,
    timesteps.linspace)}
AUGMENTATIONS = transforms.AUGMENTATIONS
FEATURES = features.FEATURES
FEATURE_NAMES = features.NAMES

HIDDEN = {"parent", "name"}  # arguments of Linen modules that are not ours to set


class Guidance(NamedTuple):
    """Settings of classifier-free guidance.

    Attributes:
      scale: w of cond + (w - 1)(cond - uncond); 1 is no guidance.
      interval: (t_low, t_high) outside of which the scale is 1, or None.
    """

    scale: float
    interval: tuple[float, float] | None


def call(table: Mapping[str, Callable], spec: Mapping, path: str, kind: str,
         nested: Mapping[str, Callable[[Any, str], Any]] = types.MappingProxyType({}), **supplied: Any) -> Any:
    """Calls the function that an entry {"name": ..., **arguments} names.

    Args:
      table: the names that are allowed, and their functions.
      spec: the entry.
      path: where it stands, e.g. `config.schedule`.
      kind: what the table holds, e.g. "schedule".
      nested: for arguments that are entries themselves, the function (spec, path) that resolves them.
      **supplied: arguments that do not come from the entry; those that the function does not take are left out. The
        entry may give those among `nested` instead.

    Returns:
      What the function returns.

    Raises:
      ConfigError: for a name or argument that is not known (with the nearest valid one), an argument that is missing
        or of the wrong type, and whatever ValueError the function raises, each with its path.
    """
    spec = plain(spec, path)
    if not isinstance(spec, dict) or "name" not in spec:
        raise ConfigError(f'{path} = {spec!r}. Valid: {{"name": ..., arguments}} with a {kind} out of '
                          f"{', '.join(sorted(table))}.")
    name = spec.pop("name")
    if name not in table:
        raise unknown(f"{path}.name", name, table, kind)
    parameters = {argument: parameter for argument, parameter
                  in inspect.signature(table[name], eval_str=True).parameters.items() if argument not in HIDDEN}
    supplied = {argument: value for argument, value in supplied.items() if argument in parameters}
    free = parameters.keys() - (supplied.keys() - nested.keys())
    arguments = {}
    for argument, value in spec.items():
        if argument not in free:
            raise ConfigError(f"{unknown(path, argument, free, f'argument of {name}')} To replace the whole entry: "
                              f"--{path}='{{\"name\": \"{name}\"}}'.")
        if argument in nested:
            arguments[argument] = nested[argument](value, f"{path}.{argument}")
        else:
            _check_annotation(f"{path}.{argument}", value, parameters[argument].annotation)
            arguments[argument] = value
    missing = [argument for argument in parameters if argument in free and argument not in supplied | arguments
               and parameters[argument].default is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"{path}: {kind} {name!r} needs {', '.join(missing)}; e.g. --{path}.{missing[0]}=...")
    try:
        return table[name](**supplied | arguments)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_annotation(path: str, value: Any, annotation: Any) -> None:
    """Checks a value against an annotation that is made of the types that a config can hold; others pass."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    options = tuple(typing.get_origin(option) or option for option in options)
    if all(option in fields.WORDS for option in options):
        fields.check_type(path, value, options)


def schedule(config: Mapping) -> schedules.NoiseSchedule:
    """The noise schedule `config.schedule`."""
    return call(SCHEDULES, config["schedule"], "config.schedule", "schedule")


def clock(spec: Mapping, path: str) -> parameterizations.Clock:
    """The time that a network is told, from an entry such as {"name": "steps"}."""
    return call(CLOCKS, spec, path, "clock")


def parameterization(config: Mapping) -> parameterizations.Parameterization:
    """What the network predicts, `config.parameterization`."""
    return _parameterization(config["parameterization"], "config.parameterization")


def _parameterization(spec: Mapping, path: str) -> parameterizations.Parameterization:
    return call(PARAMETERIZATIONS, spec, path, "parameterization",
                nested={"clock": clock, "parameterization": _parameterization})


def density(config: Mapping) -> timesteps.Density:
    """The density of training times, `config.objective.density`."""
    return _density(config, config["objective"].get("density"), "config.objective.density")


def _density(config: Mapping, spec: Mapping | None, path: str) -> timesteps.Density:
    return call(DENSITIES, spec, path, "density", schedule=schedule(config))


def objective(config: Mapping) -> objectives.Objective:
    """The training objective `config.objective`, with condition dropout if it asks for any.

    What the network predicts and the clock that it is told come from `config.parameterization`, so that sampling
    reads the network as it was trained.

    Raises:
      ConfigError: also where the objective cannot train a network of that parameterization.
    """
    spec = plain(config["objective"])
    path = "config.objective"
    rate = spec.pop("condition_dropout", 0.0)
    predicts = plain(config["parameterization"])
    _check_pair(spec.get("name"), predicts.get("name"))
    inner = predicts.get("parameterization", predicts)  # of the first half of the channels, if variance is learned
    inner_path = "config.parameterization" + (".parameterization" if "parameterization" in predicts else "")
    read = _parameterization(inner, inner_path)
    result = call(
        OBJECTIVES, spec, path, "objective",
        nested={"density": lambda s, p: _density(config, s, p),
                "coupling": lambda s, p: call(COUPLINGS, s, p, "coupling"),
                "weighting": lambda s, p: call(WEIGHTINGS, s, p, "weighting", {"parameterization": _parameterization},
                                                parameterization=read)},
        parameterization=read, clock=clock(inner["clock"], f"{inner_path}.clock") if "clock" in inner else None)
    fields.check_type(f"{path}.condition_dropout", rate, float)
    if rate == 0:
        return result
    try:
        return objectives.with_condition_dropout(result, null_class(config), rate)
    except ValueError as error:
        raise ConfigError(f"{path}.condition_dropout: {error}") from error


def _check_pair(name: str, predicts: str) -> None:
    if name == "flow_matching" and predicts != "velocity":
        raise ConfigError(f'config.parameterization.name = {predicts!r}, but config.objective.name = "flow_matching" '
                          'trains a velocity and sampling would misread the network. Valid: "velocity" here, or '
                          '"denoising" as the objective.')
    if (name == "hybrid") != (predicts == "learned_variance"):
        raise ConfigError(f"config.objective.name = {name!r} and config.parameterization.name = {predicts!r} do not "
                          'fit. "hybrid" is the objective that trains a learned variance, and it trains nothing '
                          'else: use {"name": "learned_variance", "parameterization": {"name": "epsilon"}} with it, '
                          "and neither without the other.")


def model(config: Mapping, shape: tuple[int, ...] | None = None) -> Any:
    """The Linen module `config.model`, not initialised.

    Args:
      config: the config.
      shape: (H, W, C) of one example, where the caller knows it: then the patch size is checked against it.
    """
    if shape is not None:
        _check_shape(config, tuple(shape))
    return call(MODELS, config["model"], "config.model", "model",
                learn_sigma=plain(config["parameterization"]).get("name") == "learned_variance",
                dtype=config["train"]["dtype"])


def optimizer(config: Mapping) -> optimizers.Optimizer:
    """The optimizer `config.optimizer`, for a run of `config.train.steps`."""
    return call(OPTIMIZERS, config["optimizer"], "config.optimizer", "optimizer", steps=config["train"]["steps"])


def augmentations(config: Mapping) -> tuple[transforms.Augmentation, ...]:
    """The augmentations `config.data.augment`, in their order."""
    return tuple(call(AUGMENTATIONS, spec, f"config.data.augment[{i}]", "augmentation")
                 for i, spec in enumerate(config["data"]["augment"]))


def sampler(config: Mapping) -> samplers.Sampler:
    """The sampler `config.sample.sampler`."""
    return call(SAMPLERS, config["sample"]["sampler"], "config.sample.sampler", "sampler")


def plan(config: Mapping) -> timesteps.Plan:
    """The steps of sampling: `config.sample.grid` with `config.sample.steps` steps, moved by `config.sample.shift`."""
    process, settings = schedule(config), config["sample"]
    grid = call(GRIDS, settings["grid"], "config.sample.grid", "grid", schedule=process, steps=settings["steps"])
    try:
        return timesteps.plan(timesteps.shift(process, grid, settings["shift"]))
    except ValueError as error:
        raise ConfigError(f"config.sample (grid, steps, shift): {error}") from error


def guidance(config: Mapping) -> Guidance:
    """The settings of classifier-free guidance, `config.sample.guidance`."""
    settings = config["sample"]["guidance"]
    interval = settings["interval"]
    return Guidance(float(settings["scale"]), None if interval is None else tuple(map(float, interval)))


def null_class(config: Mapping) -> int:
    """The label that stands for no class: num_classes, one beyond the last.

    Raises:
      ConfigError: where the model has no classes.
    """
    classes = config["model"].get("num_classes", 0)
    if classes < 1:
        raise ConfigError(f"config.model.num_classes = {classes}: an unconditional model has no null class. Set "
                          "config.objective.condition_dropout = 0 and config.sample.guidance.scale = 1, or give the "
                          "model classes.")
    return classes


def null_condition(config: Mapping, number: int) -> Array | None:
    """The condition of `number` samples without a class: int32 `[number]`, or None if the model has no classes."""
    if config["model"].get("num_classes", 0) < 1:
        return None
    return jnp.full((number,), null_class(config), jnp.int32)


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
    process, read, times = schedule(config), parameterization(config), plan(config).t
    objective(config), optimizer(config), augmentations(config), model(config), sampler(config)
    _check_training(config)
    _check_sampling(config)
    try:
        parameterizations.check(read, process, np.append(times, process.t_max))
    except ValueError as error:
        raise ConfigError(f"config.parameterization, on the times of config.sample: {error}") from error
    shape = config["data"]["shape"] if spec is None else spec.shape
    if shape is not None:
        _check_shape(config, tuple(shape))
    for i, name in enumerate(config["evaluate"]["features"]):
        if name not in FEATURE_NAMES:
            raise unknown(f"config.evaluate.features[{i}]", name, FEATURE_NAMES, "features")
    _check_evaluation(config)
    if spec is not None:
        _check_dataset(config, spec)


def _check_training(config: Mapping) -> None:
    train, devices = config["train"], math.prod(max(config["mesh"][axis], 1) for axis in sharding.BATCH_AXES)
    parts = train["accumulate"] * devices
    if train["batch_size"] % parts:
        raise ConfigError(f"config.train.batch_size = {train['batch_size']} does not divide into "
                          f"{train['accumulate']} micro-batches (config.train.accumulate) on {devices} "
                          f"devices (config.mesh). Valid: a multiple of {parts}.")
    coupling = config["objective"].get("coupling", {})
    if coupling.get("name") == "optimal_transport":
        block = coupling.get("block", inspect.signature(couplings.optimal_transport).parameters["block"].default)
        rows = train["batch_size"] // train["accumulate"]
        if rows % block:
            raise ConfigError(f"config.objective.coupling.block = {block} does not divide the {rows} examples of a "
                              f"micro-batch. Valid: a divisor, e.g. {math.gcd(rows, block)}.")
    source = pathlib.Path(config["init_from"]["path"]).expanduser()
    if config["init_from"]["path"] and not source.exists():
        raise ConfigError(f"config.init_from.path = {str(source)!r}: there is no such run folder, checkpoint or file.")


def _check_sampling(config: Mapping) -> None:
    scale = config["sample"]["guidance"]["scale"]
    if scale != 1:
        null_class(config)
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
    if coupling != "independent" and sampler(config).draws:
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


def _check_shape(config: Mapping, shape: tuple[int, ...]) -> None:
    patch = config["model"].get("patch", 1)
    if any(side % patch for side in shape[:-1]):
        valid = [p for p in range(1, min(shape[:-1]) + 1) if all(side % p == 0 for side in shape[:-1])]
        raise ConfigError(f"config.model.patch = {patch} does not divide the sides of data of shape {shape}. Valid: "
                          f"{', '.join(map(str, valid))}.")


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
                          f"train one on. Valid: {', '.join(sorted(FEATURES.keys() - {'classifier'}))}.")
