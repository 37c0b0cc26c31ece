"""The kinds of entries in a config: the table of each kind, nested entries, and the values of the run for arguments."""

import inspect
import math
import typing
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from diffusion import discrete, manifolds, parameterizations, samplers, schedules, timesteps
from diffusion.arrays import pytrees
from diffusion.flows import flow_maps
from diffusion.objectives import couplings, interpolants
from diffusion.recipe import names
from diffusion.recipe.config_errors import ConfigError

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
        entries: the kind of each argument that is an entry too; others follow from `OF_TYPES`.
        asks: the names in `ASKED_FOR` that its functions may have as arguments.
    """

    table: Mapping[str, Callable]
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


# The kind of an entry that an argument of this type has, under any name.
OF_TYPES: dict[type, str] = {
    couplings.Coupling: "coupling",
    discrete.Keeping: "schedule of symbols",
    discrete.MetricPath: "process of symbols",
    discrete.Process: "process of symbols",
    discrete.RateProcess: "process of symbols",
    discrete.SymbolSampler: "sampler",
    interpolants.Interpolant: "interpolant",
    manifolds.Manifold: "manifold",
    parameterizations.Parameterization: "parameterization",
    samplers.Sampler: "sampler",
    schedules.NoiseSchedule: "schedule",
    timesteps.Density: "density",
}


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
KINDS = {
    "schedule": Kind(names.SCHEDULES, {"schedule": "schedule"}),
    "parameterization": Kind(names.PARAMETERIZATIONS, {"clock": "clock", "parameterization": "parameterization"}),
    "clock": Kind(names.CLOCKS),
    "objective": Kind(names.OBJECTIVES, OF_OBJECTIVES, OBJECTIVES_ASK),
    "second player": Kind(names.SECOND_PLAYERS, OF_OBJECTIVES, OBJECTIVES_ASK),
    "density": Kind(names.DENSITIES, {"density": "density"}, ("schedule", "dimension")),
    "interpolant": Kind(names.INTERPOLANTS),
    "wrapper": Kind(
        ChainMap(names.WRAPPERS, names.TERMS),
        {
            **OF_OBJECTIVES,
            "augment": "conditioning augmentation",
            "critic": "projector",
            "network": "network of uncertainty",
        },
        (*OBJECTIVES_ASK, "alone", "autoencoder"),
    ),
    "projector": Kind(names.PROJECTORS),
    "network of uncertainty": Kind(names.UNCERTAINTIES),
    "autoencoder": Kind(names.AUTOENCODERS),
    "encoder": Kind(names.ENCODERS),
    "critic": Kind(names.CRITICS),
    "perceptual network": Kind(names.PERCEPTUAL),
    "decoder": Kind(names.DECODERS),
    "pairs of times": Kind(names.PAIRS, {"curriculum": "curriculum"}),
    "curriculum": Kind(names.CURRICULA, asks=("total",)),
    "distance": Kind(names.DISTANCES),
    "samples of a generator": Kind(names.SIMULATIONS, asks=("grid",)),
    "f-divergence": Kind(names.F_DIVERGENCES),
    "reward": Kind(names.REWARDS),
    "unnormalised density": Kind(names.TARGETS),
    "weighting of pairs": Kind(names.PAIR_WEIGHTINGS),
    "solver": Kind(names.SOLVERS),
    "coupling": Kind(
        names.COUPLINGS, {"cost": "cost of transport", "distance": "distance of conditions", "coupling": "coupling"}
    ),
    "distance of conditions": Kind(names.CONDITION_DISTANCES),
    "cost of transport": Kind(names.COSTS, {"manifold": "manifold"}),
    "manifold": Kind(names.MANIFOLDS),
    "prior": Kind(names.PRIORS),
    "auxiliary loss": Kind(names.AUXILIARY),
    "heat kernel": Kind(names.HEAT_KERNELS, {"manifold": "manifold"}),
    "weighting": Kind(
        names.WEIGHTINGS, {"parameterization": "parameterization", "weighting": "weighting"}, ("parameterization",)
    ),
    "conditioning augmentation": Kind(names.CONDITIONING_AUGMENTATIONS),
    "model": Kind(names.MODELS),
    "tuning": Kind(names.TUNINGS),
    "optimizer": Kind(names.OPTIMIZERS, asks=("steps",)),
    "moving average": Kind(names.AVERAGES, asks=("steps",)),
    "augmentation": Kind(names.AUGMENTATIONS),
    "sampler": Kind(
        ChainMap(names.SAMPLERS, names.SYMBOL_SAMPLERS),
        {
            "predictor": "sampler",
            "sampler": "sampler",
            "choose": "choice of masks",
            "share": "share of masks",
            "law": "law of a step",
        },
    ),
    "law of a step": Kind(names.LAWS),
    "choice of masks": Kind(names.UNMASKINGS, {"choose": "choice of masks"}),
    "share of masks": Kind(names.REMASKINGS),
    "process of symbols": Kind(
        names.PROCESSES, {"keeping": "schedule of symbols", "rates": "rates", "distances": "distances of symbols"}
    ),
    "schedule of symbols": Kind(names.KEEPINGS),
    "rates": Kind(names.RATES),
    "distances of symbols": Kind(names.SYMBOL_DISTANCES),
    "reading": Kind(names.READINGS),
    "grid": Kind(names.GRIDS, {"grid": "grid"}, ("schedule", "dimension")),
    "plan": Kind(names.PLANS),
    "cache": Kind(names.CACHES),
}
