"""The one builder of a run: its parts from a config's entries, and from the objects that stand in their place."""

import functools
import math
import operator
import pathlib
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion import objectives, parameterizations, pytrees, samplers, schedules, timesteps
from diffusion.caching import Cache, evaluations
from diffusion.data import transforms
from diffusion.experiments.config import (
    ConfigError,
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
from diffusion.experiments.config.autoencoder import Autoencoder
from diffusion.experiments.config.base import Base, TunedNetwork
from diffusion.experiments.config.companions import SecondPlayer, Teacher
from diffusion.experiments.config.encoder import Encoder
from diffusion.experiments.config.entries import call, takes
from diffusion.experiments.config.perceptual import Perceptual
from diffusion.experiments.config.values import plain
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.parameterizations import Denoiser
from diffusion.text_to_image import described
from diffusion.training import ema, optimizers

PARTS = (  # of a recipe, in the order in which mistakes are named
    "schedule",
    "objective",
    "network",
    "parameterization",
    "optimizer",
    "average",
    "second",
    "tuned",
    "encoder",
    "autoencoder",
    "perceptual",
    "teacher",
    "sampler",
    "plan",
    "chosen_plan",
    "driver",
    "guidance",
    "conditions",
    "depths",
    "guides",
    "cache",
    "merge",
    "measured",
    "null",
    "num_classes",
    "augmentations",
)


class Resolver:
    """The parts of a run, each built once, when it is first read: entries share what they are made of.

    Attributes:
        config: the run's config.
        given: the parts that are objects already, by the names of a recipe's arguments; the other parts see them.
        built: the results of the config's entries, by their paths.
    """

    def __init__(self, config: Mapping, given: Mapping[str, Any] = MappingProxyType({}), shape: Any = None):
        """The parts of a config, and of objects in the place of some entries.

        Args:
            config: the run's config.
            given: the objects, by the names in `PARTS`.
            shape: the shape of an example; None: `config.data.shape`.
        """
        self.config = config
        self.given = dict(given)
        self.built: dict[str, Any] = {}
        self._shape = config["data"]["shape"] if shape is None else shape
        vars(self).update(given)  # each stands in place of the property of its name

    def arguments(self, shape: Any = None) -> dict[str, Any]:
        """The arguments of the recipe, for examples of a shape where that is known.

        Raises:
            ConfigError: for a mistake in an entry, with its path.
        """
        return sections.sectioned(self.parts(shape))

    def parts(self, shape: Any = None) -> dict[str, Any]:
        """The parts of the recipe by their own names, for examples of a shape where that is known.

        Raises:
            ConfigError: for a mistake in an entry, with its path.
        """
        pictures = shape if self.autoencoder is not None else None
        shape = self.model_shape_of(shape)
        if "network" not in self.given:
            vars(self)["network"] = self.model(shape)
        at = lambda schedule: Resolver(self.config, {**self.given, "schedule": schedule}, self._shape)
        return {name: getattr(self, name) for name in PARTS} | {
            "pictures": pictures and tuple(pictures),
            "shape": shape if shape is None else pytrees.packed_shape(tuple(shape)),
            "rebuilt": sections.Rebuilt(
                network=None if "network" in self.given else self.model,
                under=lambda schedule: at(schedule).parts(pictures or shape),
            ),
        }

    def field(self, kind: str, field: str, **supplied: Any) -> Any:
        """What the entry in a dotted field of the config names."""
        entry = functools.reduce(operator.getitem, field.split("."), self.config)
        return self.build(kind, entry, f"config.{field}", **supplied)

    def build(
        self, kind: str, entry: Mapping, path: str, nested: Mapping = MappingProxyType({}), **supplied: Any
    ) -> Any:
        """What an entry names, called once; the entries among its arguments are made likewise."""
        table, arguments, asks = kinds.KINDS[kind]
        function = table.get(entry.get("name", "")) if isinstance(entry, Mapping | ConfigDict) else None
        wanted = [name for name in asks if function is not None and name not in supplied and takes(function, name)]
        if kind == "samples of a generator" and "grid" in entry:
            wanted = []  # without one it is trained as it is sampled
        supplied |= {name: kinds.ASKED_FOR[name](self) for name in wanted}
        inner = {"steps": supplied["steps"]} if kind == "grid" and "steps" in supplied else {}  # of a grid of a grid
        made_likewise = {
            argument: functools.partial(self.build, inner_kind, **inner) for argument, inner_kind in arguments.items()
        }
        nested = {**made_likewise, **(nested or {})}
        if path not in self.built:
            self.built[path] = call(table, entry, path, kind, nested=nested, **supplied)
        return self.built[path]

    # ==== The process ====

    @functools.cached_property
    def schedule(self) -> schedules.NoiseSchedule:
        """The noise schedule `config.schedule`, or the schedule of the base."""
        if self.base is not None:
            return self.base.model.process.schedule
        return self.field("schedule", "schedule")

    @functools.cached_property
    def parameterization(self) -> parameterizations.Parameterization | None:
        """The network's prediction, `config.parameterization`, or as the folder of the base says; None for symbols."""
        return None if isinstance(self.objective.reads, objectives.Restores) else self._of_numbers

    @functools.cached_property
    def _of_numbers(self) -> parameterizations.Parameterization:
        """The parameterization as the config says it, which an objective may ask for."""
        if self.base is not None:
            return self.base.parameterization
        return self.field("parameterization", "parameterization")

    @functools.cached_property
    def mean_field(self) -> str:
        """The field of the first half of the channels' prediction, where the second half is a variance."""
        both = self._of_numbers.channels > 1 and "parameterization" in self.config["parameterization"]
        return "parameterization.parameterization" if both else "parameterization"

    @functools.cached_property
    def mean(self) -> parameterizations.Parameterization:
        """The prediction of the channels that are no variance."""
        if self.base is not None:
            return self.base.parameterization
        if "parameterization" in self.given:
            return self.given["parameterization"]
        return self.field("parameterization", self.mean_field)

    @functools.cached_property
    def clock(self) -> parameterizations.Clock | None:
        """The clock that the network receives, where the config says one; None: as an objective has it by itself."""
        if self.base is not None or "parameterization" in self.given:
            return self.mean.clock
        entry = functools.reduce(operator.getitem, self.mean_field.split("."), self.config)
        return self.field("clock", f"{self.mean_field}.clock") if "clock" in entry else None

    @functools.cached_property
    def teacher_parameterization(self) -> parameterizations.Parameterization | None:
        """What "teacher" predicts, as `config.teacher.parameterization` says; None without a teacher."""
        if self.given.get("teacher") is not None:
            return self.given["teacher"].parameterization
        if not self.config["teacher"]["path"]:
            return None
        return self.field("parameterization", "teacher.parameterization")

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """The run `config.teacher` that teaches; None without one."""
        settings = self.config["teacher"]
        pairs = settings["pairs"]
        sampler = self.field("sampler", "teacher.pairs.sampler")  # a mistake there is named without a teacher too
        parameterization = self.teacher_parameterization
        if parameterization is None or not settings["path"]:
            return None
        return Teacher(settings["path"], parameterization, settings["scale"], pairs["number"], sampler, pairs["steps"])

    # ==== The objectives ====

    @functools.cached_property
    def objective(self) -> objectives.Objective:
        """The training objective `config.objective`, in its wrappers.

        What the network predicts and the clock that it receives come from `config.parameterization`, so that sampling
        reads the network as it was trained.
        """
        return objective_entry.build(self, "objective", self.config["objective"])

    @functools.cached_property
    def second_player(self) -> objectives.Objective:
        """The objective of the second player, `config.second_player.objective`."""
        return objective_entry.build(self, "second player", self.config["second_player"]["objective"])

    @functools.cached_property
    def second(self) -> SecondPlayer | None:
        """The second player `config.second_player`; None without one."""
        settings = self.config["second_player"]
        if not settings["objective"].get("name"):
            return None
        optimizer = self.field("optimizer", "second_player.optimizer")
        network = settings["network"].get("name") and self.field("critic", "second_player.network")
        return SecondPlayer(self.second_player, optimizer, settings["updates"], network or None)

    # ==== The network ====

    @property
    def model_shape(self) -> Any:
        """The shape of the model's x, as far as it is known; None before."""
        return self.model_shape_of(self._shape)

    def model(self, shape: Any = None) -> Any:
        """The module `config.model`, not initialised; see `network_entry.build`."""
        return network_entry.build(self, shape)

    def model_shape_of(self, shape: Any) -> Any:
        """The shape of the model's x for examples of a shape: a latent's where an autoencoder trains with it."""
        if shape is None or self.autoencoder is None:
            return shape
        try:
            return self.autoencoder.latent_shape(tuple(shape))
        except ValueError as error:
            raise ConfigError(f"config.autoencoder.network: {error}.") from error

    @functools.cached_property
    def num_classes(self) -> int:
        """The number of classes `config.model.num_classes`, 0 for a network without."""
        return self.config["model"].get("num_classes", 0)

    @functools.cached_property
    def base(self) -> Base | None:
        """The model that the run tunes, `config.base`, without its weights; None without one."""
        if (tuned := self.given.get("tuned")) is not None:
            return tuned.base
        settings = self.config["base"]
        if not settings["path"]:
            return None

        try:
            folder = str(pathlib.Path(settings["path"]).expanduser().absolute())
            return Base(folder, described(folder, dtype=settings["dtype"]))
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.base.path = {settings['path']!r}: {error}") from error

    @functools.cached_property
    def tuned(self) -> TunedNetwork | None:
        """The base with what the run teaches it, `config.tuning`; None without one."""
        if self.base is None or not self.config["tuning"].get("name"):
            return None
        return TunedNetwork(self.base, self.field("tuning", "tuning", base=self.base.model))

    @functools.cached_property
    def encoder(self) -> Encoder | None:
        """The frozen encoder `config.encoder`; None without one."""
        settings = self.config["encoder"]
        if not settings["network"].get("name"):
            return None
        cached = bool(self.config["data"]["latents"]["dir"])
        return Encoder(self.field("encoder", "encoder.network"), settings["path"], settings["size"], cached)

    @functools.cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder `config.autoencoder` that trains with the model; None without one."""
        settings = self.config["autoencoder"]
        if not settings["network"].get("name"):
            return None
        dtype = self.config["train"]["dtype"]
        return Autoencoder(self.field("autoencoder", "autoencoder.network", dtype=dtype), settings["path"])

    @functools.cached_property
    def perceptual(self) -> Perceptual | None:
        """The frozen network of features `config.perceptual`; None without one."""
        settings = self.config["perceptual"]
        if not settings["network"].get("name"):
            return None
        return Perceptual(self.field("perceptual network", "perceptual.network"), settings["path"])

    # ==== The training ====

    @functools.cached_property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer `config.optimizer`, for the updates of the model in `config.train.steps`.

        Where the objective has stages, the optimizer restarts with each; a model with a second player is updated at
        some steps alone.
        """
        total = self.config["train"]["steps"]
        second = self.given.get("second")
        every = self.config["second_player"]["updates"] if second is None else second.updates
        stages = self.objective.teacher and self.objective.teacher.stages
        length = stages.length if stages else None
        updates = length or math.ceil(total / every)
        optimizer = self.field("optimizer", "optimizer", steps=updates)
        if length is None and every == 1:
            return optimizer
        return optimizer._replace(
            learning_rate=lambda step: optimizer.learning_rate(step % length if length else step // every)
        )

    @functools.cached_property
    def average(self) -> ema.ExponentialMovingAverage:
        """The moving average of the model's parameters, `config.ema`."""
        return self.field("moving average", "ema")

    @functools.cached_property
    def augmentations(self) -> tuple[transforms.Augmentation, ...]:
        """The augmentations `config.data.augment`, in their order."""
        return tuple(
            self.build("augmentation", entry, f"config.data.augment[{i}]")
            for i, entry in enumerate(self.config["data"]["augment"])
        )

    # ==== The sampling ====

    @functools.cached_property
    def sampler(self) -> samplers.Sampler:
        """The sampler `config.sample.sampler`."""
        return self.field("sampler", "sample.sampler")

    @functools.cached_property
    def plan(self) -> timesteps.Plan:
        """The steps of sampling; see `plan_entry.plan`."""
        return plan_entry.plan(self)

    @functools.cached_property
    def grid(self) -> np.ndarray:
        """`[steps + 1]` times of sampling; see `plan_entry.grid`."""
        return plan_entry.grid(self)

    @functools.cached_property
    def chosen_plan(self) -> plan_entry.ChosenPlan | None:
        """How the times are chosen for the trained network, where they are; see `plan_entry.chosen_plan`."""
        return None if "plan" in self.given else plan_entry.chosen_plan(self)

    @functools.cached_property
    def driver(self) -> Callable[..., Any]:
        """The driver `config.sample.driver`: from the arguments of `samplers.sample`, by name, to x at the end."""
        entry = plain(self.config["sample"]["driver"])
        if entry == {"name": "sample"}:
            return samplers.sample

        def drive(**arguments):
            driven = call(names.DRIVERS, entry, "config.sample.driver", "driver", **arguments)
            return driven[0] if isinstance(driven, tuple) else driven  # what follows x is its cost

        return drive

    def guidance(self, branches: Branches) -> Denoiser | Memory | Unpaired:
        """The guidance `config.sample.guidance` of its branches; see `guidance_entry.guided`."""
        return guidance_entry.guided(self.config, self.schedule, branches)

    @functools.cached_property
    def conditions(self) -> Callable[..., tuple[Any, ...]] | None:
        """(network, condition, null) -> the conditions of the branches; None: the condition and the null one."""
        return guidance_entry.conditions(self.config)

    @functools.cached_property
    def depths(self) -> bool:
        """Whether `config.sample.guidance` combines predictions from two depths of the network."""
        return guidance_entry.of_depths(self.config)

    @functools.cached_property
    def cache(self) -> Cache | None:
        """The cache of the network's blocks `config.sample.cache`; None without one."""
        entry = self.config["sample"]["cache"]
        if not entry.get("name"):
            return None
        return self.build("cache", entry, "config.sample.cache", **evaluations(self.plan))

    @functools.cached_property
    def merge(self) -> float:
        """The share of the tokens that self-attention sees merged, `config.sample.merge`."""
        return self.config["sample"]["merge"]

    @functools.cached_property
    def measured(self) -> guides.Measured | None:
        """The measured pictures `config.sample.measurement`; None without an operator."""
        return guides.measured(self.config)

    @functools.cached_property
    def guides(self) -> tuple[guides.Guide, ...]:
        """What changes the guided denoiser, `config.sample.guides`."""
        parts_of = lambda config: types.SimpleNamespace(
            config=config, **Resolver(config).arguments(config["data"]["shape"])
        )
        return guides.made(self.config, self.schedule, self.measured, parts_of, self._shape)

    # ==== The null condition ====

    @functools.cached_property
    def null(self) -> Any:
        """The null condition of one example, a label or the empty caption's entries; None for an unconditional network.

        Raises:
            ConfigError: if config.data.text names no vocabulary, or no captions.
        """
        if self.base is not None:
            return None  # its data say which entries a condition has
        return null_condition.null(self.config, self.given.get("network"))
