"""A run as one value: what is trained, how, on what, and how it makes samples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion import pytrees, samplers
from diffusion.adapters.tuning import Tuning
from diffusion.caching import Cache
from diffusion.data.sources import DataSpec, is_picture
from diffusion.experiments.config import fits, python_recipes, settings_checks
from diffusion.experiments.config.autoencoder import Autoencoder
from diffusion.experiments.config.base import Base
from diffusion.experiments.config.companions import SecondPlayer, Teacher
from diffusion.experiments.config.encoder import Encoder
from diffusion.experiments.config.guides import Guide, Measured
from diffusion.experiments.config.packed import PackedNetwork
from diffusion.experiments.config.perceptual import Perceptual
from diffusion.experiments.config.plan_entry import ChosenPlan
from diffusion.guidance import Branches
from diffusion.models import facts
from diffusion.objectives import Objective
from diffusion.objectives.conditioning import whole_null
from diffusion.objectives.padded_examples import with_padding
from diffusion.parameterizations import Parameterization
from diffusion.samplers import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan
from diffusion.training import micro_batches as rule


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of, each part built once.

    A config makes one (`experiments.config.resolve`); so does Python, where the schedule, the objective, the network
    and the data are enough. One builder (`experiments.config.parts`) makes what is left out, from the settings and,
    where they say nothing, from `experiments.config.defaults`:

        recipe = Recipe(schedule, objective, network, data, config={"train.steps": 100})
        train(recipe, "runs/mine")

    Attributes:
        schedule: the process.
        objective: the objective that the model is trained by, with its facts.
        network: the model's module, not initialised: anything with `init(key, x, clock, condition)` and
            `apply(params, x, clock, condition)`, as Linen's modules have; networks of other libraries by
            `diffusion.models.NNX`, `Equinox` and `Functions`.
        data: a source, a sequence or an iterable of records {"image": uint8 of any shape, "label": int}, or of "x":
            floating-point of any shape, or a pytree of arrays; "condition", a pytree of arrays, stands in place of the
            label. See `data.sources.python_objects`. None: the records that config.data names.
        held_out: such records, with which samples are compared; None: the records of config.evaluate.split.
        parameterization: the quantity that the network predicts; None: as the objective says.
        optimizer: the model's optimizer; None: `config.optimizer`.
        average: the moving average of its parameters; None: `config.ema`.
        second: the second player, where the objective has one.
        teacher: the teacher, where the objective has one.
        base: the frozen text-to-image model that the run tunes; its network is then a `config.base.TunedNetwork`.
        tuning: the weights that the run teaches the base.
        encoder: the frozen encoder whose features of pictures the objective reads, where it has a term of alignment.
        autoencoder: the autoencoder that trains with the model, which is trained on its latents; None: the model is
            trained on the examples.
        perceptual: the frozen network by whose features the objective compares pictures, where it does.
        sampler: the sampler that makes samples; None: `config.sample.sampler`, by default Heun's method, or one jump of
            a flow map.
        plan: the times of its steps; None: `config.sample.plan` of `config.sample.grid`.
        chosen_plan: how the plan is chosen for the trained network; None: it is the plan above.
        driver: the function (sampler=, denoise=, schedule=, x=, plan=, keys=) -> x at the end of the plan; None:
            `config.sample.driver`.
        guidance: a function branches -> the guided denoiser; None: `config.sample.guidance`.
        conditions: (network, condition, null) -> the conditions of the branches that the guidance combines; None: the
            condition and the null one, or the condition alone at config.sample.guidance.scale = 1.
        depths: whether the guidance combines the network's prediction with that of its middle, which the objective
            trains (`objective.blocks.early`).
        guides: functions that change the guided denoiser further, in order; (): `config.sample.guides`.
        cache: the cache of the network's blocks, from step to step of the sampler; None: `config.sample.cache`.
        merge: the share of the tokens that self-attention sees merged, see `models.token_merging`.
        measured: the pictures that samples agree with, for the guides that read them.
        null: the null condition of one example, or some of its entries; None: the class `num_classes`, zeros for all
            else in the data's "condition", or nothing for an unconditional network.
        num_classes: the number of classes, 0 for a network without; None: as the network's field of that name says.
        augmentations: the augmentations of the training examples; (): `config.data.augment`.
        shape: the shape of one example, as schedules and samplers have it: (D,) where it is a pytree of D numbers, a
            latent's where an autoencoder trains with the model; None before the data are known.
        pictures: the shape of the pictures whose latents that autoencoder makes; None without one.
        dtype: the type of an example in a batch, "uint8" or "float32"; None before the data are known.
        structure: the pytree of the shapes of an example that is a pytree, which the network receives and puts out;
            None where an example is one array.
        config: the settings that are data (steps, batch size, seeds, folders, mesh ...), and entries that name parts:
            a whole ConfigDict, or a mapping of dotted fields that differ from their defaults, e.g. {"sample.shift":
            3.0, "sample.sampler": {"name": "ddim"}}. A field acts as in a config file, or is refused where an argument
            gives the same part.
        network_of: a function from a shape to the network for examples of that shape; None: the network as it is.
        under: a function from a schedule to the parts by name, of which those that depend on a schedule are made for
            this one. The builder sets it; None: the builder has the other parts to make.

    Raises:
        ValueError: for parts that do not fit each other, naming the part.
        ConfigError: for a setting that is not known, or out of range.
    """

    schedule: NoiseSchedule
    objective: Objective
    network: Any
    data: Any = None
    held_out: Sequence[Mapping[str, Any]] | None = None
    parameterization: Parameterization = None  # type: ignore[assignment]
    optimizer: Any = None
    average: Any = None
    second: SecondPlayer | None = None
    teacher: Teacher | None = None
    base: Base | None = None
    tuning: Tuning | None = None
    encoder: Encoder | None = None
    autoencoder: Autoencoder | None = None
    perceptual: Perceptual | None = None
    sampler: Sampler = None  # type: ignore[assignment]
    plan: Plan = None  # type: ignore[assignment]
    chosen_plan: ChosenPlan | None = None
    driver: Callable[..., Any] = None  # type: ignore[assignment]
    guidance: Callable[[Branches], Any] = None  # type: ignore[assignment]
    conditions: Callable[..., tuple[Any, ...]] | None = None
    depths: bool = False
    guides: tuple[Guide, ...] = ()
    cache: Cache | None = None
    merge: float = 0.0
    measured: Measured | None = None
    null: Any = None
    num_classes: int = None  # type: ignore[assignment]
    augmentations: tuple = ()
    shape: tuple[int, ...] | None = None
    pictures: tuple[int, ...] | None = None
    dtype: str | None = None
    structure: Any = None
    config: ConfigDict | Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network_of: Callable[[tuple[int, ...]], Any] | None = None
    under: Callable[[NoiseSchedule], Mapping[str, Any]] | None = None

    def __post_init__(self):
        if self.under is not None:
            return  # it is complete
        parts, spec = python_recipes.completed(self)
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        if spec is not None:
            on_data = self.on(spec)
            for field in dataclasses.fields(self):
                object.__setattr__(self, field.name, getattr(on_data, field.name))
        fits.check(self)
        settings_checks.check(self)

    def at(self, shape: Any) -> "Recipe":
        """The recipe for examples of a shape, or of a pytree of shapes.

        Raises:
            ConfigError: if its autoencoder does not take pictures of that shape; a ValueError of parts in Python.
        """
        if self.autoencoder is not None:
            with fits.blamed_on(self.config, "autoencoder.network.name", "data.name"):
                latent = self.autoencoder.latent_shape(tuple(shape))
            network = self.network if self.network_of is None else self.network_of(latent)
            return dataclasses.replace(self, network=network, shape=latent, pictures=tuple(shape))
        network = self.network if self.network_of is None else self.network_of(shape)
        if pytrees.is_shape(tuple(shape)):
            return dataclasses.replace(self, network=network, shape=tuple(shape))
        if not isinstance(network, PackedNetwork):
            network = PackedNetwork(network, shape, bool(self.schedule.leaves))
        return dataclasses.replace(self, network=network, shape=pytrees.packed_shape(shape), structure=shape)

    def on(self, spec: DataSpec) -> "Recipe":
        """The recipe for the examples of a source: of their shape, with a null condition where they have conditions.

        Where these have the entry "real", losses are means over what that mask leaves of x.
        """
        null = self.null
        if spec.condition is not None:  # text is a condition beside that of the source
            null = {**spec.null, **null} if self.receives_text else whole_null(null, spec.null)
        objective = self.objective
        if isinstance(spec.condition, Mapping) and "real" in spec.condition:
            with fits.blamed_on(
                self.config, "objective.name", "objective.coupling", "objective.wrappers", "data.source"
            ):
                objective = with_padding(objective, spec.shape)
        return dataclasses.replace(self.at(spec.shape), objective=objective, null=null, dtype=spec.dtype)

    def with_schedule(self, schedule: NoiseSchedule) -> "Recipe":
        """The recipe under another schedule: its plan and its guidance are made for that one."""
        rebuilt = self.under(schedule)
        parts = {name: rebuilt[name] for name in ("plan", "chosen_plan", "guidance")}
        return dataclasses.replace(self, schedule=schedule, **parts)

    @property
    def example_shape(self) -> tuple[int, ...] | None:
        """The shape of an example in a batch."""
        return self.shape if self.autoencoder is None else self.pictures

    @property
    def on_latents(self) -> bool:
        """Whether the model is trained on latents: of a cache, or of an autoencoder that trains with it."""
        return bool(self.config.data.latents.dir) or self.autoencoder is not None

    @property
    def entry(self) -> str:
        """The name of an example in a record and in a batch: "image" for bytes, else "x"."""
        if self.dtype is not None:
            return "image" if self.dtype == "uint8" else "x"
        if self.data is not None:
            return "image" if "image" in self.data[0] else "x"
        return "x" if self.config.data.latents.dir else "image"

    @property
    def makes_bytes(self) -> bool:
        """Whether its samples are bytes: because its data are, or because an autoencoder makes them from latents."""
        return self.entry == "image" or self.on_latents

    @property
    def makes_pictures(self) -> bool:
        """Whether its samples are pictures, which can be drawn."""
        return self.on_latents or is_picture(self.shape, "uint8" if self.makes_bytes else "float32")

    @property
    def scale(self) -> float:
        """The scale of classifier-free guidance, 1 for none; for a guidance with other conditions, 0 if one is null.

        Raises:
            ConfigError: if that guidance takes other arguments, or the network does not have its layers.
        """
        if self.depths:
            return 1.0
        if self.conditions is None:
            return self.config.sample.guidance.scale
        null = np.ones(1, np.int32)
        leaves = jax.tree.leaves(self.conditions(self.network, np.zeros(1, np.int32), null))
        return 0.0 if any(leaf is null for leaf in leaves) else 1.0

    @property
    def follows_plan(self) -> bool:
        """Whether each step of the plan is taken once, so that the sampler says how many evaluations there are."""
        return self.driver is samplers.sample

    @property
    def by_class(self) -> bool:
        """Whether the condition is the class alone, and not one of several entries."""
        return self.num_classes > 0 and not isinstance(self.null, Mapping)

    @property
    def receives_text(self) -> bool:
        """Whether the network receives what a text model makes of a text."""
        return facts.text_inputs(self.network) is not None

    @property
    def makes_samples(self) -> bool:
        """Whether it makes samples of classes, or unconditional ones: no encoder, autoencoder or model of prompts."""
        return self.objective.reads is not None and not self.receives_text and self.base is None

    def null_condition(self, number: int) -> Any:
        """The null condition of `number` samples: a pytree of arrays `[number, ...]`, or None."""
        repeated = lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (number, *np.shape(leaf)))
        return jax.tree.map(repeated, self.null)

    def micro_batches(self, mesh: Mesh, init: Callable) -> int:
        """How many micro-batches a step cuts its batch into: `config.train.accumulate`, or by rule if that is 0.

        `init` is the networks' function from a seed to a pytree; it is searched for convolutions where that matters.
        """
        requested = self.config.train.accumulate
        if requested or self.objective.examples.block is None:
            return requested or 1
        number = rule.number(self.config.train.batch_size, mesh, self.objective.examples.block)
        return 1 if number > 1 and rule.convolves(init, np.uint32(0)) else number
