"""The kinds of entries in a config: for each its functions, what they return, and the arguments that are no fields."""

import inspect
import math
import typing
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from diffusion import discrete, guidance, manifolds, parameterizations, samplers, schedules, timesteps
from diffusion.adapters.tuning import Tuning
from diffusion.arrays import pytrees
from diffusion.data import sound
from diffusion.flows import flow_maps
from diffusion.guidance import measurements
from diffusion.objectives import couplings, interpolants
from diffusion.objectives.augmented import Augmentation
from diffusion.objectives.backward_simulation import Simulation
from diffusion.objectives.projectors import Projector
from diffusion.objectives.rewards import CaptionReward
from diffusion.objectives.uncertainty import Uncertainty
from diffusion.objectives.unnormalised_targets import Target
from diffusion.recipe import names
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import call
from diffusion.recipe.valid_results import NETWORK, Returned, array, either, function, values
from diffusion.sampling import caching
from diffusion.training import ema, optimizers

# What a function of a config may ask for by the name of an argument, from the builder of the run's parts.
ASKED_FOR: dict[str, Callable[[Any], Any]] = {
    "schedule": lambda parts: parts.schedule,
    "dimension": lambda parts: _dimension(parts.model_shape_of(parts.shape)),
    "parameterization": lambda parts: parts.mean,
    "generator": lambda parts: parts.mean,
    "student": lambda parts: parts.mean,
    "teacher": lambda parts: parts.teacher and parts.teacher.parameterization,
    "fake": lambda parts: parts.teacher and parts.teacher.parameterization,
    "teacher_scale": lambda parts: parts.teacher.scale if parts.teacher else 1.0,
    "null": lambda parts: parts.null,
    "clock": lambda parts: parts.clock,
    "clocks": lambda parts: flow_maps.start_and_duration(parts.clock),
    "grid": lambda parts: parts.grid,
    "alone": lambda parts: parts.tuned.tuning.apart if parts.tuned is not None else (),
    "autoencoder": lambda parts: _latents(parts.autoencoder),
    "total": lambda parts: parts.config["train"]["steps"],
    "steps": lambda parts: parts.config["train"]["steps"],
}


def _latents(autoencoder: Any) -> Any:
    if autoencoder is None:
        raise ConfigError(
            "config.autoencoder.network = {'name': ''}: a wrapper of config.objective trains an autoencoder, but none "
            "is named. Valid: e.g. {'name': 'autoencoder_kl'}."
        )
    return autoencoder.latents()


def _dimension(shape: Any) -> int | None:
    return math.prod(pytrees.packed_shape(shape)) if shape else None


class Kind(NamedTuple):
    """The builder's facts about the entries of a kind.

    Attributes:
        table: the functions that they name.
        returns: the type of their results, or None if their callers check it.
        entries: the kind of each argument that is an entry too; others follow from `OF_TYPES`.
        asks: the names in `ASKED_FOR` that its functions may have as arguments.
    """

    table: Mapping[str, Callable]
    returns: Returned | None = None
    entries: Mapping[str, str] = MappingProxyType({})
    asks: tuple[str, ...] = ()

    def entries_of(self, function: Callable, supplied: Collection[str]) -> dict[str, str]:
        """The kinds of the arguments of a function that are entries: by their names, and of others by their types.

        Args:
            function: a function of the table.
            supplied: the arguments that receive a value of the run.
        """
        by_type = {}
        for argument, parameter in inspect.signature(function, eval_str=True).parameters.items():
            types = typing.get_args(parameter.annotation) or (parameter.annotation,)
            kinds = [OF_TYPES[one] for one in types if isinstance(one, type) and one in OF_TYPES]
            if kinds and argument not in supplied:
                by_type[argument] = kinds[0]
        return by_type | dict(self.entries)


OF_OBJECTIVES = {
    "density": "density",
    "student_density": "density",
    "noise_density": "density",
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
    "samples": "samples of a generator",
    "f": "f-divergence",
    "reward": "reward",
    "target_density": "unnormalised density",
    "sampler": "sampler",
    "process": "process of symbols",
    "reading": "reading",
    "projector": "projector",
}
OBJECTIVES_ASK = (
    "schedule",
    "parameterization",
    "generator",
    "student",
    "teacher",
    "fake",
    "teacher_scale",
    "null",
    "clock",
    "clocks",
    "grid",
    "total",
)
GUIDED = either(function("(x_t, t) -> Prediction"), values(guidance.Memory, guidance.Unpaired))
KINDS = {
    "schedule": Kind(names.SCHEDULES, values(schedules.NoiseSchedule), {"schedule": "schedule"}),
    "parameterization": Kind(
        names.PARAMETERIZATIONS,
        values(parameterizations.Parameterization),
        {"clock": "clock", "parameterization": "parameterization"},
    ),
    "clock": Kind(names.CLOCKS, function("(schedule, t) -> the network's time")),
    "objective": Kind(names.OBJECTIVES, None, OF_OBJECTIVES, OBJECTIVES_ASK),
    "second player": Kind(names.SECOND_PLAYERS, None, OF_OBJECTIVES, OBJECTIVES_ASK),
    "density": Kind(names.DENSITIES, values(timesteps.Density), {"density": "density"}, ("schedule", "dimension")),
    "interpolant": Kind(names.INTERPOLANTS, values(interpolants.Interpolant)),
    "wrapper": Kind(
        ChainMap(names.WRAPPERS, names.TERMS),
        None,
        {
            **OF_OBJECTIVES,
            "augment": "conditioning augmentation",
            "critic": "projector",
            "network": "network of uncertainty",
        },
        (*OBJECTIVES_ASK, "alone", "autoencoder"),
    ),
    "projector": Kind(names.PROJECTORS, values(Projector)),
    "network of uncertainty": Kind(names.UNCERTAINTIES, values(Uncertainty)),
    "autoencoder": Kind(names.AUTOENCODERS, NETWORK),
    "encoder": Kind(names.ENCODERS, NETWORK),
    "critic": Kind(names.CRITICS, NETWORK),
    "perceptual network": Kind(names.PERCEPTUAL, NETWORK),
    "decoder": Kind(names.DECODERS, function("(x_0, noise, sigma / alpha) -> log p(x_0 | x_t)")),
    "pairs of times": Kind(names.PAIRS, function("(schedule, t, step) -> (t, s)"), {"curriculum": "curriculum"}),
    "curriculum": Kind(
        names.CURRICULA, function("of the training step that returns a number of times"), asks=("total",)
    ),
    "distance": Kind(names.DISTANCES, function("(x, y) -> distances")),
    "samples of a generator": Kind(names.SIMULATIONS, values(Simulation), asks=("grid",)),
    "f-divergence": Kind(names.F_DIVERGENCES, function("of the density ratio that returns weights")),
    "reward": Kind(names.REWARDS, either(function("(x, condition) -> rewards"), values(CaptionReward))),
    "unnormalised density": Kind(names.TARGETS, values(Target)),
    "weighting of pairs": Kind(names.PAIR_WEIGHTINGS, function("(schedule, t, s) -> weights")),
    "solver": Kind(names.SOLVERS, function("(denoise, schedule) -> FlowMap")),
    "coupling": Kind(
        names.COUPLINGS,
        values(couplings.Coupling),
        {"cost": "cost of transport", "distance": "distance of conditions", "coupling": "coupling"},
    ),
    "distance of conditions": Kind(names.CONDITION_DISTANCES, function("(condition, condition) -> distances")),
    "cost of transport": Kind(names.COSTS, function("(x, noise) -> costs"), {"manifold": "manifold"}),
    "manifold": Kind(names.MANIFOLDS, values(manifolds.Manifold)),
    "prior": Kind(names.PRIORS, values(manifolds.Distribution)),
    "auxiliary loss": Kind(names.AUXILIARY, function("(x_0, x, t) -> losses")),
    "heat kernel": Kind(names.HEAT_KERNELS, values(manifolds.heat_kernels.HeatKernel), {"manifold": "manifold"}),
    "weighting": Kind(
        names.WEIGHTINGS,
        function("(schedule, t) -> weights"),
        {"parameterization": "parameterization", "weighting": "weighting"},
        ("parameterization",),
    ),
    "conditioning augmentation": Kind(names.CONDITIONING_AUGMENTATIONS, values(Augmentation)),
    "model": Kind(names.MODELS),
    "tuning": Kind(names.TUNINGS, values(Tuning)),
    "optimizer": Kind(names.OPTIMIZERS, values(optimizers.Optimizer), asks=("steps",)),
    "moving average": Kind(names.AVERAGES, values(ema.ExponentialMovingAverage), asks=("steps",)),
    "augmentation": Kind(names.AUGMENTATIONS, function("(random generator, image) -> image")),
    "sampler": Kind(
        ChainMap(names.SAMPLERS, names.SYMBOL_SAMPLERS),
        values(discrete.SymbolSampler, samplers.Sampler),
        {
            "predictor": "sampler",
            "sampler": "sampler",
            "choose": "choice of masks",
            "share": "share of masks",
            "law": "law of a step",
        },
    ),
    "law of a step": Kind(names.LAWS, function("(predict, process, x, t, s) -> probabilities")),
    "choice of masks": Kind(
        names.UNMASKINGS, function("(log-probabilities, masked) -> scores"), {"choose": "choice of masks"}
    ),
    "share of masks": Kind(names.REMASKINGS, function("of the time that returns a share")),
    "process of symbols": Kind(
        names.PROCESSES,
        values(discrete.Process, discrete.RateProcess, discrete.MetricPath, discrete.TokenMasks),
        {"keeping": "schedule of symbols", "rates": "rates", "distances": "distances of symbols"},
    ),
    "schedule of symbols": Kind(names.KEEPINGS, values(discrete.Keeping)),
    "rates": Kind(names.RATES, array("a square array of jump rates", 2)),
    "distances of symbols": Kind(names.SYMBOL_DISTANCES, array("a square array of distances", 2)),
    "reading": Kind(names.READINGS, function("(process, output, x_t, t) -> log p(x_0 | x_t)")),
    "grid": Kind(names.GRIDS, array("an array of times [N + 1]", 1), {"grid": "grid"}, ("schedule", "dimension")),
    "plan": Kind(names.PLANS, values(timesteps.Plan)),
    "cache": Kind(names.CACHES, values(caching.Cache)),
    "guidance": Kind(names.GUIDANCES, GUIDED),
    "ramp": Kind(names.RAMPS, function("of the time that returns a share")),
    "guide": Kind(names.GUIDES, GUIDED),
    "measurement": Kind(names.MEASUREMENTS, values(measurements.Measurement)),
    "mask": Kind(names.MASKS, Returned("an array", lambda value: hasattr(value, "shape"))),
    "likelihood": Kind(names.LIKELIHOODS, function("of x that returns log-likelihoods")),
    "filter": Kind(names.FILTERS, function("of a record that returns whether it is kept")),
    "control": Kind(names.CONTROLS, function("of a picture that returns its control")),
    "part that is hidden": Kind(names.HIDINGS, function("(random generator, series) -> mask")),
    "parser": Kind(names.PARSERS, function("of bytes that returns columns")),
    "form": Kind(names.SOUND_FORMS, values(sound.Form)),
}

# The kind of an entry that an argument of this type has, under any name.
OF_TYPES: dict[type, str] = {
    one: name for name, kind in KINDS.items() if kind.returns is not None for one in kind.returns.types
}


def build(
    kind: str,
    spec: Mapping,
    path: str,
    nested: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType({}),
    **supplied: Any,
) -> Any:
    """The result of the function that an entry of a config names, such as a sampler.

    Args:
        kind: a key of `KINDS`, such as "sampler".
        spec: the entry.
        path: the path of the entry, e.g. `config.schedule`.
        nested: the functions that resolve arguments, see `entries.call`.
        **supplied: arguments that do not come from the entry, see `entries.call`.

    Raises:
        ConfigError: under the conditions of `entries.call`, or if the result is not of the kind.
    """
    table, returns = KINDS[kind].table, KINDS[kind].returns
    value = call(table, spec, path, kind, nested, **supplied)
    if returns is not None:
        returns.check(value, path, spec["name"])
    return value
