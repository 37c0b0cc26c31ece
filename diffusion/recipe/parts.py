"""The builder of a run: the table of its parts, each with its fields of the config and the function that builds it.

`Resolver` is this table, in the order in which a run is built: a function reads the config and the parts above it. If
Python passes an object for a part, the function of this part is not called.
"""

import functools
import math
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, overload

from ml_collections import ConfigDict

from diffusion import samplers
from diffusion.arrays import pytrees
from diffusion.data import transforms
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.objectives import Objective
from diffusion.parameterizations import Clock, Denoiser, Parameterization
from diffusion.recipe import (
    class_folders,
    guidance_entry,
    guides,
    kinds,
    names,
    network_entry,
    null_condition,
    objective_entry,
    plan_entry,
    sections,
)
from diffusion.recipe.autoencoder import Autoencoder
from diffusion.recipe.base import Base, TunedNetwork
from diffusion.recipe.companions import Encoder, Perceptual, SecondPlayer, Teacher
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import call, takes
from diffusion.recipe.values import plain, value_at
from diffusion.sampling.caching import Cache, evaluations
from diffusion.schedules import NoiseSchedule
from diffusion.text_to_image import described
from diffusion.training.ema import ExponentialMovingAverage
from diffusion.training.optimizers import Optimizer

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that other parts are made from; it is built once, when it is first read.

    Attributes:
        build: a function from the `Resolver` to the value.
        fields: the fields, or whole sections, of the config that it is built from.
    """

    def __init__(self, build: "Callable[[Resolver], T]", *fields: str):
        """The value that `build` returns, which reads `fields` and the parts above this one."""
        self.build, self.fields = build, fields

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, parts: None, owner: type) -> "Shared[T]": ...

    @overload
    def __get__(self, parts: "Resolver", owner: type) -> T: ...

    def __get__(self, parts, owner):
        return self if parts is None else vars(parts).setdefault(self.name, self.build(parts))


class Part(Shared[T]):
    """An argument of a recipe; if Python passes an object for it, none of its fields may be set."""


# ==== The frozen networks ====


def build_base(parts: "Resolver") -> Base | None:
    """The model that the run tunes, without its weights; None without one."""
    if (tuned := parts.given.get("tuned")) is not None:
        return tuned.base
    settings = parts.config["base"]
    if not settings["path"]:
        return None
    try:
        folder = str(class_folders.folder_of(settings["path"]).absolute())
        model = described(folder, dtype=settings["dtype"])
        if model.kind.second_stage is not None:
            raise ValueError(
                f"a {model.name} cannot be tuned: its folder has no encoder of pictures into the first stage's latents"
            )
        return Base(folder, model)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.base.path = {settings['path']!r}: {error}") from error


def build_tuned(parts: "Resolver") -> TunedNetwork | None:
    """The base with what the run teaches it; None without one."""
    if not parts.config["tuning"].get("name") or parts.base is None:
        return None
    return TunedNetwork(parts.base, parts.field("tuning", "tuning", base=parts.base.model))


def build_autoencoder(parts: "Resolver") -> Autoencoder | None:
    """The autoencoder that trains with the model, in `config.train.dtype`; None without one."""
    settings = parts.config["autoencoder"]
    if not settings["network"].get("name"):
        return None
    dtype = parts.config["train"]["dtype"]
    return Autoencoder(parts.field("autoencoder", "autoencoder.network", dtype=dtype), settings["path"])


def build_encoder(parts: "Resolver") -> Encoder | None:
    """The frozen encoder, whose features are cached where `config.data.latents` are; None without one."""
    settings = parts.config["encoder"]
    if not settings["network"].get("name"):
        return None
    cached = bool(parts.config["data"]["latents"]["dir"])
    return Encoder(parts.field("encoder", "encoder.network"), settings["path"], settings["size"], cached)


def build_perceptual(parts: "Resolver") -> Perceptual | None:
    """The frozen network of features; None without one."""
    settings = parts.config["perceptual"]
    if not settings["network"].get("name"):
        return None
    return Perceptual(parts.field("perceptual network", "perceptual.network"), settings["path"])


# ==== The process ====


def build_schedule(parts: "Resolver") -> NoiseSchedule:
    """The noise schedule of the config, or of the base."""
    return parts.field("schedule", "schedule") if parts.base is None else parts.base.model.process.schedule


def build_prediction(parts: "Resolver") -> Parameterization:
    """The name of what the network predicts, from the config, or from the folder of the base."""
    return parts.field("parameterization", "parameterization") if parts.base is None else parts.base.parameterization


def build_mean(parts: "Resolver") -> Parameterization:
    """The quantity that the channels predict which are no variance."""
    if parts.base is not None:
        return parts.base.parameterization
    if "parameterization" in parts.given:
        return parts.given["parameterization"]
    return parts.field("parameterization", _field_of_mean(parts))


def build_clock(parts: "Resolver") -> Clock | None:
    """The clock that the config names for the network; None: the default of the objective."""
    if parts.base is not None or "parameterization" in parts.given:
        return parts.mean.clock
    field = f"{_field_of_mean(parts)}.clock"
    return parts.field("clock", field) if "clock" in parts.entry(_field_of_mean(parts)) else None


def _field_of_mean(parts: "Resolver") -> str:
    """The parameterization of the first half of the channels, if the second half is a variance."""
    both = parts.prediction.channels > 1 and "parameterization" in parts.config["parameterization"]
    return "parameterization.parameterization" if both else "parameterization"


def build_teacher(parts: "Resolver") -> Teacher | None:
    """The run that teaches, or the base, which teaches what tunes it; None without either."""
    settings = parts.config["teacher"]
    pairs = settings["pairs"]
    sampler = parts.field("sampler", "teacher.pairs.sampler")  # an error in this field is raised without a teacher too
    if parts.tuned is not None:
        return Teacher("", parts.tuned.base.parameterization, settings["scale"])
    if not settings["path"]:
        return None
    parameterization = parts.field("parameterization", "teacher.parameterization")
    return Teacher(settings["path"], parameterization, settings["scale"], pairs["number"], sampler, pairs["steps"])


def build_null(parts: "Resolver") -> Any:
    """The null condition of an example; None for an unconditional network, or for a base, whose data have it."""
    return None if parts.base is not None else null_condition.null(parts.config, parts.given.get("network"))


# ==== The training ====


def build_objective(parts: "Resolver") -> Objective:
    """The training objective, in its wrappers, under the prediction and the clock with which sampling reads it."""
    return objective_entry.build(parts, "objective", parts.config["objective"])


def build_parameterization(parts: "Resolver") -> Parameterization | None:
    """The parameterization that reads the network; None for a network of symbols."""
    return parts.prediction if parts.objective.process is None else None


def build_second(parts: "Resolver") -> SecondPlayer | None:
    """The second player; None without one."""
    settings = parts.config["second_player"]
    if not settings["objective"].get("name"):
        return None
    objective = objective_entry.build(parts, "second player", settings["objective"])
    optimizer = parts.field("optimizer", "second_player.optimizer")
    network = settings["network"].get("name") and parts.field("critic", "second_player.network")
    return SecondPlayer(objective, optimizer, settings["updates"], network or None)


def build_optimizer(parts: "Resolver") -> Optimizer:
    """The optimizer, for the updates of the model in `config.train.steps`.

    If the objective has stages, the optimizer restarts with each. A model with a second player is not updated at
    every step.
    """
    every, updates = _updates_of_model(parts)
    stages = parts.objective.teacher and parts.objective.teacher.stages
    length = stages.length if stages else None
    optimizer = parts.field("optimizer", "optimizer", steps=length or updates)
    if length is None and every == 1:
        return optimizer
    return optimizer._replace(
        learning_rate=lambda step: optimizer.learning_rate(step % length if length else step // every)
    )


def build_average(parts: "Resolver") -> ExponentialMovingAverage:
    """The moving average, which counts the updates of the model as the optimizer does."""
    return parts.field("moving average", "ema", steps=_updates_of_model(parts)[1])


def _updates_of_model(parts: "Resolver") -> tuple[int, int]:
    """(the steps from one update of the model to the next, the number of its updates in the run)."""
    second = parts.given.get("second")
    every = parts.config["second_player"]["updates"] if second is None else second.updates
    return every, math.ceil(parts.config["train"]["steps"] / every)


def build_augmentations(parts: "Resolver") -> tuple[transforms.Augmentation, ...]:
    """The augmentations of the examples, in their order."""
    entries = enumerate(parts.config["data"]["augment"])
    return tuple(parts.build("augmentation", entry, f"config.data.augment[{i}]") for i, entry in entries)


# ==== The sampling ====


def build_driver(parts: "Resolver") -> Callable[..., Any] | guides.Steered:
    """The driver, a function of the named arguments of `samplers.sample` that returns x at the end; or `Steered`."""
    entry = plain(parts.config["sample"]["driver"])
    if entry == {"name": "sample"}:
        return samplers.sample
    if (steered := guides.steered(entry, parts.measured)) is not None:
        return steered

    def drive(**arguments):
        driven = call(names.DRIVERS, entry, "config.sample.driver", "driver", **arguments)
        return driven[0] if isinstance(driven, tuple) else driven  # the other value is the cost

    return drive


def build_guidance(parts: "Resolver") -> Callable[[Branches], Denoiser | Memory | Unpaired]:
    """The guidance, a function from its branches to the guided denoiser."""
    return functools.partial(guidance_entry.guided, parts.config, parts.schedule)


def build_cache(parts: "Resolver") -> Cache | None:
    """The cache of the network's blocks, for the evaluations of the plan; None without one."""
    entry = parts.config["sample"]["cache"]
    return parts.build("cache", entry, "config.sample.cache", **evaluations(parts.plan)) if entry.get("name") else None


class Resolver:
    """The table of a run's parts. Each is built once, when it is first read.

    A line names a part, its function, and its fields of the config. A function may also read a field of the run, such
    as `config.train.steps`, or of another part.

    Attributes:
        config: the run's config.
        given: {name of a recipe's argument: object} of the parts that Python passes; the other parts read them.
        shape: the shape of an example; None before it is known.
        built: the results of the config's entries, by their paths.
    """

    base = Shared(build_base, "base")
    tuned = Part(build_tuned, "tuning")
    autoencoder = Part(build_autoencoder, "autoencoder")
    encoder = Part(build_encoder, "encoder")
    perceptual = Part(build_perceptual, "perceptual")

    schedule = Part(build_schedule, "schedule")
    prediction = Shared(build_prediction, "parameterization")
    mean = Shared(build_mean, "parameterization")
    clock = Shared(build_clock, "parameterization")
    teacher = Part(build_teacher, "teacher")
    num_classes = Part(lambda parts: parts.config["model"].get("num_classes", 0), "model.num_classes")
    null = Part(build_null)

    chosen_plan = Part(plan_entry.chosen_plan, "sample.plan", "sample.grid", "sample.shift")
    grid = Shared(plan_entry.grid, "sample.grid", "sample.shift", "sample.steps")

    objective = Part(build_objective, "objective")
    parameterization = Part(build_parameterization, "parameterization")
    network = Part(network_entry.build, "model", "base", "tuning", "train.dtype")
    second = Part(build_second, "second_player")
    optimizer = Part(build_optimizer, "optimizer")
    average = Part(build_average, "ema")
    augmentations = Part(build_augmentations, "data.augment")

    sampler = Part(lambda parts: parts.field("sampler", "sample.sampler"), "sample.sampler")
    plan = Part(plan_entry.plan, "sample.plan", "sample.grid", "sample.shift", "sample.steps")
    guidance = Part(build_guidance, "sample.guidance")
    conditions = Part(lambda parts: guidance_entry.conditions(parts.config), "sample.guidance")
    # It follows from guidance, which has the field.
    depths = Part(lambda parts: guidance_entry.takes_depths(parts.config))
    cache = Part(build_cache, "sample.cache")
    merge = Part(lambda parts: parts.config["sample"]["merge"], "sample.merge")
    measured = Part(lambda parts: guides.measured(parts.config), "sample.measurement")
    driver = Part(build_driver, "sample.driver")
    guides = Part(guides.build_guides, "sample.guides")

    def __init__(self, config: Mapping, given: Mapping[str, Any] = MappingProxyType({}), shape: Any = None):
        """The parts of a config, with objects in the place of some of them.

        Args:
            config: the run's config.
            given: the objects, by the names in `PARTS`.
            shape: the shape of an example; None: `config.data.shape`.
        """
        self.config = config
        self.given = dict(given)
        self.shape = config["data"]["shape"] if shape is None else shape
        self.built: dict[str, Any] = {}
        vars(self).update(given)  # each replaces the part of that name

    def second_run(self, config: Mapping) -> types.SimpleNamespace:
        """The parts of another run's recipe, and its config; a guide reads its network."""
        return types.SimpleNamespace(
            config=config, **sections.sectioned(Resolver(config).parts(config["data"]["shape"]))
        )

    def parts(self, shape: Any = None) -> dict[str, Any]:
        """The parts of the recipe by their names, for examples of a shape if it is known.

        Raises:
            ConfigError: for a mistake in an entry, with its path.
        """
        pictures = shape if self.autoencoder is not None else None
        shape = self.model_shape_of(shape)
        at = lambda schedule: Resolver(self.config, {**self.given, "schedule": schedule}, self.shape)
        sized = "network" not in self.given
        build = lambda name: self.model(shape) if name == "network" and sized else getattr(self, name)
        return {name: build(name) for name in PARTS} | {
            "pictures": pictures and tuple(pictures),
            "shape": shape if shape is None else pytrees.packed_shape(tuple(shape)),
            "rebuilt": sections.Rebuilt(
                network=self.model if sized else None, under=lambda schedule: at(schedule).parts(pictures or shape)
            ),
        }

    def model(self, shape: Any = None) -> Any:
        """The module `config.model`, not initialised; see `network_entry.build`."""
        return network_entry.build(self, shape)

    def model_shape_of(self, shape: Any) -> Any:
        """The shape of the model's x for an example: its latent's if an autoencoder trains with the model."""
        if shape is None or self.autoencoder is None:
            return shape
        try:
            return self.autoencoder.latent_shape(tuple(shape))
        except ValueError as error:
            raise ConfigError(f"config.autoencoder.network: {error}.") from error

    # ==== Entries ====

    def entry(self, field: str) -> Any:
        """The value of a dotted field of the config."""
        return value_at(self.config, field)

    def field(self, kind: str, field: str, **supplied: Any) -> Any:
        """The result of the function that the entry in a dotted field of the config names."""
        return self.build(kind, self.entry(field), f"config.{field}", **supplied)

    def build(
        self, kind: str, entry: Mapping, path: str, nested: Mapping = MappingProxyType({}), **supplied: Any
    ) -> Any:
        """The result of the function that an entry names, called once; entries among its arguments are built first."""
        facts = kinds.KINDS[kind]
        given = entry if isinstance(entry, Mapping | ConfigDict) else {}  # `kinds.build` refuses the others
        function = facts.table.get(given.get("name", ""))
        wanted = [
            name for name in facts.asks if function is not None and name not in supplied and takes(function, name)
        ]
        if kind == "samples of a generator" and "grid" in given:
            wanted = []  # without a grid of its own the generator is trained on the grid of sampling
        supplied |= {name: kinds.ASKED_FOR[name](self) for name in wanted}
        inner = {"steps": supplied["steps"]} if kind == "grid" and "steps" in supplied else {}  # a grid within a grid
        arguments = facts.entries_of(function, supplied) if function is not None else {}
        entries = {
            argument: functools.partial(self.build, inner_kind, **inner) for argument, inner_kind in arguments.items()
        }
        nested = {**entries, **nested}
        if path not in self.built:
            self.built[path] = kinds.build(kind, entry, path, nested, **supplied)
        return self.built[path]


# {argument of a recipe: its fields}, in the order in which they are built and their errors are raised.
PARTS = {name: part.fields for name, part in vars(Resolver).items() if isinstance(part, Part)}
