"""The sections of a recipe: the parts of a run, grouped by purpose."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import samplers
from diffusion.arrays.arguments import require
from diffusion.guidance import Branches
from diffusion.recipe.autoencoder import Autoencoder
from diffusion.recipe.base import TunedNetwork
from diffusion.recipe.companions import Encoder, Perceptual, SecondPlayer, Teacher
from diffusion.recipe.guides import Measured, Steered, guide_of
from diffusion.recipe.plan_entry import ChosenPlan
from diffusion.samplers import Sampler
from diffusion.sampling.caching import Cache
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


@dataclasses.dataclass(frozen=True)
class Training:
    """How the model's parameters are updated.

    Attributes:
        optimizer: the model's optimizer; None for the one of `config.optimizer`.
        average: the moving average of the model's parameters; None for the one of `config.ema`.
        augmentations: the augmentations of the training examples; () for those of `config.data.augment`.
    """

    optimizer: Any = None
    average: Any = None
    augmentations: tuple = ()


@dataclasses.dataclass(frozen=True)
class Companions:
    """The networks beside the model: they train together with the model, teach it, or are tuned by the run.

    Attributes:
        second: the second player, if the objective has one.
        teacher: the teacher, if the objective has one.
        tuned: the frozen text-to-image model that the run tunes, together with the tuning; it is also the run's
            network.
        encoder: the frozen encoder whose features of pictures the objective reads, if it has a term of alignment.
        autoencoder: the autoencoder that trains together with the model, which is trained on the autoencoder's latents;
            None if the model is trained on the examples.
        perceptual: the frozen network by whose features the objective compares pictures, if it compares any.
    """

    second: SecondPlayer | None = None
    teacher: Teacher | None = None
    tuned: TunedNetwork | None = None
    encoder: Encoder | None = None
    autoencoder: Autoencoder | None = None
    perceptual: Perceptual | None = None


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the run makes samples; parts that are left out come from `config.sample`.

    Attributes:
        sampler: the sampler; None for `config.sample.sampler`, by default Heun's method, or one jump of a flow map.
        plan: the times of the sampler's steps; None for `config.sample.plan` of `config.sample.grid`.
        chosen_plan: the way in which the plan is chosen for the trained network; None if `plan` is taken.
        driver: the function (sampler=, denoise=, schedule=, x=, plan=, keys=) -> x at the end of the plan, or
            `guides.Steered`, which also reads pictures or a reward; None for `config.sample.driver`.
        guidance: a function from branches to the guided denoiser; None for `config.sample.guidance`.
        conditions: (network, condition, null) -> the conditions of the branches that the guidance combines; None for
            the condition and the null condition, or only the condition if config.sample.guidance.scale = 1.
        depths: whether the guidance combines the network's prediction with a prediction from its middle, which the
            objective trains (`objective.blocks.early`).
        guides: functions from the guided denoiser to another denoiser, or `Guide`s, in the order in which they are
            applied; () for `config.sample.guides`.
        cache: the cache of the outputs of the network's blocks between steps of the sampler; None for
            `config.sample.cache`.
        merge: the share of the tokens that self-attention sees merged, see `models.token_merging`.
        measured: the pictures with which samples must agree, for the guides and the driver that read them.
    """

    sampler: Sampler = None  # type: ignore[assignment]
    plan: Plan = None  # type: ignore[assignment]
    chosen_plan: ChosenPlan | None = None
    driver: Callable[..., Any] | Steered = None  # type: ignore[assignment]
    guidance: Callable[[Branches], Any] = None  # type: ignore[assignment]
    conditions: Callable[..., tuple[Any, ...]] | None = None
    depths: bool = False
    guides: tuple[Any, ...] = ()  # each is a `Guide` once the section is built
    cache: Cache | None = None
    merge: float = 0.0
    measured: Measured | None = None

    def __post_init__(self):
        require(self.guides, (tuple, list), "guides", "a tuple of functions from denoiser to denoiser, (guide,)")
        if self.guides:
            object.__setattr__(self, "guides", tuple(map(guide_of, self.guides)))

    @property
    def follows_plan(self) -> bool:
        """Whether each step of the plan is taken exactly once, so that the sampler knows the number of evaluations."""
        return self.driver is samplers.sample


@dataclasses.dataclass(frozen=True)
class Examples:
    """The form of one example of the run, and of its condition.

    Attributes:
        shape: the shape of one example, as schedules and samplers see it: (D,) for a pytree of D numbers, and the shape
            of a latent if an autoencoder trains with the model; None before the data are known.
        pictures: the shape of the pictures that this autoencoder encodes; None without such an autoencoder.
        dtype: the dtype of an example in a batch, "uint8" or "float32"; None before the data are known.
        structure: the pytree of the shapes of an example that is a pytree, in which the network receives and returns
            it; None if an example is one array.
        null: the null condition of one example, or some of its entries; None for the class `num_classes`, zeros for all
            other entries of the data's "condition", or no condition for an unconditional network.
        num_classes: the number of classes, 0 for a network without classes; None for the network's field of that name.
    """

    shape: tuple[int, ...] = None  # type: ignore[assignment]  # known wherever examples, or samples, are
    pictures: tuple[int, ...] | None = None
    dtype: str | None = None
    structure: Any = None
    null: Any = None
    num_classes: int = None  # type: ignore[assignment]

    @property
    def by_class(self) -> bool:
        """Whether the condition is only the class, and not one of several entries."""
        return self.num_classes > 0 and not isinstance(self.null, Mapping)

    @property
    def by_record(self) -> bool:
        """Whether the condition is the entry "condition" of the data's records, and not only the class."""
        return self.null is not None and not self.by_class

    def null_condition(self, number: int) -> Any:
        """The null condition of `number` samples: a pytree of arrays `[number, ...]`, or None."""
        repeated = lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (number, *np.shape(leaf)))
        return jax.tree.map(repeated, self.null)


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """The parts that are made again once more is known.

    Attributes:
        network: a function from the shape of an example to the network for this shape; None if the network stays.
        under: a function from a schedule to the parts by name, in which the parts that depend on a schedule are made
            for the given one.
    """

    network: Callable[[Any], Any] | None
    under: Callable[[NoiseSchedule], Mapping[str, Any]]


SECTIONS = {"training": Training, "companions": Companions, "sampling": Sampling, "examples": Examples}


def section_of(part: str) -> str | None:
    """The name of the section that has a part of this name; None if the recipe itself has it."""
    has = lambda section: part in {field.name for field in dataclasses.fields(section)}
    return next((name for name, section in SECTIONS.items() if has(section)), None)


def argument(part: str) -> str:
    """The Python argument by which a part of this name is passed, for example "sampling=Sampling(plan=...)"."""
    section = section_of(part)
    return f"{part}=..." if section is None else f"{section}={SECTIONS[section].__name__}({part}=...)"


def flat(recipe: Any) -> dict[str, Any]:
    """The parts of a recipe by their own names, including the parts of its sections."""
    parts = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    sections = [parts.pop(name) for name in SECTIONS]
    return parts | {f.name: getattr(section, f.name) for section in sections for f in dataclasses.fields(section)}


def sectioned(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a recipe with these parts: the inverse of `flat`. A part that is left out has its default."""
    arguments = {name: part for name, part in parts.items() if section_of(name) is None}
    for name, section in SECTIONS.items():
        arguments[name] = section(**{f.name: parts[f.name] for f in dataclasses.fields(section) if f.name in parts})
    return arguments
