"""From names in a config to functions of the library, by the tables of `experiments.config.names`."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion import flow_maps, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.data import augmentation, buckets, transforms
from diffusion.data import captions as texts
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.parameterizations import Denoiser
from diffusion.training import ema, optimizers, power_ema
from diffusion.training import micro_batches as rule
from experiments.config import ConfigError, fields, names, plain, unknown

MOST_MULTIPLES = 128  # that a side of a bucket is
HIDDEN = {"parent", "name"}  # arguments of Linen modules that are not ours to set


def call(
    table: Mapping[str, Callable],
    spec: Mapping,
    path: str,
    kind: str,
    nested: Mapping[str, Callable[[Any, str], Any]] = types.MappingProxyType({}),
    **supplied: Any,
) -> Any:
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
        raise ConfigError(
            f'{path} = {spec!r}. Valid: {{"name": ..., arguments}} with a {kind} out of {", ".join(sorted(table))}.'
        )
    name = spec.pop("name")
    if name not in table:
        raise ConfigError(
            f"{unknown(f'{path}.name', name, table, kind)} One of your own: --extend=FILE, see docs/extend.md."
        )
    parameters = {
        argument: parameter
        for argument, parameter in inspect.signature(table[name], eval_str=True).parameters.items()
        if argument not in HIDDEN
    }
    supplied = {argument: value for argument, value in supplied.items() if argument in parameters}
    free = parameters.keys() - (supplied.keys() - nested.keys())
    arguments = {}
    for argument, value in spec.items():
        if argument not in free:
            raise ConfigError(
                f"{unknown(path, argument, free, f'argument of {name}')} To replace the whole entry: "
                f'--{path}=\'{{"name": "{name}"}}\'.'
            )
        if argument in nested:
            arguments[argument] = nested[argument](value, f"{path}.{argument}")
        else:
            _check_annotation(f"{path}.{argument}", value, parameters[argument].annotation)
            arguments[argument] = value
    missing = [
        argument
        for argument in parameters
        if argument in free
        and argument not in supplied | arguments
        and parameters[argument].default is inspect.Parameter.empty
    ]
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
    return _schedule(config["schedule"], "config.schedule")


def _schedule(spec: Mapping, path: str) -> schedules.NoiseSchedule:
    return call(names.SCHEDULES, spec, path, "schedule", nested={"schedule": _schedule})


def clock(spec: Mapping, path: str) -> parameterizations.Clock:
    """The time that a network is told, from an entry such as {"name": "steps"}."""
    return call(names.CLOCKS, spec, path, "clock")


def parameterization(config: Mapping) -> parameterizations.Parameterization:
    """What the network predicts, `config.parameterization`."""
    return _parameterization(config["parameterization"], "config.parameterization")


def _parameterization(spec: Mapping, path: str) -> parameterizations.Parameterization:
    return call(
        names.PARAMETERIZATIONS,
        spec,
        path,
        "parameterization",
        nested={"clock": clock, "parameterization": _parameterization},
    )


def density(config: Mapping) -> timesteps.Density | None:
    """The density of the model's training times, `config.objective.density`; None for an objective of its own times."""
    spec = config["objective"]
    objective = names.OBJECTIVES.get(spec.get("name"))
    student = objective is not None and takes(objective, "student_density")
    field = "student_density" if student else "density"
    if field not in spec and not takes(objective, field):
        return None
    return _density(config, spec.get(field), f"config.objective.{field}")


def takes(function: Callable | None, argument: str) -> bool:
    """Whether a function has an argument of that name; None, of an unknown name, has any."""
    return function is None or argument in inspect.signature(function).parameters


def blocks(config: Mapping) -> dict[str, int]:
    """{path: block} of the objective and its coupling, where examples meet others of the same block of the batch."""
    spec = config["objective"]
    found = {}
    for entry, table, path in (
        (spec, names.OBJECTIVES, "config.objective"),
        (spec.get("coupling", {}), names.COUPLINGS, "config.objective.coupling"),
    ):
        function = table.get(entry.get("name"))
        if function is not None and takes(function, "block"):
            found[path] = entry.get("block", inspect.signature(function).parameters["block"].default)
    return found


def micro_batches(config: Mapping, mesh: Mesh, init: Callable) -> int:
    """Into how many micro-batches a step cuts its batch on a mesh: `config.train.accumulate`, or by rule if 0.

    Args:
        config: the run's.
        mesh: of its devices.
        init: of its networks, seed -> pytree; looked at for convolutions where that matters.
    """
    asked = config["train"]["accumulate"]
    if asked or config["objective"]["name"] in names.TRAINED_BY.values():  # these compare all examples of the batch
        return asked or 1
    found = rule.number(config["train"]["batch_size"], mesh, math.lcm(*blocks(config).values()))
    return 1 if found > 1 and rule.convolves(init, np.uint32(0)) else found


def _density(config: Mapping, spec: Mapping | None, path: str) -> timesteps.Density:
    return call(names.DENSITIES, spec, path, "density", schedule=schedule(config))


def objective(config: Mapping) -> objectives.Objective:
    """The training objective `config.objective`, with augmentation and condition dropout if it asks for any.

    What the network predicts and the clock that it is told come from `config.parameterization`, so that sampling
    reads the network as it was trained.

    Raises:
        ConfigError: also where the objective cannot train a network of that parameterization.
    """
    return _objective(config, config["objective"], "config.objective", names.OBJECTIVES)


def rival(config: Mapping) -> objectives.Objective:
    """The objective of the second player, `config.rival.objective`.

    Raises:
        ConfigError: as `objective`.
    """
    return _objective(config, config["rival"]["objective"], "config.rival.objective", names.RIVALS)


def _objective(config: Mapping, spec: Mapping, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
    spec = plain(spec, path)
    rate = spec.pop("condition_dropout", 0.0)
    augment = spec.pop("augment", None)
    predicts = plain(config["parameterization"])
    if table is names.OBJECTIVES:
        _check_pair(spec.get("name"), predicts.get("name"))
    learned = predicts.get("name") == "learned_variance"  # then of the first half of the channels
    inner = predicts.get("parameterization", predicts) if learned else predicts
    inner_path = "config.parameterization" + (".parameterization" if inner is not predicts else "")
    read = _parameterization(inner, inner_path)
    told = clock(inner["clock"], f"{inner_path}.clock") if "clock" in inner else None
    taught = teacher_parameterization(config)
    result = call(
        table,
        spec,
        path,
        "objective",
        nested={
            "density": lambda s, p: _density(config, s, p),
            "student_density": lambda s, p: _density(config, s, p),
            "coupling": lambda s, p: call(names.COUPLINGS, s, p, "coupling"),
            "weighting": lambda s, p: _weighting(s, p, read),
            **(
                {
                    "guidance": lambda s, p: call(
                        {"Guidance": objectives.Guidance},
                        {"name": "Guidance", **s},
                        p,
                        "guidance",
                        null=null_class(config),
                    )
                }
                if spec.get("name") in names.TWO_TIMES
                else {}
            ),
        },
        schedule=schedule(config),
        parameterization=read,
        generator=read,
        student=read,
        teacher=taught,
        fake=taught,
        null=null(config),
        clock=told,
        clocks=flow_maps.start_and_duration(told),
        total=config["train"]["steps"],
        teacher_scale=config["teacher"]["scale"],
    )
    if augment is not None:
        result = objectives.with_augmentation(
            result, call(names.TOLD_AUGMENTATIONS, augment, f"{path}.augment", "augmentation")
        )
    fields.check_type(f"{path}.condition_dropout", rate, float)
    if rate == 0:
        return result
    try:
        return objectives.with_condition_dropout(result, required_null(config), rate)
    except ValueError as error:
        raise ConfigError(f"{path}.condition_dropout: {error}") from error


def _weighting(spec: Mapping, path: str, read: parameterizations.Parameterization) -> weightings.Weighting:
    nested = {"parameterization": _parameterization, "weighting": lambda s, p: _weighting(s, p, read)}
    return call(names.WEIGHTINGS, spec, path, "weighting", nested, parameterization=read)


def teacher_parameterization(config: Mapping) -> parameterizations.Parameterization | None:
    """What the network "teacher" predicts: as `config.teacher.parameterization` says; None without a teacher."""
    if not config["teacher"]["path"]:
        return None
    return _parameterization(config["teacher"]["parameterization"], "config.teacher.parameterization")


def _check_pair(name: str, predicts: str) -> None:
    if name in names.VELOCITIES and predicts != "velocity":
        raise ConfigError(
            f"config.parameterization.name = {predicts!r}, but config.objective.name = {name!r} "
            'trains a velocity and sampling would misread the network. Valid: "velocity" here, or '
            '"denoising" as the objective.'
        )
    if name == "continuous_consistency" and predicts != "edm":
        raise ConfigError(
            f"config.parameterization.name = {predicts!r}, but config.objective.name = "
            '"continuous_consistency" trains a network that is read by "edm". Valid: "edm", of the same '
            "sigma_data."
        )
    if (name == "hybrid") != (predicts == "learned_variance"):
        raise ConfigError(
            f"config.objective.name = {name!r} and config.parameterization.name = {predicts!r} do not "
            'fit. "hybrid" is the objective that trains a learned variance, and it trains nothing '
            'else: use {"name": "learned_variance", "parameterization": {"name": "epsilon"}} with it, '
            "and neither without the other."
        )


def model(config: Mapping, shape: tuple[int, ...] | None = None) -> Any:
    """The Linen module `config.model`, not initialised.

    The sizes of its images, the channels that it puts out and the times that it is told come from the rest of the
    config, under the names that the network has for them.

    Args:
        config: the config.
        shape: (H, W, C) of one example, where the caller knows it: then the patch size is checked against it.

    Raises:
        ConfigError: also for a network that the objective or the parameterization cannot be used with.
    """
    shape = shape or config["data"]["shape"]
    if shape is not None:
        check_shape(config, tuple(shape))
    name = plain(config["model"]).get("name")
    network = names.MODELS.get(name)
    # Before the data are known only the other fields are looked at, of images of some size.
    size = tuple(shape or (64, 64, 3))
    height = size[0]
    channels = size[-1]
    two_times = config["objective"].get("name") in names.TWO_TIMES
    if two_times and not takes(network, "times"):
        raise ConfigError(
            f"config.model.name = {name!r} is told one time, and config.objective.name = "
            f"{config['objective']['name']!r} trains networks of two. Valid: dit."
        )
    learned = plain(config["parameterization"]).get("name") == "learned_variance"
    if learned and not (takes(network, "learn_sigma") or takes(network, "out_channels")):
        raise ConfigError(
            f"config.model.name = {name!r} puts out as many channels as it takes, and "
            'config.parameterization.name = "learned_variance" needs as many again. Valid: dit, unet.'
        )
    imitates = config["objective"].get("name") in names.TOLD_STRENGTH
    if imitates and not takes(network, "strength"):
        raise ConfigError(
            f"config.model.name = {name!r} is told no strength of guidance, and config.objective.name = "
            f"{config['objective']['name']!r} trains networks that are. Valid: dit or pixart."
        )
    told = {"augmentations": augmentation.NUMBERS} if config["objective"].get("augment") is not None else {}
    if told and not takes(network, "augmentations"):
        raise ConfigError(
            f"config.model.name = {name!r} is told nothing of an augmentation, and "
            "config.objective.augment tells it. Valid: song_unet; or config.data.augment, of which no "
            "network is told."
        )
    tower = lambda s, p: call(
        names.TOWERS, {"name": p.rpartition(".")[2], **s}, p, "tower", size=height, dtype=config["train"]["dtype"]
    )
    module = call(
        names.MODELS,
        config["model"],
        "config.model",
        "model",
        **told,
        nested=dict.fromkeys(names.TOWERS, tower) if name == "clip" else {},
        times=2 if two_times else 1,
        strength=imitates,
        learn_sigma=learned,
        dtype=config["train"]["dtype"],
        shape=size,
        resolution=height,
        channels=channels,
        in_channels=channels,
        picture_channels=channels,
        out_channels=channels * (2 if learned else 1),
    )
    if getattr(module, "dropout", 0):
        raise ConfigError(f"config.model.dropout = {module.dropout}: this loop draws none. Valid: 0.")
    if config["objective"].get("name") in names.FORWARD_MODE and getattr(module, "attention", None) == "auto":
        module = module.clone(attention="matmul")  # what "auto" is on a CPU; on a GPU it could be cuDNN's
    return module if shape is not None or name != "dit" else module.clone(shape=None)


def optimizer(config: Mapping) -> optimizers.Optimizer:
    """The optimizer `config.optimizer`, for the updates of the model in `config.train.steps`.

    Where the objective has stages it starts anew with each; a model with a rival is updated at some steps alone.
    """
    total = config["train"]["steps"]
    every = config["rival"]["updates"]
    length = stage(config)
    updates = length or math.ceil(total / every)
    made = call(names.OPTIMIZERS, config["optimizer"], "config.optimizer", "optimizer", steps=updates)
    if length is None and every == 1:
        return made
    return made._replace(learning_rate=lambda step: made.learning_rate(step % length if length else step // every))


def rival_optimizer(config: Mapping) -> optimizers.Optimizer:
    """The optimizer of the second player, `config.rival.optimizer`, for a run of `config.train.steps`."""
    spec = config["rival"]["optimizer"]
    path = "config.rival.optimizer"
    return call(names.OPTIMIZERS, spec, path, "optimizer", steps=config["train"]["steps"])


def stage(config: Mapping) -> int | None:
    """The training steps after which the student becomes the teacher, where the objective has such stages."""
    spec = config["objective"]
    return spec.get("stage") if spec.get("name") in names.STAGED else None


def average(config: Mapping) -> ema.ExponentialMovingAverage:
    """The moving average `config.ema`: a power function of width `sigma_rel`, or an exponential where that is 0."""
    settings = config["ema"]
    if settings["sigma_rel"]:
        return power_ema.power_function(settings["sigma_rel"])
    return ema.exponential_moving_average(settings["decay"], settings["warmup"])


def augmentations(config: Mapping) -> tuple[transforms.Augmentation, ...]:
    """The augmentations `config.data.augment`, in their order."""
    return tuple(
        call(names.AUGMENTATIONS, spec, f"config.data.augment[{i}]", "augmentation")
        for i, spec in enumerate(config["data"]["augment"])
    )


def sizes(config: Mapping) -> tuple[buckets.Size, ...]:
    """The heights and widths of `config.data.buckets`, from the highest to the widest; none where it is off.

    Raises:
        ConfigError: if no size fits.
    """
    asked = config["data"]["buckets"]
    if not asked["area"]:
        return ()
    if asked["area"] * asked["widest"] > (MOST_MULTIPLES * asked["multiple"]) ** 2:
        raise ConfigError(
            f"config.data.buckets = {plain(asked)!r} has too many sizes, for each of which a step is "
            f"compiled. Valid: a larger multiple, so that no side is more than {MOST_MULTIPLES} of it."
        )
    least, most = (math.sqrt(asked["area"] * ratio) for ratio in (1 / asked["widest"], asked["widest"]))
    try:
        return buckets.within(asked["area"], asked["multiple"], math.ceil(least), math.floor(most))
    except ValueError as error:
        raise ConfigError(
            f"config.data.buckets = {plain(asked)!r}: {error}. Valid: e.g. an area of {(4 * asked['multiple']) ** 2}."
        ) from error


def sampler(config: Mapping) -> samplers.Sampler:
    """The sampler `config.sample.sampler`."""
    return _sampler(config["sample"]["sampler"], "config.sample.sampler")


def _sampler(spec: Mapping, path: str) -> samplers.Sampler:
    return call(names.SAMPLERS, spec, path, "sampler", nested={"predictor": _sampler})


def pair_sampler(config: Mapping) -> samplers.Sampler:
    """The sampler by which the teacher makes pairs, `config.teacher.pairs.sampler`.

    Raises:
        ConfigError: also if it draws noise: then a sample is no function of the noise that it started from.
    """
    spec = config["teacher"]["pairs"]["sampler"]
    path = "config.teacher.pairs.sampler"
    made = _sampler(spec, path)
    if made.draws or made.of_flow_maps:
        raise ConfigError(
            f"{path} = {plain(spec)!r} makes no pairs: a sample has to follow from the noise that it "
            "started from. Valid: a deterministic sampler of denoisers, e.g. heun or dpmpp_2m."
        )
    return made


def plan(config: Mapping) -> timesteps.Plan:
    """The steps of sampling: `config.sample.grid` with `config.sample.steps` steps, moved by `config.sample.shift`."""
    process = schedule(config)
    settings = config["sample"]
    grid = call(names.GRIDS, settings["grid"], "config.sample.grid", "grid", schedule=process, steps=settings["steps"])
    try:
        return timesteps.plan(timesteps.shift(process, grid, settings["shift"]))
    except ValueError as error:
        raise ConfigError(f"config.sample (grid, steps, shift): {error}") from error


def guidance(config: Mapping, branches: Branches) -> Denoiser | Memory | Unpaired:
    """The guidance `config.sample.guidance` of two branches, that of the condition and the null one.

    Raises:
        ConfigError: for a name or argument that is not known, or a scale below zero.
    """
    spec = {name: value for name, value in plain(config["sample"]["guidance"]).items() if value is not None}
    path = "config.sample.guidance"
    fields.check_type(f"{path}.scale", spec.get("scale"), float)
    if spec["scale"] < 0:
        raise ConfigError(f"{path}.scale = {spec['scale']}. Valid: at least 0; 1 is no guidance.")
    interval = spec.get("interval")
    if interval is not None and not fields.pair(interval):
        raise ConfigError(
            f"{path}.interval = {interval!r}. Valid: two times (t_low, t_high) with 0 <= t_low < t_high, or None."
        )
    return call(names.GUIDANCES, spec, path, "guidance", branches=branches, schedule=schedule(config))


def null_class(config: Mapping) -> int:
    """The label that stands for no class: num_classes, one beyond the last.

    Raises:
        ConfigError: where the model has no classes.
    """
    classes = config["model"].get("num_classes", 0)
    if classes < 1:
        raise ConfigError(
            f"config.model.num_classes = {classes}: an unconditional model has no null class. Set "
            "config.objective.condition_dropout = 0 and config.sample.guidance.scale = 1, or give the "
            "model classes."
        )
    return classes


def null(config: Mapping) -> Any:
    """What one example is told where it is told nothing: a label, entries of the empty caption, or None.

    Returns:
        int32 `[]`, num_classes; {name: `[...]`} for a network that is told text; None for one that is told nothing.

    Raises:
        ConfigError: if config.data.text names no vocabulary, or no captions.
    """
    if config["model"].get("name") in names.TOLD_TEXT:
        field, _ = names.TOLD_TEXT[config["model"]["name"]]
        place = config["data"]["text"][field]
        if not place:
            raise ConfigError(
                f"config.data.text.{field} = '', but config.model.name = {config['model']['name']!r} is "
                "told text. Valid: a folder that experiments.encode_text wrote."
            )
        try:
            return texts.null(place) if field == "dir" else texts.tokens([""], place).null
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.data.text.{field} = {place!r}: {error}") from error
    return np.int32(null_class(config)) if config["model"].get("num_classes", 0) else None


def required_null(config: Mapping) -> Any:
    """`null`, where something is trained or guided that needs one.

    Raises:
        ConfigError: as `null`, and for a network that is told nothing.
    """
    nothing = null(config)
    return null_class(config) if nothing is None else nothing


def null_condition(config: Mapping, number: int) -> Any:
    """`null` for each of `number` samples: a pytree of arrays `[number, ...]`, or None."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (number, *np.shape(leaf))), null(config))


def check_shape(config: Mapping, shape: tuple[int, ...]) -> None:
    """Refuses a patch that does not divide the sides of the data, and a U-Net that halves them too often."""
    patch = config["model"].get("patch", 1)
    if any(side % patch for side in shape[:-1]):
        valid = [p for p in range(1, min(shape[:-1]) + 1) if all(side % p == 0 for side in shape[:-1])]
        raise ConfigError(
            f"config.model.patch = {patch} does not divide the sides of data of shape {shape}. Valid: "
            f"{', '.join(map(str, valid))}."
        )
    widths = config["model"].get("widths")
    halvings = len(widths) - 1 if isinstance(widths, (list, tuple)) else 0  # of another type: the call refuses it
    if any(side % 2**halvings for side in shape[:-1]):
        raise ConfigError(
            f"config.model.widths has {halvings + 1} levels, and data of shape {shape} cannot be halved "
            f"{halvings} times. Valid: fewer levels."
        )
