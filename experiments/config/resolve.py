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
from diffusion.data import buckets, transforms
from diffusion.data import captions as texts
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.models import facts
from diffusion.models.layers import conditions
from diffusion.parameterizations import Denoiser
from diffusion.training import ema, optimizers, power_ema
from diffusion.training import micro_batches as rule
from experiments.config import ConfigError, fields, names, unknown
from experiments.config.values import plain

TEXT_FOLDERS = {"tokens": "tokenizer", "embeddings": "dir"}  # of config.data.text, by what the network receives
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


def takes(function: Callable | None, argument: str) -> bool:
    """Whether a function has an argument of that name; None, of an unknown name, has any."""
    return function is None or argument in inspect.signature(function).parameters


def annotation(function: Callable | None, argument: str) -> Any:
    """How a function annotates its argument of that name; None where it does not, or has none."""
    parameters = inspect.signature(function, eval_str=True).parameters if function is not None else {}
    return parameters[argument].annotation if argument in parameters else None


def micro_batches(config: Mapping, mesh: Mesh, init: Callable) -> int:
    """Into how many micro-batches a step cuts its batch on a mesh: `config.train.accumulate`, or by rule if 0.

    Args:
        config: the run's.
        mesh: of its devices.
        init: of its networks, seed -> pytree; looked at for convolutions where that matters.
    """
    requested = config["train"]["accumulate"]
    block = objective(config).block
    if requested or block is None:
        return requested or 1
    number = rule.number(config["train"]["batch_size"], mesh, block)
    return 1 if number > 1 and rule.convolves(init, np.uint32(0)) else number


def _density(config: Mapping, spec: Mapping | None, path: str) -> timesteps.Density:
    return call(names.DENSITIES, spec, path, "density", schedule=schedule(config))


def objective(config: Mapping) -> objectives.Objective:
    """The training objective `config.objective`, with augmentation and condition dropout if it asks for any.

    What the network predicts and the clock that it is told come from `config.parameterization`, so that sampling
    reads the network as it was trained.

    Raises:
        ConfigError: also where the objective cannot train a network of that parameterization.
    """
    made = _objective(config, config["objective"], "config.objective", names.OBJECTIVES)
    try:
        made.check_parameterization(parameterization(config))
    except ValueError as error:
        predicts = config["parameterization"]["name"]
        raise ConfigError(
            f"config.parameterization.name = {predicts!r}, config.objective.name = {config['objective']['name']!r}: "
            f"{error}."
        ) from error
    return made


def second_player(config: Mapping) -> objectives.Objective:
    """The objective of the second player, `config.second_player.objective`.

    Raises:
        ConfigError: as `objective`.
    """
    return _objective(
        config, config["second_player"]["objective"], "config.second_player.objective", names.SECOND_PLAYERS
    )


def _objective(config: Mapping, spec: Mapping, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
    spec = plain(spec, path)
    rate = spec.pop("condition_dropout", 0.0)
    augment = spec.pop("augment", None)
    predicts = plain(config["parameterization"])
    learned = predicts.get("name") == "learned_variance"  # then of the first half of the channels
    inner = predicts.get("parameterization", predicts) if learned else predicts
    inner_path = "config.parameterization" + (".parameterization" if inner is not predicts else "")
    read = _parameterization(inner, inner_path)
    told = clock(inner["clock"], f"{inner_path}.clock") if "clock" in inner else None
    taught = teacher_parameterization(config)
    guidances = _tuples(annotation(table.get(spec.get("name")), "guidance"))
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
            **({"guidance": lambda s, p: _training_guidance(guidances[0], config, s, p)} if guidances else {}),
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
    if not isinstance(result, objectives.Objective):
        raise ConfigError(
            f"{path}.name = {spec['name']!r} returns a {type(result).__name__}. Valid: a function that returns an "
            "objectives.Objective, which holds the loss; see docs/extend.md."
        )
    if augment is not None:
        augmentation = call(names.CONDITIONING_AUGMENTATIONS, augment, f"{path}.augment", "augmentation")
        result = objectives.with_augmentation(result, augmentation)
    fields.check_type(f"{path}.condition_dropout", rate, float)
    if rate == 0:
        return result
    try:
        return objectives.with_condition_dropout(result, required_null(config), rate)
    except ValueError as error:
        raise ConfigError(f"{path}.condition_dropout: {error}") from error


def _tuples(annotation: Any) -> list[type]:
    """The NamedTuples among the types of an annotation: such an argument is an entry of the tuple's fields."""
    kinds = [kind for kind in typing.get_args(annotation) or (annotation,) if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, tuple) and hasattr(kind, "_fields")]


def _training_guidance(kind: type, config: Mapping, spec: Mapping, path: str) -> Any:
    return call({"guidance": kind}, {"name": "guidance", **spec}, path, "guidance", null=null_class(config))


def _weighting(spec: Mapping, path: str, read: parameterizations.Parameterization) -> weightings.Weighting:
    nested = {"parameterization": _parameterization, "weighting": lambda s, p: _weighting(s, p, read)}
    return call(names.WEIGHTINGS, spec, path, "weighting", nested, parameterization=read)


def teacher_parameterization(config: Mapping) -> parameterizations.Parameterization | None:
    """What the network "teacher" predicts: as `config.teacher.parameterization` says; None without a teacher."""
    if not config["teacher"]["path"]:
        return None
    return _parameterization(config["teacher"]["parameterization"], "config.teacher.parameterization")


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
    trains = objective(config)
    if trains.times > 1 and not takes(network, "times"):
        raise ConfigError(
            f"config.model.name = {name!r} receives one time, and config.objective.name = "
            f"{config['objective']['name']!r} trains networks of {trains.times}. Valid: dit."
        )
    learned = plain(config["parameterization"]).get("name") == "learned_variance"
    if learned and not (takes(network, "learn_sigma") or takes(network, "out_channels")):
        raise ConfigError(
            f"config.model.name = {name!r} puts out as many channels as it takes, and "
            'config.parameterization.name = "learned_variance" needs as many again. Valid: dit, unet.'
        )
    if trains.strength and not takes(network, "strength"):
        raise ConfigError(
            f"config.model.name = {name!r} receives no strength of guidance, and config.objective.name = "
            f"{config['objective']['name']!r} trains networks that do. Valid: dit or pixart."
        )
    augmented = {"augmentations": trains.augmentations} if trains.augmentations else {}
    if augmented and not takes(network, "augmentations"):
        raise ConfigError(
            f"config.model.name = {name!r} receives nothing of an augmentation, and config.objective.augment "
            "passes it on. Valid: song_unet; or config.data.augment, of which no network receives anything."
        )
    tower = lambda s, p: call(
        names.TOWERS, {"name": p.rpartition(".")[2], **s}, p, "tower", size=height, dtype=config["train"]["dtype"]
    )
    module = call(
        names.MODELS,
        config["model"],
        "config.model",
        "model",
        **augmented,
        nested=dict.fromkeys(names.TOWERS, tower) if facts.kind(network) == "towers" else {},
        times=trains.times,
        strength=trains.strength is not None,
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
    attention = getattr(module, "attention", "auto")
    if trains.forward_mode and attention == "cudnn":
        raise ConfigError(
            f"config.model.attention = {attention!r} has no forward derivative, and config.objective.name = "
            f"{config['objective']['name']!r} differentiates the network in forward mode. Valid: auto, matmul, xla."
        )
    if trains.forward_mode and hasattr(module, "attention") and attention == "auto":
        module = module.clone(attention="matmul")  # what "auto" is on a CPU; on a GPU it could be cuDNN's
    return module if shape is not None or name != "dit" else module.clone(shape=None)


def optimizer(config: Mapping) -> optimizers.Optimizer:
    """The optimizer `config.optimizer`, for the updates of the model in `config.train.steps`.

    Where the objective has stages it starts anew with each; beside a second player it updates the model at some steps
    alone.
    """
    total = config["train"]["steps"]
    every = config["second_player"]["updates"]
    length = stage_length(config)
    updates = length or math.ceil(total / every)
    made = call(names.OPTIMIZERS, config["optimizer"], "config.optimizer", "optimizer", steps=updates)
    if length is None and every == 1:
        return made
    return made._replace(learning_rate=lambda step: made.learning_rate(step % length if length else step // every))


def second_optimizer(config: Mapping) -> optimizers.Optimizer:
    """The optimizer of the second player, `config.second_player.optimizer`, for a run of `config.train.steps`."""
    spec = config["second_player"]["optimizer"]
    path = "config.second_player.optimizer"
    return call(names.OPTIMIZERS, spec, path, "optimizer", steps=config["train"]["steps"])


def stage_length(config: Mapping) -> int | None:
    """The training steps after which the student becomes the teacher, where the objective has such stages."""
    teacher = objective(config).teacher
    return teacher.stages.length if teacher and teacher.stages else None


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
    if made.draws or flow_maps.FlowMap in made.takes:
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


def text_inputs(config: Mapping) -> conditions.TextInputs | None:
    """What the network `config.model` receives of a text; None for one that receives no text."""
    return facts.text_inputs(names.MODELS.get(config["model"].get("name")))


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
    """The null condition of one example: a label, entries of the empty caption, or None.

    Returns:
        int32 `[]`, num_classes; {name: `[...]`} for a network that receives text; None for an unconditional one.

    Raises:
        ConfigError: if config.data.text names no vocabulary, or no captions.
    """
    text = text_inputs(config)
    if text is not None:
        field = TEXT_FOLDERS[text.of]
        place = config["data"]["text"][field]
        if not place:
            raise ConfigError(
                f"config.data.text.{field} = '', but config.model.name = {config['model']['name']!r} receives "
                "text. Valid: a folder that experiments.encode_text wrote."
            )
        try:
            return texts.null(place) if text.of == "embeddings" else texts.tokens([""], place).null
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.data.text.{field} = {place!r}: {error}") from error
    return np.int32(null_class(config)) if config["model"].get("num_classes", 0) else None


def required_null(config: Mapping) -> Any:
    """`null`, where something is trained or guided that needs one.

    Raises:
        ConfigError: as `null`, and for an unconditional network.
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
