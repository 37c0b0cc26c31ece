"""From the names in a config to one `Recipe`, by the tables of `diffusion.experiments.config.names`."""

import functools
import math
import operator
import pathlib
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion import flow_maps, objectives, parameterizations, pytrees, samplers, schedules, timesteps
from diffusion.adapters.tuning import Tuning
from diffusion.caching import Cache, evaluations
from diffusion.data import buckets, transforms
from diffusion.data import captions as texts
from diffusion.experiments.config import ConfigError, fields, fits, guides, names
from diffusion.experiments.config.autoencoder import Autoencoder
from diffusion.experiments.config.base import Base, TunedNetwork
from diffusion.experiments.config.encoder import Encoder
from diffusion.experiments.config.entries import annotation, applied, call, takes, tuples_of
from diffusion.experiments.config.perceptual import Perceptual
from diffusion.experiments.config.recipe import ChosenPlan, Recipe, SecondPlayer, Teacher
from diffusion.experiments.config.values import plain
from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.models import facts
from diffusion.models.layers import layer_masks
from diffusion.models.layers.conditions import TextInputs
from diffusion.parameterizations import Denoiser
from diffusion.text_to_image import described
from diffusion.training import ema, optimizers, power_ema

TEXT_FOLDERS = {"tokens": "tokenizer", "embeddings": "dir"}  # of config.data.text, by what the network receives
MOST_MULTIPLES = 128  # that a side of a bucket is
SETTINGS = ("guidance", "aligned", "equivariance")  # arguments of objectives that are tuples of settings
OBJECTIVE_PATHS = {"objective": "config.objective", "second player": "config.second_player.objective"}


class Kind(NamedTuple):
    """The functions that entries of one kind name, and the kinds of those of their arguments that are entries too."""

    table: Mapping[str, Callable]
    entries: Mapping[str, str] = MappingProxyType({})


OF_OBJECTIVES = {
    "density": "density",
    "student_density": "density",
    "coupling": "coupling",
    "weighting": "weighting",
    "interpolant": "interpolant",
    "decoder": "decoder",
    "pairs": "pairs of times",
    "distance": "distance",
    "pair_weighting": "weighting of pairs",
    "solver": "solver",
    "manifold": "manifold",
    "kernel": "heat kernel",
    "prior": "prior",
    "auxiliary": "auxiliary loss",
}
KINDS = {
    "schedule": Kind(names.SCHEDULES, {"schedule": "schedule"}),
    "parameterization": Kind(names.PARAMETERIZATIONS, {"clock": "clock", "parameterization": "parameterization"}),
    "clock": Kind(names.CLOCKS),
    "objective": Kind(names.OBJECTIVES, OF_OBJECTIVES),
    "second player": Kind(names.SECOND_PLAYERS, OF_OBJECTIVES),
    "density": Kind(names.DENSITIES, {"density": "density"}),
    "interpolant": Kind(names.INTERPOLANTS),
    "term": Kind(names.TERMS, {"projector": "projector", "critic": "projector"}),
    "projector": Kind(names.PROJECTORS),
    "network of uncertainty": Kind(names.UNCERTAINTIES),
    "autoencoder": Kind(names.AUTOENCODERS),
    "encoder": Kind(names.ENCODERS),
    "critic": Kind(names.CRITICS),
    "perceptual network": Kind(names.PERCEPTUAL),
    "decoder": Kind(names.DECODERS),
    "pairs of times": Kind(names.PAIRS, {"curriculum": "curriculum"}),
    "curriculum": Kind(names.CURRICULA),
    "distance": Kind(names.DISTANCES),
    "weighting of pairs": Kind(names.PAIR_WEIGHTINGS),
    "solver": Kind(names.SOLVERS),
    "coupling": Kind(names.COUPLINGS, {"cost": "cost of transport"}),
    "cost of transport": Kind(names.COSTS, {"manifold": "manifold"}),
    "manifold": Kind(names.MANIFOLDS),
    "prior": Kind(names.PRIORS),
    "auxiliary loss": Kind(names.AUXILIARY),
    "heat kernel": Kind(names.HEAT_KERNELS, {"manifold": "manifold"}),
    "weighting": Kind(names.WEIGHTINGS, {"parameterization": "parameterization", "weighting": "weighting"}),
    "conditioning augmentation": Kind(names.CONDITIONING_AUGMENTATIONS),
    "model": Kind(names.MODELS),
    "tuning": Kind(names.TUNINGS),
    "optimizer": Kind(names.OPTIMIZERS),
    "augmentation": Kind(names.AUGMENTATIONS),
    "sampler": Kind(names.SAMPLERS, {"predictor": "sampler", "sampler": "sampler"}),
    "grid": Kind(names.GRIDS, {"grid": "grid"}),
    "plan": Kind(names.PLANS),
    "cache": Kind(names.CACHES),
}


def recipe(config: ConfigDict, shape: tuple[int, ...] | None = None) -> Recipe:
    """The value that a config describes, for examples of a shape where that is known; `checks.validate` checks it too.

    Raises:
        ConfigError: for a mistake in an entry, with its path.
    """
    return Resolver(config).recipe(shape)


class Resolver:
    """The entries of a config, each built when it is first read, and once: what it is made of is shared."""

    def __init__(self, config: Mapping, schedule: schedules.NoiseSchedule | None = None):
        """The entries of a config, under another schedule than it names where that is known."""
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
        table, arguments = KINDS[kind]
        inner = {"steps": supplied["steps"]} if kind == "grid" and "steps" in supplied else {}  # of a grid of a grid
        nested = {argument: functools.partial(self._made, of, **inner) for argument, of in arguments.items()} | (
            nested or {}
        )
        return self._once(path, lambda: call(table, entry, path, kind, nested=nested, **supplied))

    def _once(self, what: str, build: Callable[[], Any]) -> Any:
        if what not in self._built:
            self._built[what] = build()
        return self._built[what]

    # ==== The process ====

    @property
    def schedule(self) -> schedules.NoiseSchedule:
        """The noise schedule `config.schedule`, or that of the base."""
        if self.base is not None and "config.schedule" not in self._built:
            return self.base.model.process.schedule
        return self._field("schedule", "schedule")

    @property
    def parameterization(self) -> parameterizations.Parameterization:
        """What the network predicts, `config.parameterization`, or as the folder of the base says."""
        if self.base is not None:
            return self.base.parameterization
        return self._field("parameterization", "parameterization")

    @property
    def _mean_field(self) -> str:
        """The field of what the first half of the channels predicts, where the second half is a variance."""
        both = self.parameterization.channels > 1 and "parameterization" in self.config["parameterization"]
        return "parameterization.parameterization" if both else "parameterization"

    @property
    def _mean(self) -> parameterizations.Parameterization:
        if self.base is not None:
            return self.base.parameterization
        return self._field("parameterization", self._mean_field)

    @property
    def teacher_parameterization(self) -> parameterizations.Parameterization | None:
        """What the network "teacher" predicts: as `config.teacher.parameterization` says; None without a teacher."""
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
            null = self.null_class if self.null is None and not follows else self.null
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
        made = self._of_x(kind, entry)
        return made if entry.get("end_to_end") is None else self._end_to_end(made, entry)

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
        function = KINDS[kind].table.get(entry.get("name"))
        clock = None
        if self.base is not None:
            clock = self.base.parameterization.clock
        elif "clock" in functools.reduce(operator.getitem, self._mean_field.split("."), self.config):
            clock = self._field("clock", f"{self._mean_field}.clock")
        made = self._made(
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
        if not isinstance(made, objectives.Objective):
            raise ConfigError(
                f"{path}.name = {entry['name']!r} returns a {type(made).__name__}. Valid: a function that returns an "
                "objectives.Objective, which holds the loss; see docs/extend.md."
            )
        if uncertainty is not None:
            network = self._made("network of uncertainty", uncertainty, f"{path}.uncertainty")
            made = objectives.with_uncertainty(made, network)
        if masked is not None:
            made = applied(objectives.with_masked_copy, masked, f"{path}.masked", "masked copy", objective=made)
        if pictures is not None:
            made = applied(objectives.with_pictures, pictures, f"{path}.pictures", "pictures of clips", objective=made)
        made = self._with_terms(made, terms, f"{path}.terms")
        if augment is not None:
            augmentation = self._made("conditioning augmentation", augment, f"{path}.augment")
            made = objectives.with_augmentation(made, augmentation)
        if self.schedule.trained is None or kind != "objective":
            return made
        with fits.blamed_on(self.config, "schedule", f"{path.removeprefix('config.')}.name"):
            return objectives.with_trained_schedule(made, self.schedule.trained)

    def _settings_of(self, function: Callable | None) -> dict[str, Callable[[Any, str], Any]]:
        """For each argument of an objective in SETTINGS, the function (entry, path) that makes its tuple."""

        def setting(kind: type, argument: str, entry: Any, path: str) -> Any:
            null = {"null": self.null_class} if takes(kind, "null") else {}
            return applied(kind, entry, path, argument, **null)

        kinds = {argument: tuples_of(annotation(function, argument)) for argument in SETTINGS}
        return {argument: functools.partial(setting, each[0], argument) for argument, each in kinds.items() if each}

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
            check_shape(self.config, shape)
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
        of_any_shape = NoneType in typing.get_args(annotation(names.MODELS.get(name), "shape"))
        return module.clone(shape=None) if shape is None and of_any_shape else module

    def of_model(self, shape: Any) -> Any:
        """The shape of what the model is trained on, of that of an example: a latent's where an autoencoder trains."""
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
                whole = str(pathlib.Path(settings["path"]).expanduser().absolute())
                return Base(whole, described(whole, dtype=settings["dtype"]))
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

        Where the objective has stages it starts anew with each; a model with a second player is updated at some steps
        alone.
        """
        total = self.config["train"]["steps"]
        every = self.config["second_player"]["updates"]
        stages = self._trains.teacher and self._trains.teacher.stages
        length = stages.length if stages else None
        updates = length or math.ceil(total / every)
        made = self._field("optimizer", "optimizer", steps=updates)
        if length is None and every == 1:
            return made
        return made._replace(learning_rate=lambda step: made.learning_rate(step % length if length else step // every))

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
        steps = self.config["sample"]["steps"]
        if self.chosen_plan is not None:
            return self._planned(timesteps.uniform(self.schedule, steps=steps))
        return self._planned(self._shifted(self._field("grid", "sample.grid", steps=steps)))

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
            made = call(names.DRIVERS, entry, "config.sample.driver", "driver", **arguments)
            return made[0] if isinstance(made, tuple) else made  # what follows x is its cost

        return drive

    def guidance(self, branches: Branches) -> Denoiser | Memory | Unpaired:
        """The guidance `config.sample.guidance` of its branches: of the condition and the null one, or `conditions`.

        Raises:
            ConfigError: for a name or argument that is not known, or a scale below zero.
        """
        spec, _ = self._guidance_entry
        path = "config.sample.guidance"
        if "scale" in spec or self.conditions is None:
            fields.check_type(f"{path}.scale", spec.get("scale"), float)
            if spec["scale"] < 0:
                raise ConfigError(f"{path}.scale = {spec['scale']}. Valid: at least 0; 1 is no guidance.")
        interval = spec.get("interval")
        if interval is not None and not fields.pair(interval):
            raise ConfigError(
                f"{path}.interval = {interval!r}. Valid: two times (t_low, t_high) with 0 <= t_low < t_high, or None."
            )
        nested = {"ramp": lambda entry, at: call(names.RAMPS, entry, at, "ramp")}
        return call(names.GUIDANCES, spec, path, "guidance", nested, branches=branches, schedule=self.schedule)

    @property
    def _guidance_entry(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The entry without what is None, as its function takes it, and as the function of its conditions does."""
        entry = plain(self.config["sample"]["guidance"])
        spec = {name: value for name, value in entry.items() if value is not None}
        function = names.GUIDANCES.get(spec.get("name"))
        of = getattr(function, "conditions", None)
        if of is None:
            return spec, {}
        rest = {
            name: value
            for name, value in spec.items()
            if name == "name" or not takes(of, name) or takes(function, name)
        }
        return rest, {name: value for name, value in spec.items() if name == "name" or takes(of, name)}

    @property
    def conditions(self) -> Callable[..., tuple[Any, ...]] | None:
        """(network, condition, null) -> the conditions of the branches; None: the condition and the null one."""
        function = names.GUIDANCES.get(self.config["sample"]["guidance"].get("name"))
        of = getattr(function, "conditions", None)
        if of is None:
            return None
        _, spec = self._guidance_entry

        def conditions(network: Any, condition: Any, null: Any) -> tuple[Any, ...]:
            number = len(jax.tree.leaves(condition)[0]) if jax.tree.leaves(condition) else 1

            def mask(layers):
                if not facts.layer_masks(network):
                    raise ValueError(
                        f"config.model.name = {self.config['model']['name']!r} has no layers that a mask impairs. "
                        "Valid: "
                        f"{', '.join(name for name, other in names.MODELS.items() if facts.layer_masks(other))}"
                    )
                return layer_masks.mask(number, network.depth, layers)

            supplied = {"condition": condition, "null": null, "mask": mask}
            return call({spec["name"]: of}, spec, "config.sample.guidance", "guidance", **supplied)

        return conditions

    @property
    def cache(self) -> Cache | None:
        """The cache of the network's blocks `config.sample.cache`; None without one."""
        entry = self.config["sample"]["cache"]
        if not entry.get("name"):
            return None
        return self._made("cache", entry, "config.sample.cache", **evaluations(self.plan))

    @property
    def depths(self) -> bool:
        """Whether `config.sample.guidance` combines predictions from two depths of the network."""
        return getattr(names.GUIDANCES.get(self.config["sample"]["guidance"].get("name")), "depths", False)

    @property
    def measured(self) -> guides.Measured | None:
        """The measured pictures `config.sample.measurement`; None without an operator."""
        settings = self.config["sample"]["measurement"]
        path = "config.sample.measurement"
        if not settings["operator"].get("name"):
            return None
        if self.config["data"]["latents"]["dir"] or self.autoencoder is not None:
            raise ConfigError(
                f"{path}.operator: the run is on latents, and pictures are measured. Valid: a run on pictures."
            )
        if not settings["pictures"]:
            raise ConfigError(f"{path}.pictures = ''. Valid: a split of the data, e.g. 'test', or a .npz or .npy file.")

        def of(shape):
            mask = lambda spec, at: call(names.MASKS, spec, at, "mask", shape=shape)
            return call(
                names.MEASUREMENTS, settings["operator"], f"{path}.operator", "measurement", nested={"mask": mask}
            )

        return guides.Measured(of, settings["pictures"], settings["noise_std"])

    @property
    def guides(self) -> tuple[guides.Guide, ...]:
        """What changes the guided denoiser, `config.sample.guides`."""
        shape = self.config["data"]["shape"]
        of_run = lambda config: recipe(config, config["data"]["shape"])
        return self._once("guides", lambda: guides.made(self.config, self.schedule, self.measured, of_run, shape))

    # ==== The null condition ====

    @property
    def text_inputs(self) -> TextInputs | None:
        """What the network `config.model` receives of a text; None for one that receives no text."""
        model = self.config["model"]
        return facts.text_inputs(names.MODELS.get(model.get("name")), model.get("text_width"))

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
        """The null condition of one example, a label or the empty caption's entries; None for an unconditional network.

        Raises:
            ConfigError: if config.data.text names no vocabulary, or no captions.
        """
        return self._once("the null condition", self._null)

    def _null(self) -> Any:
        if self.base is not None:
            return None  # its data say which entries a condition has
        text = self.text_inputs
        if text is None:
            return np.int32(self.null_class) if self.config["model"].get("num_classes", 0) else None
        field = TEXT_FOLDERS[text.of]
        folder = self.config["data"]["text"][field]
        if not folder:
            raise ConfigError(
                f"config.data.text.{field} = '', but config.model.name = {self.config['model']['name']!r} receives "
                "text. Valid: a folder that diffusion encode_text wrote."
            )
        label = {"label": np.int32(self.null_class)} if self.config["model"].get("num_classes", 0) else {}
        try:
            return (texts.null(folder) if text.of == "embeddings" else texts.tokens([""], folder).null) | label
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.data.text.{field} = {folder!r}: {error}") from error


def sizes(config: Mapping) -> tuple[buckets.Size, ...]:
    """The heights and widths of `config.data.buckets`, from the highest to the widest; none where it is off.

    Raises:
        ConfigError: if no size fits.
    """
    settings = plain(config["data"]["buckets"])
    area = settings["area"]
    multiple = settings["multiple"]
    if not area:
        return ()
    if area * settings["widest"] > (MOST_MULTIPLES * multiple) ** 2:
        raise ConfigError(
            f"config.data.buckets = {settings!r} has too many sizes, for each of which a step is "
            f"compiled. Valid: a larger multiple, so that no side is more than {MOST_MULTIPLES} of it."
        )
    least, most = (math.sqrt(area * ratio) for ratio in (1 / settings["widest"], settings["widest"]))
    try:
        return buckets.within(area, multiple, math.ceil(least), math.floor(most))
    except ValueError as error:
        raise ConfigError(
            f"config.data.buckets = {settings!r}: {error}. Valid: e.g. an area of {(4 * multiple) ** 2}."
        ) from error


def varied(config: Mapping) -> tuple[int, ...]:
    """(H, W) of the samples where the run's pictures are of several sizes; () where all are of one."""
    return tuple(config["data"]["shape"][:2]) if config["data"]["buckets"]["area"] else ()


def check_shape(config: Mapping, shape: Any) -> None:
    """Refuses a patch that does not divide the sides of the data, and a U-Net that halves them too often."""
    if not pytrees.is_shape(tuple(shape)):
        return
    patch = config["model"].get("patch", 1)
    sides = shape[1:-1] if facts.of_frames(names.MODELS.get(config["model"]["name"])) else shape[:-1]
    if any(side % patch for side in sides):
        valid = [p for p in range(1, min(sides) + 1) if all(side % p == 0 for side in sides)]
        raise ConfigError(
            f"config.model.patch = {patch} does not divide the sides of data of shape {shape}. Valid: "
            f"{', '.join(map(str, valid))}."
        )
    widths = config["model"].get("widths")
    halvings = len(widths) - 1 if isinstance(widths, (list, tuple)) else 0  # of another type: the call refuses it
    if any(side % 2**halvings for side in sides):
        raise ConfigError(
            f"config.model.widths has {halvings + 1} levels, and data of shape {shape} cannot be halved "
            f"{halvings} times. Valid: fewer levels."
        )
