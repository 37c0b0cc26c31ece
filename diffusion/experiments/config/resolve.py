"""From the names in a config to one `Recipe`, by the tables of `diffusion.experiments.config.names`."""

import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion import flow_maps, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.data import buckets, transforms
from diffusion.data import captions as texts
from diffusion.experiments.config import ConfigError, fields, names
from diffusion.experiments.config.entries import annotation, call, takes, tuples_of
from diffusion.experiments.config.recipe import Recipe, SecondPlayer, Teacher
from diffusion.experiments.config.values import plain
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.models import facts
from diffusion.models.layers import conditions
from diffusion.parameterizations import Denoiser
from diffusion.training import ema, optimizers, power_ema

TEXT_FOLDERS = {"tokens": "tokenizer", "embeddings": "dir"}  # of config.data.text, by what the network receives
MOST_MULTIPLES = 128  # that a side of a bucket is


def recipe(config: ConfigDict, shape: tuple[int, ...] | None = None) -> Recipe:
    """The value that a config describes; `checks.validate` also checks what must fit together.

    Args:
        config: the config.
        shape: (H, W, C) of one example, where the caller knows it.

    Raises:
        ConfigError: for a mistake in an entry, with its path.
    """
    return Resolver(config).recipe(shape)


class Resolver:
    """The entries of a config, each built when it is first read, and once: what it is made of is shared."""

    def __init__(self, config: Mapping):
        self.config = config
        self._built: dict[str, Any] = {}  # by the path of its entry

    def recipe(self, shape: tuple[int, ...] | None = None) -> Recipe:
        """All entries as one value; see the function of that name."""
        second = self.config["second_player"]
        teacher = self.config["teacher"]
        pairs = teacher["pairs"]
        teaches = (teacher["scale"], pairs["number"], self.pair_sampler, pairs["steps"])
        return Recipe(
            schedule=self.schedule,
            objective=self.objective,
            network=self.model(shape),
            parameterization=self.parameterization,
            optimizer=self.optimizer,
            average=self.average,
            second=SecondPlayer(self.second_player, self.second_optimizer, second["updates"])
            if second["objective"].get("name")
            else None,
            teacher=Teacher(teacher["path"], self.teacher_parameterization, *teaches) if teacher["path"] else None,
            sampler=self.sampler,
            plan=self.plan,
            guidance=self.guidance,
            null=self.null,
            num_classes=self.config["model"].get("num_classes", 0),
            augmentations=self.augmentations,
            shape=shape if shape is None else tuple(shape),
            config=self.config,
            network_of=self.model,
        )

    def _call(self, table: Mapping[str, Callable], spec: Mapping, path: str, kind: str, **supplied: Any) -> Any:
        """What the entry at a path names, called once."""
        return self._once(path, lambda: call(table, spec, path, kind, **supplied))

    def _once(self, what: str, build: Callable[[], Any]) -> Any:
        if what not in self._built:
            self._built[what] = build()
        return self._built[what]

    # ==== The process ====

    @property
    def schedule(self) -> schedules.NoiseSchedule:
        """The noise schedule `config.schedule`."""
        return self._schedule(self.config["schedule"], "config.schedule")

    def _schedule(self, spec: Mapping, path: str) -> schedules.NoiseSchedule:
        return self._call(names.SCHEDULES, spec, path, "schedule", nested={"schedule": self._schedule})

    @property
    def parameterization(self) -> parameterizations.Parameterization:
        """What the network predicts, `config.parameterization`."""
        return self._parameterization(self.config["parameterization"], "config.parameterization")

    def _parameterization(self, spec: Mapping, path: str) -> parameterizations.Parameterization:
        nested = {"clock": self._clock, "parameterization": self._parameterization}
        return self._call(names.PARAMETERIZATIONS, spec, path, "parameterization", nested=nested)

    def _clock(self, spec: Mapping, path: str) -> parameterizations.Clock:
        """The time that a network receives, from an entry such as {"name": "steps"}."""
        return self._call(names.CLOCKS, spec, path, "clock")

    @property
    def teacher_parameterization(self) -> parameterizations.Parameterization | None:
        """What the network "teacher" predicts: as `config.teacher.parameterization` says; None without a teacher."""
        if not self.config["teacher"]["path"]:
            return None
        return self._parameterization(self.config["teacher"]["parameterization"], "config.teacher.parameterization")

    # ==== The objectives ====

    @property
    def objective(self) -> objectives.Objective:
        """The training objective `config.objective`, with its augmentation and condition dropout.

        What the network predicts and the clock that it receives come from `config.parameterization`, so that sampling
        reads the network as it was trained.
        """
        return self._objective(self.config["objective"], "config.objective", names.OBJECTIVES)

    @property
    def second_player(self) -> objectives.Objective:
        """The objective of the second player, `config.second_player.objective`."""
        return self._objective(
            self.config["second_player"]["objective"], "config.second_player.objective", names.SECOND_PLAYERS
        )

    def _objective(self, spec: Mapping, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
        return self._once(f"{path} with dropout", lambda: self._with_dropout(spec, path, table))

    def _with_dropout(self, spec: Mapping, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
        made = self._without_dropout(spec, path, table)
        rate = spec.get("condition_dropout", 0.0)
        fields.check_type(f"{path}.condition_dropout", rate, float)
        if rate == 0:
            return made
        try:
            return objectives.with_condition_dropout(made, self.null_class if self.null is None else self.null, rate)
        except ValueError as error:
            raise ConfigError(f"{path}.condition_dropout: {error}") from error

    def _without_dropout(self, spec: Mapping, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
        """The objective on all conditions: what its network receives can be told before the null condition is known."""
        spec = plain(spec, path)
        spec.pop("condition_dropout", None)
        augment = spec.pop("augment", None)
        made = self._bare(spec, path, table)
        if augment is None:
            return made
        augmentation = self._call(names.CONDITIONING_AUGMENTATIONS, augment, f"{path}.augment", "augmentation")
        return objectives.with_augmentation(made, augmentation)

    def _bare(self, spec: dict, path: str, table: Mapping[str, Callable]) -> objectives.Objective:
        inner = plain(self.config["parameterization"])
        inner_path = "config.parameterization"
        if self.parameterization.channels > 1 and "parameterization" in inner:  # of the first half of the channels
            inner = inner["parameterization"]
            inner_path += ".parameterization"
        read = self._parameterization(inner, inner_path)
        clock = self._clock(inner["clock"], f"{inner_path}.clock") if "clock" in inner else None
        teacher = self.teacher_parameterization
        guidances = tuples_of(annotation(table.get(spec.get("name")), "guidance"))
        guidance = {"guidance": lambda s, p: self._training_guidance(guidances[0], s, p)} if guidances else {}
        made = self._call(
            table,
            spec,
            path,
            "objective",
            nested={
                "density": self._density,
                "student_density": self._density,
                "coupling": lambda s, p: self._call(names.COUPLINGS, s, p, "coupling"),
                "weighting": lambda s, p: self._weighting(s, p, read),
                **guidance,
            },
            schedule=self.schedule,
            parameterization=read,
            generator=read,
            student=read,
            teacher=teacher,
            fake=teacher,
            null=self.null if takes(table.get(spec.get("name")), "null") else None,
            clock=clock,
            clocks=flow_maps.start_and_duration(clock),
            total=self.config["train"]["steps"],
            teacher_scale=self.config["teacher"]["scale"],
        )
        if not isinstance(made, objectives.Objective):
            raise ConfigError(
                f"{path}.name = {spec['name']!r} returns a {type(made).__name__}. Valid: a function that returns an "
                "objectives.Objective, which holds the loss; see docs/extend.md."
            )
        return made

    def _density(self, spec: Mapping, path: str) -> timesteps.Density:
        return self._call(names.DENSITIES, spec, path, "density", schedule=self.schedule)

    def _training_guidance(self, kind: type, spec: Mapping, path: str) -> Any:
        entry = {"name": "guidance", **spec}
        return self._call({"guidance": kind}, entry, path, "guidance", null=self.null_class)

    def _weighting(self, spec: Mapping, path: str, read: parameterizations.Parameterization) -> weightings.Weighting:
        nested = {"parameterization": self._parameterization, "weighting": lambda s, p: self._weighting(s, p, read)}
        return self._call(names.WEIGHTINGS, spec, path, "weighting", nested=nested, parameterization=read)

    # ==== The network ====

    def model(self, shape: tuple[int, ...] | None = None) -> Any:
        """The Linen module `config.model`, not initialised.

        The sizes of its images, the channels that it puts out and the times that it receives come from the rest of the
        config, under the names that the network has for them.

        Args:
            shape: (H, W, C) of one example, where the caller knows it: then the patch size is checked against it.

        Raises:
            ConfigError: also for a network that the objective or the parameterization cannot be used with.
        """
        shape = shape or self.config["data"]["shape"]
        if shape is not None:
            check_shape(self.config, tuple(shape))
        name = plain(self.config["model"]).get("name")
        # Before the data are known only the other fields are looked at, of images of some size.
        module = self._sized(name, tuple(shape or (64, 64, 3)))
        trains = self._trains
        if getattr(module, "dropout", 0):
            raise ConfigError(f"config.model.dropout = {module.dropout}: this loop draws none. Valid: 0.")
        attention = getattr(module, "attention", "matmul")
        if trains.forward_mode and attention == "cudnn":
            raise ConfigError(
                f"config.model.attention = {attention!r} has no forward derivative, and config.objective.name = "
                f"{self.config['objective']['name']!r} differentiates the network in forward mode. Valid: auto, "
                "matmul, xla."
            )
        if trains.forward_mode and attention == "auto":
            module = module.clone(attention="matmul")  # what "auto" is on a CPU; on a GPU it could be cuDNN's
        of_any_shape = types.NoneType in typing.get_args(annotation(names.MODELS.get(name), "shape"))
        return module.clone(shape=None) if shape is None and of_any_shape else module

    def _sized(self, name: str, size: tuple[int, ...]) -> Any:
        """The module for images of a size; one that was built for another size is copied with the new one."""
        network = names.MODELS.get(name)
        trains = self._trains
        towers = facts.kind(network) == "towers"
        outputs = self.parameterization.channels
        if outputs > 1 and not (takes(network, "learn_sigma") or takes(network, "out_channels")):
            raise ConfigError(
                f"config.model.name = {name!r} puts out as many channels as it takes, and config.parameterization "
                "(learned_variance) needs as many again. Valid: dit, unet."
            )
        height = size[0]
        channels = size[-1]
        sized = {
            "shape": size,
            "resolution": height,
            "channels": channels,
            "in_channels": channels,
            "picture_channels": channels,
            "out_channels": channels * outputs,
        }
        if isinstance(network, type) and not towers and "config.model" in self._built:
            return self._built["config.model"].clone(
                **{field: x for field, x in sized.items() if takes(network, field)}
            )
        dtype = self.config["train"]["dtype"]
        tower = lambda s, p: call(
            names.TOWERS, {"name": p.rpartition(".")[2], **s}, p, "tower", size=height, dtype=dtype
        )
        self._built.pop("config.model", None)
        return self._call(
            names.MODELS,
            self.config["model"],
            "config.model",
            "model",
            **({"augmentations": trains.augmentations} if trains.augmentations else {}),
            nested=dict.fromkeys(names.TOWERS, tower) if towers else {},
            times=trains.times,
            strength=trains.strength is not None,
            learn_sigma=outputs > 1,
            dtype=dtype,
            **sized,
        )

    @property
    def _trains(self) -> objectives.Objective:
        return self._without_dropout(self.config["objective"], "config.objective", names.OBJECTIVES)

    # ==== The training ====

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer `config.optimizer`, for the updates of the model in `config.train.steps`.

        Where the objective has stages it starts anew with each; a model with a second player is updated at some steps
        alone.
        """
        total = self.config["train"]["steps"]
        every = self.config["second_player"]["updates"]
        stages = self._trains.teacher and self._trains.teacher.stages
        length = stages.length if stages else None
        updates = length or math.ceil(total / every)
        made = self._call(names.OPTIMIZERS, self.config["optimizer"], "config.optimizer", "optimizer", steps=updates)
        if length is None and every == 1:
            return made
        return made._replace(learning_rate=lambda step: made.learning_rate(step % length if length else step // every))

    @property
    def second_optimizer(self) -> optimizers.Optimizer:
        """The optimizer of the second player, `config.second_player.optimizer`, for a run of `config.train.steps`."""
        steps = self.config["train"]["steps"]
        spec = self.config["second_player"]["optimizer"]
        return self._call(names.OPTIMIZERS, spec, "config.second_player.optimizer", "optimizer", steps=steps)

    @property
    def average(self) -> ema.ExponentialMovingAverage:
        """The moving average `config.ema`: a power function of width `sigma_rel`, or an exponential where that is 0."""
        settings = self.config["ema"]
        if settings["sigma_rel"]:
            return power_ema.power_function(settings["sigma_rel"])
        return ema.exponential_moving_average(settings["decay"], settings["warmup"])

    @property
    def augmentations(self) -> tuple[transforms.Augmentation, ...]:
        """The augmentations `config.data.augment`, in their order."""
        return tuple(
            self._call(names.AUGMENTATIONS, spec, f"config.data.augment[{i}]", "augmentation")
            for i, spec in enumerate(self.config["data"]["augment"])
        )

    # ==== The sampling ====

    @property
    def sampler(self) -> samplers.Sampler:
        """The sampler `config.sample.sampler`."""
        return self._sampler(self.config["sample"]["sampler"], "config.sample.sampler")

    def _sampler(self, spec: Mapping, path: str) -> samplers.Sampler:
        return self._call(names.SAMPLERS, spec, path, "sampler", nested={"predictor": self._sampler})

    @property
    def pair_sampler(self) -> samplers.Sampler:
        """The sampler by which the teacher makes pairs, `config.teacher.pairs.sampler`."""
        return self._sampler(self.config["teacher"]["pairs"]["sampler"], "config.teacher.pairs.sampler")

    @property
    def plan(self) -> timesteps.Plan:
        """The steps of sampling: `config.sample.grid` with `config.sample.steps` steps, moved by `sample.shift`."""
        settings = self.config["sample"]
        grid = self._call(
            names.GRIDS, settings["grid"], "config.sample.grid", "grid", schedule=self.schedule, steps=settings["steps"]
        )
        try:
            return timesteps.plan(timesteps.shift(self.schedule, grid, settings["shift"]))
        except ValueError as error:
            raise ConfigError(f"config.sample (grid, steps, shift): {error}") from error

    def guidance(self, branches: Branches) -> Denoiser | Memory | Unpaired:
        """The guidance `config.sample.guidance` of two branches, that of the condition and the null one.

        Raises:
            ConfigError: for a name or argument that is not known, or a scale below zero.
        """
        spec = {name: value for name, value in plain(self.config["sample"]["guidance"]).items() if value is not None}
        path = "config.sample.guidance"
        fields.check_type(f"{path}.scale", spec.get("scale"), float)
        if spec["scale"] < 0:
            raise ConfigError(f"{path}.scale = {spec['scale']}. Valid: at least 0; 1 is no guidance.")
        interval = spec.get("interval")
        if interval is not None and not fields.pair(interval):
            raise ConfigError(
                f"{path}.interval = {interval!r}. Valid: two times (t_low, t_high) with 0 <= t_low < t_high, or None."
            )
        return call(names.GUIDANCES, spec, path, "guidance", branches=branches, schedule=self.schedule)

    # ==== The null condition ====

    @property
    def text_inputs(self) -> conditions.TextInputs | None:
        """What the network `config.model` receives of a text; None for one that receives no text."""
        return facts.text_inputs(names.MODELS.get(self.config["model"].get("name")))

    @property
    def null_class(self) -> int:
        """The label that stands for no class: num_classes, one beyond the last.

        Raises:
            ConfigError: where the model has no classes.
        """
        classes = self.config["model"].get("num_classes", 0)
        if classes < 1:
            raise ConfigError(
                f"config.model.num_classes = {classes}: an unconditional model has no null class. Set "
                "config.objective.condition_dropout = 0 and config.sample.guidance.scale = 1, or give the "
                "model classes."
            )
        return classes

    @property
    def null(self) -> Any:
        """The null condition of one example: a label, entries of the empty caption, or None.

        Returns:
            int32 `[]`, num_classes; {name: `[...]`} for a network that receives text; None for an unconditional one.

        Raises:
            ConfigError: if config.data.text names no vocabulary, or no captions.
        """
        return self._once("the null condition", self._null)

    def _null(self) -> Any:
        text = self.text_inputs
        if text is None:
            return np.int32(self.null_class) if self.config["model"].get("num_classes", 0) else None
        field = TEXT_FOLDERS[text.of]
        place = self.config["data"]["text"][field]
        if not place:
            raise ConfigError(
                f"config.data.text.{field} = '', but config.model.name = {self.config['model']['name']!r} receives "
                "text. Valid: a folder that diffusion encode_text wrote."
            )
        try:
            return texts.null(place) if text.of == "embeddings" else texts.tokens([""], place).null
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.data.text.{field} = {place!r}: {error}") from error


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


def varied(config: Mapping) -> tuple[int, ...]:
    """(H, W) of the samples where the run's pictures are of several sizes; () where all are of one."""
    return tuple(config["data"]["shape"][:2]) if config["data"]["buckets"]["area"] else ()


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
