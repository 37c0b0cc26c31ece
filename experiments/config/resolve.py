"""From the names in a config to one `Recipe`, by the tables of `diffusion.experiments.config.names`."""

import functools
import math
import operator
import pathlib
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType, NoneType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion import flow_maps, objectives, parameterizations, pytrees, samplers, schedules, timesteps
from diffusion.adapters.tuning import Tuning
from diffusion.caching import Cache, evaluations
from diffusion.data import transforms
from diffusion.experiments.config import (
    ConfigError,
    fields,
    fits,
    guidance_entry,
    guides,
    kinds,
    names,
    null_condition,
    picture_sizes,
)
from diffusion.experiments.config.autoencoder import Autoencoder
from diffusion.experiments.config.base import Base, TunedNetwork
from diffusion.experiments.config.encoder import Encoder
from diffusion.experiments.config.entries import annotation, applied, call, takes, tuples_of
from diffusion.experiments.config.perceptual import Perceptual
from diffusion.experiments.config.recipe import ChosenPlan, Recipe, SecondPlayer, Teacher
from diffusion.experiments.config.values import plain
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.models import facts
from diffusion.parameterizations import Denoiser
from diffusion.text_to_image import described
from diffusion.training import ema, optimizers, power_ema

SETTINGS = ("guidance", "aligned", "equivariance")  # arguments of objectives that are tuples of settings
OBJECTIVE_PATHS = {"objective": "config.objective", "second player": "config.second_player.objective"}


def recipe(config: ConfigDict, shape: tuple[int, ...] | None = None) -> Recipe:
    """The value that a config describes, for examples of a shape where that is known; `checks.validate` checks it too.

    Raises:
        ConfigError: for a mistake in an entry, with its path.
    """
    return Resolver(config).recipe(shape)


class Resolver:
    """The entries of a config, each built once, when it is first read: entries share what they are made of."""

    def __init__(self, config: Mapping, schedule: schedules.NoiseSchedule | None = None):
        """The entries of a config, under another schedule than the config names where that one is known."""
        self.config = config
        self._built: dict[str, Any] = {} if schedule is None else {"config.schedule": schedule}  # by their paths

    def recipe(self, shape: tuple[int, ...] | None = None) -> Recipe:
        """All entries as one value; see the function of that name."""
        second = self.config["second_player"]
        teacher = self.config["teacher"]
        pairs = teacher["pairs"]
        pictures = shape if self.autoencoder is not None else None
        shape = self.of_model(shape)
        teaches = (teacher["scale"], pairs["number"], self.pair_sampler, pairs["steps"])
        return Recipe(
            schedule=self.schedule,
            objective=self.objective,
            network=self.model(shape),
            parameterization=self.parameterization,
            optimizer=self.optimizer,
            average=self.average,
            second=SecondPlayer(self.second_player, self.second_optimizer, second["updates"], self.critic)
            if second["objective"].get("name")
            else None,
            base=self.base,
            tuning=self.tuning,
            encoder=self.encoder,
            autoencoder=self.autoencoder,
            pictures=pictures and tuple(pictures),
            perceptual=self.perceptual,
            teacher=Teacher(teacher["path"], self.teacher_parameterization, *teaches) if teacher["path"] else None,
            sampler=self.sampler,
            plan=self.plan,
            chosen_plan=self.chosen_plan,
            driver=self.driver,
            guidance=self.guidance,
            conditions=self.conditions,
            depths=self.depths,
            guides=self.guides,
            cache=self.cache,
            merge=self.config["sample"]["merge"],
            measured=self.measured,
            null=self.null,
            num_classes=self.config["model"].get("num_classes", 0),
            augmentations=self.augmentations,
            shape=shape if shape is None else pytrees.packed_shape(tuple(shape)),
            config=self.config,
            network_of=self.model,
            under=lambda schedule: Resolver(self.config, schedule).recipe(pictures or shape),
        )

    def _field(self, kind: str, field: str, **supplied: Any) -> Any:
        """What the entry in a dotted field of the config names."""
        entry = functools.reduce(operator.getitem, field.split("."), self.config)
        return self._made(kind, entry, f"config.{field}", **supplied)

    def _made(
        self, kind: str, entry: Mapping, path: str, nested: Mapping = MappingProxyType({}), **supplied: Any
    ) -> Any:
        """What an entry names, called once; the entries among its arguments are made likewise."""
        if kind in ("density", "grid"):
            shape = self.of_model(self.config["data"]["shape"])
            supplied |= {"schedule": self.schedule, "dimension": math.prod(shape) if shape else None}
        elif kind == "weighting":
            supplied["parameterization"] = self._mean
        elif kind == "curriculum":
            supplied["total"] = self.config["train"]["steps"]
        elif kind == "samples of a generator" and "grid" not in entry:
            supplied["grid"] = self.grid  # trained as it is sampled
        table, arguments = kinds.KINDS[kind]
        inner = {"steps": supplied["steps"]} if kind == "grid" and "steps" in supplied else {}  # of a grid of a grid
        nested = {
            argument: functools.partial(self._made, inner_kind, **inner) for argument, inner_kind in arguments.items()
        } | (nested or {})
        return self._once(path, lambda: call(table, entry, path, kind, nested=nested, **supplied))

    def _once(self, what: str, build: Callable[[], Any]) -> Any:
        if what not in self._built:
            self._built[what] = build()
        return self._built[what]

    # ==== The process ====

    @property
    def schedule(self) -> schedules.NoiseSchedule:
        """The noise schedule `config.schedule`, or the schedule of the base."""
        if self.base is not None and "config.schedule" not in self._built:
            return self.base.model.process.schedule
        return self._field("schedule", "schedule")

    @property
    def parameterization(self) -> parameterizations.Parameterization:
        """The network's prediction, `config.parameterization`, or as the folder of the base says."""
        if self.base is not None:
            return self.base.parameterization
        return self._field("parameterization", "parameterization")

    @property
    def _mean_field(self) -> str:
        """The field of the first half of the channels' prediction, where the second half is a variance."""
        both = self.parameterization.channels > 1 and "parameterization" in self.config["parameterization"]
        return "parameterization.parameterization" if both else "parameterization"

    @property
    def _mean(self) -> parameterizations.Parameterization:
        if self.base is not None:
            return self.base.parameterization
        return self._field("parameterization", self._mean_field)

    @property
    def teacher_parameterization(self) -> parameterizations.Parameterization | None:
        """What "teacher" predicts, as `config.teacher.parameterization` says; None without a teacher."""
        if not self.config["teacher"]["path"]:
            return None
        return self._field("parameterization", "teacher.parameterization")

    # ==== The objectives ====

    @property
    def objective(self) -> objectives.Objective:
        """The training objective `config.objective`, with its augmentation and condition dropout.

        What the network predicts and the clock that it receives come from `config.parameterization`, so that sampling
        reads the network as it was trained.
        """
        return self._once(
            "objective", lambda: self._with_prior(self._with_dropout("objective", self.config["objective"]))
        )

    def _with_prior(self, made: objectives.Objective) -> objectives.Objective:
        prior = self.config["prior"]
        return objectives.with_prior_preservation(made, prior["weight"]) if prior["prompt"] else made

    @property
    def second_player(self) -> objectives.Objective:
        """The objective of the second player, `config.second_player.objective`."""
        return self._with_dropout("second player", self.config["second_player"]["objective"])

    def _with_dropout(self, kind: str, entry: Mapping) -> objectives.Objective:
        rate = entry.get("condition_dropout", 0.0)
        path = f"{OBJECTIVE_PATHS[kind]}.condition_dropout"
        fields.check_type(path, rate, float)
        if rate == 0:
            return self._without_dropout(kind, entry)
        try:
            follows = self.base is not None or fits.conditions_may_follow(self.config)
            null = null_condition.null_class(self.config) if self.null is None and not follows else self.null
            if entry.get("end_to_end") is not None:
                return self._end_to_end(self._of_x(kind, entry), entry, condition_dropout=rate, null=null)
            alone = self.tuning.apart if self.tuning is not None else ()
            return objectives.with_condition_dropout(self._of_x(kind, entry), null, rate, alone)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    def _without_dropout(self, kind: str, entry: Mapping) -> objectives.Objective:
        """The objective on all conditions, which says what its network receives before the null condition is known."""
        objective = self._of_x(kind, entry)
        return objective if entry.get("end_to_end") is None else self._end_to_end(objective, entry)

    def _end_to_end(self, objective: objectives.Objective, entry: Mapping, **dropout: Any) -> objectives.Objective:
        """The objective on latents with the training of the autoencoder `config.autoencoder` that makes them."""
        path = "config.objective.end_to_end"
        if self.autoencoder is None:
            raise ConfigError(
                f"{path} = {plain(entry['end_to_end'])!r} trains an autoencoder, and config.autoencoder.network names "
                "none. Valid: e.g. {'name': 'autoencoder_kl'}."
            )
        dropout = {"condition_dropout": 0.0, "null": None} | dropout
        supplied = {"objective": objective, "autoencoder": self.autoencoder.latents(), **dropout}
        return applied(objectives.end_to_end, entry["end_to_end"], path, "end-to-end training", **supplied)

    def _of_x(self, kind: str, entry: Mapping) -> objectives.Objective:
        """The objective on x as the model has it, a latent's where an autoencoder trains with the model."""
        path = OBJECTIVE_PATHS[kind]
        entry = plain(entry, path)
        entry.pop("condition_dropout", None)
        augment = entry.pop("augment", None)
        terms = entry.pop("terms", ())
        uncertainty = entry.pop("uncertainty", None)
        masked = entry.pop("masked", None)
        pictures = entry.pop("pictures", None)
        entry.pop("end_to_end", None)
        function = kinds.KINDS[kind].table.get(entry.get("name"))
        clock = None
        if self.base is not None:
            clock = self.base.parameterization.clock
        elif "clock" in functools.reduce(operator.getitem, self._mean_field.split("."), self.config):
            clock = self._field("clock", f"{self._mean_field}.clock")
        objective = self._made(
            kind,
            entry,
            path,
            self._settings_of(function),
            schedule=self.schedule,
            parameterization=self._mean,
            generator=self._mean,
            student=self._mean,
            teacher=self.teacher_parameterization,
            fake=self.teacher_parameterization,
            null=self.null if takes(function, "null") else None,
            clock=clock,
            clocks=flow_maps.start_and_duration(clock),
            total=self.config["train"]["steps"],
            teacher_scale=self.config["teacher"]["scale"],
        )
        if not isinstance(objective, objectives.Objective):
            raise ConfigError(
                f"{path}.name = {entry['name']!r} returns a {type(objective).__name__}. Valid: a function that returns "
                "an objectives.Objective, which holds the loss; see docs/extend.md."
            )
        if uncertainty is not None:
            network = self._made("network of uncertainty", uncertainty, f"{path}.uncertainty")
            objective = objectives.with_uncertainty(objective, network)
        if masked is not None:
            objective = applied(
                objectives.with_masked_copy, masked, f"{path}.masked", "masked copy", objective=objective
            )
        if pictures is not None:
            objective = applied(
                objectives.with_pictures, pictures, f"{path}.pictures", "pictures of clips", objective=objective
            )
        objective = self._with_terms(objective, terms, f"{path}.terms")
        if augment is not None:
            augmentation = self._made("conditioning augmentation", augment, f"{path}.augment")
            objective = objectives.with_augmentation(objective, augmentation)
        if self.schedule.trained is None or kind != "objective":
            return objective
        with fits.blamed_on(self.config, "schedule", f"{path.removeprefix('config.')}.name"):
            return objectives.with_trained_schedule(objective, self.schedule.trained)

    def _settings_of(self, function: Callable | None) -> dict[str, Callable[[Any, str], Any]]:
        """For each argument of an objective in SETTINGS, the function (entry, path) that makes its tuple."""

        def setting(kind: type, argument: str, entry: Any, path: str) -> Any:
            null = {"null": null_condition.null_class(self.config)} if takes(kind, "null") else {}
            return applied(kind, entry, path, argument, **null)

        kinds = {argument: tuples_of(annotation(function, argument)) for argument in SETTINGS}
        return {
            argument: functools.partial(setting, tuple_types[0], argument)
            for argument, tuple_types in kinds.items()
            if tuple_types
        }

    def _with_terms(self, objective: objectives.Objective, entries: Any, path: str) -> objectives.Objective:
        """The objective with its terms on the network's features."""
        fields.check_type(path, entries, tuple)
        if not entries:
            return objective
        terms = [self._made("term", e, f"{path}[{i}]", parameterization=self._mean) for i, e in enumerate(entries)]
        try:
            return objectives.added(objective, *terms)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}.") from error

    # ==== The network ====

    def model(self, shape: Any = None) -> Any:
        """The Linen module `config.model`, not initialised, for examples of a shape, or of a pytree of shapes.

        The sizes of its images, the channels that it puts out and the times that it receives come from the rest of the
        config, under the names that the network has for them. Where the shape is known, the patch size is checked too.

        Raises:
            ConfigError: also for a network that the objective or the parameterization cannot be used with.
        """
        if self.base is not None and self.tuning is not None:
            return TunedNetwork(self.base, self.tuning)
        shape = shape or self.of_model(self.config["data"]["shape"])
        if shape is not None:
            picture_sizes.check_shape(self.config, shape)
        name = plain(self.config["model"]).get("name")
        # Before the data are known only the other fields are looked at, of images of some size.
        module = self._sized(name, shape or (64, 64, 3))
        trains = self._trains
        if getattr(module, "dropout", 0):
            raise ConfigError(f"config.model.dropout = {module.dropout}: this loop draws none. Valid: 0.")
        attention = getattr(module, "attention", "matmul")
        if trains.forward_mode and attention == "cudnn":
            raise ConfigError(
                f"config.model.attention = {attention!r} has no forward derivative, and config.objective.name = "
                f"{self.config['objective']['name']!r} differentiates the network in forward mode. Valid: "
                "auto, auto_jvp, cudnn_jvp, matmul, xla."
            )
        if trains.forward_mode and self.config["train"]["products"] == "fp8":
            raise ConfigError(
                "config.train.products = 'fp8' has no forward derivative, and config.objective.name = "
                f"{self.config['objective']['name']!r} differentiates the network in forward mode. Valid: dtype."
            )
        if trains.forward_mode and attention == "auto":
            module = module.clone(attention="auto_jvp")
        takes_any_shape = NoneType in typing.get_args(annotation(names.MODELS.get(name), "shape"))
        return module.clone(shape=None) if shape is None and takes_any_shape else module

    def of_model(self, shape: Any) -> Any:
        """The shape of the model's x for examples of a shape: a latent's where an autoencoder trains with it."""
        if shape is None or self.autoencoder is None:
            return shape
        try:
            return self.autoencoder.latent_shape(tuple(shape))
        except ValueError as error:
            raise ConfigError(f"config.autoencoder.network: {error}.") from error

    def _sized(self, name: str, size: Any) -> Any:
        """The module for examples of a size; one that was built for another size is copied with the new one."""
        network = names.MODELS.get(name)
        trains = self._trains
        towers = facts.kind(network) == "towers"
        outputs = trains.channels or self.parameterization.channels
        if outputs > 1 and not (takes(network, "learn_sigma") or takes(network, "out_channels")):
            by = "config.objective" if trains.channels else "config.parameterization (learned_variance)"
            raise ConfigError(
                f"config.model.name = {name!r} puts out as many channels as it takes, and {by} needs {outputs} times "
                "as many. Valid: dit, unet."
            )
        sized = {"shape": size}  # of a pytree, all that there is to say
        height = 0
        if pytrees.is_shape(tuple(size)):
            size = tuple(size)
            height = size[0] if size else 1
            channels = size[-1] if size else 1
            sized = {
                "shape": size,
                "axes": len(size) - 1,
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
        return self._field(
            "model",
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
    def base(self) -> Base | None:
        """The model that the run tunes, `config.base`, without its weights; None without one."""
        settings = self.config["base"]
        if not settings["path"]:
            return None

        def opened() -> Base:
            try:
                folder = str(pathlib.Path(settings["path"]).expanduser().absolute())
                return Base(folder, described(folder, dtype=settings["dtype"]))
            except (FileNotFoundError, ValueError) as error:
                raise ConfigError(f"config.base.path = {settings['path']!r}: {error}") from error

        return self._once("config.base", opened)

    @property
    def tuning(self) -> Tuning | None:
        """What the run teaches its base, `config.tuning`; None without one."""
        named = self.config["tuning"].get("name")
        return self._field("tuning", "tuning", base=self.base.model) if named and self.base is not None else None

    @property
    def encoder(self) -> Encoder | None:
        """The frozen encoder `config.encoder`; None without one."""
        settings = self.config["encoder"]
        if not settings["network"].get("name"):
            return None
        cached = bool(self.config["data"]["latents"]["dir"])
        return Encoder(self._field("encoder", "encoder.network"), settings["path"], settings["size"], cached)

    @property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder `config.autoencoder` that trains with the model; None without one."""
        settings = self.config["autoencoder"]
        if not settings["network"].get("name"):
            return None
        dtype = self.config["train"]["dtype"]
        return Autoencoder(self._field("autoencoder", "autoencoder.network", dtype=dtype), settings["path"])

    @property
    def critic(self) -> Any:
        """The network of the second player, `config.second_player.network`; None where it has the teacher's."""
        named = self.config["second_player"]["network"].get("name")
        return self._field("critic", "second_player.network") if named else None

    @property
    def perceptual(self) -> Perceptual | None:
        """The frozen network of features `config.perceptual`; None without one."""
        settings = self.config["perceptual"]
        if not settings["network"].get("name"):
            return None
        return Perceptual(self._field("perceptual network", "perceptual.network"), settings["path"])

    @property
    def _trains(self) -> objectives.Objective:
        return self._without_dropout("objective", self.config["objective"])

    # ==== The training ====

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer `config.optimizer`, for the updates of the model in `config.train.steps`.

        Where the objective has stages, the optimizer restarts with each; a model with a second player is updated at
        some steps alone.
        """
        total = self.config["train"]["steps"]
        every = self.config["second_player"]["updates"]
        stages = self._trains.teacher and self._trains.teacher.stages
        length = stages.length if stages else None
        updates = length or math.ceil(total / every)
        optimizer = self._field("optimizer", "optimizer", steps=updates)
        if length is None and every == 1:
            return optimizer
        return optimizer._replace(
            learning_rate=lambda step: optimizer.learning_rate(step % length if length else step // every)
        )

    @property
    def second_optimizer(self) -> optimizers.Optimizer:
        """The optimizer of the second player, `config.second_player.optimizer`, for a run of `config.train.steps`."""
        return self._field("optimizer", "second_player.optimizer", steps=self.config["train"]["steps"])

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
            self._made("augmentation", entry, f"config.data.augment[{i}]")
            for i, entry in enumerate(self.config["data"]["augment"])
        )

    # ==== The sampling ====

    @property
    def sampler(self) -> samplers.Sampler:
        """The sampler `config.sample.sampler`."""
        return self._field("sampler", "sample.sampler")

    @property
    def pair_sampler(self) -> samplers.Sampler:
        """The sampler by which the teacher makes pairs, `config.teacher.pairs.sampler`."""
        return self._field("sampler", "teacher.pairs.sampler")

    @property
    def plan(self) -> timesteps.Plan:
        """The steps of sampling: `config.sample.plan` of the grid's times, moved by `sample.shift`.

        Where the grid is one that the trained network decides, equal steps stand for it; see `chosen_plan`.
        """
        return self._planned(self.grid)

    @property
    def grid(self) -> np.ndarray:
        """`[steps + 1]` times of sampling, before `config.sample.plan` makes its steps of them."""
        steps = self.config["sample"]["steps"]
        if self.chosen_plan is not None:
            return timesteps.uniform(self.schedule, steps=steps)
        return self._shifted(self._field("grid", "sample.grid", steps=steps))

    @property
    def chosen_plan(self) -> ChosenPlan | None:
        """Where the function of `config.sample.grid` reads a denoiser, how its times are chosen; else None."""
        entry = self.config["sample"]["grid"]
        if not takes(names.GRIDS.get(entry.get("name"), lambda: None), "denoise"):
            return None
        path = "config.sample.grid"
        fine = {"grid": lambda spec, path: self._shifted(self._made("grid", spec, path))}
        known = {"schedule": self.schedule, "steps": self.config["sample"]["steps"]}
        choose = lambda denoise, x: self._planned(
            call(names.GRIDS, entry, path, "grid", nested=fine, denoise=denoise, x=x, **known)
        )
        among = plain(entry, path).get("grid", {"name": "uniform", "steps": 64})
        return ChosenPlan(timesteps.plan(fine["grid"](among, f"{path}.grid")), choose)

    def _shifted(self, grid: Any) -> np.ndarray:
        try:
            return timesteps.shift(self.schedule, grid, self.config["sample"]["shift"])
        except ValueError as error:
            raise ConfigError(f"config.sample (grid, steps, shift): {error}") from error

    def _planned(self, grid: Any) -> timesteps.Plan:
        path = "config.sample.plan"
        entry = self.config["sample"]["plan"]
        if entry == {"name": "plan"}:  # what can be wrong is the grid
            path = "config.sample (grid, steps, shift)"
        return call(names.PLANS, entry, path, "plan", grid=grid, schedule=self.schedule)

    @property
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

    @property
    def conditions(self) -> Callable[..., tuple[Any, ...]] | None:
        """(network, condition, null) -> the conditions of the branches; None: the condition and the null one."""
        return guidance_entry.conditions(self.config)

    @property
    def depths(self) -> bool:
        """Whether `config.sample.guidance` combines predictions from two depths of the network."""
        return guidance_entry.of_depths(self.config)

    @property
    def cache(self) -> Cache | None:
        """The cache of the network's blocks `config.sample.cache`; None without one."""
        entry = self.config["sample"]["cache"]
        if not entry.get("name"):
            return None
        return self._made("cache", entry, "config.sample.cache", **evaluations(self.plan))

    @property
    def measured(self) -> guides.Measured | None:
        """The measured pictures `config.sample.measurement`; None without an operator."""
        return guides.measured(self.config)

    @property
    def guides(self) -> tuple[guides.Guide, ...]:
        """What changes the guided denoiser, `config.sample.guides`."""
        shape = self.config["data"]["shape"]
        recipe_of = lambda config: recipe(config, config["data"]["shape"])
        return self._once("guides", lambda: guides.made(self.config, self.schedule, self.measured, recipe_of, shape))

    # ==== The null condition ====

    @property
    def null(self) -> Any:
        """The null condition of one example, a label or the empty caption's entries; None for an unconditional network.

        Raises:
            ConfigError: if config.data.text names no vocabulary, or no captions.
        """
        if self.base is not None:
            return None  # its data say which entries a condition has
        return self._once("the null condition", lambda: null_condition.null(self.config))
