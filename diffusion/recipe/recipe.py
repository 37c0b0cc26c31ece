"""A run as one value: what is trained, how, on which data, and how it is sampled."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion.arrays import pytrees
from diffusion.data.sources import DataSpec, is_clip, is_picture
from diffusion.flows.flow_maps import FlowMap
from diffusion.models import facts
from diffusion.objectives import Objective
from diffusion.objectives.conditioning import null_like, with_padding
from diffusion.parameterizations import Parameterization
from diffusion.recipe import deprecated_fields, fits, python_recipes, settings_checks, symbol_runs
from diffusion.recipe.packed import PackedNetwork
from diffusion.recipe.parts import Resolver
from diffusion.recipe.sections import Companions, Examples, Rebuilt, Sampling, Training, flat, sectioned
from diffusion.recipe.values import blamed_on
from diffusion.schedules import NoiseSchedule
from diffusion.training import micro_batches as rule


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of, each part built once.

    A config makes one (`from_config`); so does Python, where the schedule, the objective, the network
    and the data are enough. One builder (`diffusion.recipe.parts`) makes what is left out, from the settings and,
    where they say nothing, from `diffusion.recipe.defaults`:

        sampling = Sampling(sampler=samplers.ddim())
        recipe = Recipe(schedule, objective, network, data, sampling=sampling, config={"train.steps": 100})
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
        training: the parts that update the model's parameters.
        companions: the networks beside the model.
        sampling: the parts that make samples.
        examples: the form of one example, and its condition.
        config: the settings that are data (steps, batch size, seeds, folders, mesh ...), and entries that name parts:
            a whole ConfigDict, or a mapping of dotted fields that differ from their defaults, e.g. {"sample.shift":
            3.0, "sample.sampler": {"name": "ddim"}}. A field acts as in a config file, or is refused where an argument
            gives the same part.
        rebuilt: the parts that are made again for a shape or a schedule. The builder sets it; None: the builder has the
            other parts to make.

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
    training: Training = dataclasses.field(default_factory=Training)
    companions: Companions = dataclasses.field(default_factory=Companions)
    sampling: Sampling = dataclasses.field(default_factory=lambda: Sampling())
    examples: Examples = dataclasses.field(default_factory=lambda: Examples())
    config: Any = dataclasses.field(default_factory=dict)  # once built, a ConfigDict, whose fields are no attributes
    rebuilt: Rebuilt = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.rebuilt is not None:
            return  # it is complete
        arguments, spec = python_recipes.completed(self)
        vars(self).update(arguments)  # a frozen dataclass refuses assignments
        if spec is not None:
            vars(self).update(vars(self.on(spec)))
        fits.check(self)
        if self.examples.shape is not None:
            fits.check_examples(self)
        symbol_runs.check(self)
        settings_checks.check(self)

    @classmethod
    def from_config(cls, config: Mapping, shape: tuple[int, ...] | None = None) -> "Recipe":
        """The recipe that a config describes, for examples of a shape if it is known; `checks.validate` also checks it.

        Raises:
            ConfigError: for a mistake in an entry, with its path.
        """
        config = deprecated_fields.warned(config)
        return cls(config=config, **sectioned(Resolver(config).parts(shape)))

    def at(self, shape: Any) -> "Recipe":
        """The recipe for examples of a shape, or of a pytree of shapes.

        Raises:
            ConfigError: if its autoencoder does not take pictures of that shape; a ValueError of parts in Python.
        """
        network_at = self.rebuilt.network or (lambda shape: self.network)
        if self.companions.autoencoder is not None:
            with blamed_on(self.config, "autoencoder.network.name", "data.name"):
                latent = self.companions.autoencoder.latent_shape(tuple(shape))
            return self.with_parts(network=network_at(latent), shape=latent, pictures=tuple(shape))
        network = network_at(shape)
        if pytrees.is_shape(tuple(shape)):
            return self.with_parts(network=network, shape=tuple(shape))
        if not isinstance(network, PackedNetwork):
            network = PackedNetwork(network, shape, bool(self.schedule.leaves))
        return self.with_parts(network=network, shape=pytrees.packed_shape(shape), structure=shape)

    def on(self, spec: DataSpec) -> "Recipe":
        """The recipe for the examples of a source: of their shape, with a null condition where they have conditions.

        Where these have the entry "real", losses are means over what that mask leaves of x.
        """
        null = self.examples.null
        if spec.condition is not None:  # text is a condition beside that of the source
            null = {**spec.null, **null} if self.receives_text else null_like(null, spec.null)
        objective = self.objective
        if isinstance(spec.condition, Mapping) and "real" in spec.condition:
            with blamed_on(self.config, "objective.name", "objective.coupling", "objective.wrappers", "data.source"):
                objective = with_padding(objective, spec.shape)
        return self.at(spec.shape).with_parts(objective=objective, null=null, dtype=spec.dtype)

    def with_schedule(self, schedule: NoiseSchedule) -> "Recipe":
        """The recipe under another schedule: its plan, its guidance and its guides are made for that one."""
        parts = self.rebuilt.under(schedule)
        made_for_it = {name: parts[name] for name in ("plan", "chosen_plan", "guidance", "guides")}
        return self.with_parts(schedule=schedule, **made_for_it)

    def with_parts(self, **parts: Any) -> "Recipe":
        """The recipe with other parts, each by its own name, e.g. `with_parts(sampler=samplers.ddim())`."""
        return Recipe(**sectioned(flat(self) | parts))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of an example in a batch."""
        return self.examples.pictures or self.examples.shape

    @property
    def on_latents(self) -> bool:
        """Whether the model is trained on latents: of a cache, or of an autoencoder that trains with it."""
        return bool(self.config.data.latents.dir) or self.companions.autoencoder is not None

    @property
    def entry(self) -> str:
        """The name of an example in a record and in a batch: "image" for bytes, otherwise "x"."""
        if self.objective.process is not None:
            return "x"
        if self.examples.dtype is not None:
            return "image" if self.examples.dtype == "uint8" else "x"
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
        return self.on_latents or is_picture(self.examples.shape, "uint8" if self.makes_bytes else "float32")

    @property
    def scale(self) -> float:
        """The scale of classifier-free guidance, 1 for none; for a guidance with other conditions, 0 if one is null.

        Raises:
            ConfigError: if that guidance takes other arguments, or the network does not have its layers.
        """
        if self.sampling.depths:
            return 1.0
        if self.sampling.conditions is None:
            return self.config.sample.guidance.scale
        null = np.ones(1, np.int32)
        leaves = jax.tree.leaves(self.sampling.conditions(self.network, np.zeros(1, np.int32), null))
        return 0.0 if any(leaf is null for leaf in leaves) else 1.0

    def check_null(self) -> None:
        """Refuses guidance and condition dropout where neither the network nor the data have a condition.

        Raises:
            ConfigError: naming the fields of the config.
            ValueError: under the same conditions, without fields, for a recipe that was built in Python.
        """
        if self.examples.null is not None:
            return
        guided = self.scale != 1 and FlowMap not in self.sampling.sampler.takes
        teacher = self.companions.teacher
        with blamed_on(self.config, "model.num_classes", "sample.guidance.scale"):
            if guided or self.objective.condition.strength or (teacher and teacher.scale != 1):
                raise ValueError(
                    "guidance needs a null class, but the network has no classes. Valid: a scale of 1, or num_classes "
                    "above 0"
                )
        with blamed_on(self.config, "objective.wrappers"):
            if self.objective.condition.dropout:
                raise ValueError(
                    "condition dropout needs a condition, and there is none. Valid: wrappers without "
                    "condition_dropout, such as (), classes, or data with a condition"
                )

    @property
    def receives_text(self) -> bool:
        """Whether the network receives the output of a text model."""
        return facts.text_inputs(self.network) is not None

    @property
    def makes_samples(self) -> bool:
        """Whether it makes samples of classes, or unconditional ones: no encoder, autoencoder or model of prompts."""
        return self.objective.reads is not None and not self.receives_text and self.companions.tuned is None

    def unit(self, of_samples: bool = False) -> str:
        """The plural noun for its examples: "images", "sequences" of symbols, ..., or "examples" for all else.

        Args:
            of_samples: whether its samples are meant, which an autoencoder decodes where the run is on latents.
        """
        if self.on_latents and self.companions.autoencoder is None and not of_samples:
            return "latents"
        if self.objective.process is not None:
            return "sequences"
        if self.examples.structure is not None or self.examples.shape is None:
            return "examples"
        if self.makes_pictures:
            return "images"
        if len(self.examples.shape) == 1:
            return "vectors"
        return "clips" if self.makes_bytes and is_clip(self.examples.shape, "uint8") else "examples"

    def micro_batches(self, mesh: Mesh, init: Callable) -> int:
        """How many micro-batches a step cuts its batch into: `config.train.accumulate`, or by rule if that is 0.

        `init` is the networks' function from a seed to a pytree; it is searched for convolutions where that matters.
        """
        requested = self.config.train.accumulate
        if requested or self.objective.examples.block is None:
            return requested or 1
        number = rule.number(self.config.train.batch_size, mesh, self.objective.examples.block)
        return 1 if number > 1 and rule.convolves(init, np.uint32(0)) else number
