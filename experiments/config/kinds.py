"""The kinds of entries that a config has, with the table of each, and the entries among their arguments."""

__all__ = ["KINDS", "Kind"]

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from diffusion.experiments.config import names


class Kind(NamedTuple):
    """The functions that entries of one kind name, and the kind of each of their arguments that is an entry too."""

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
    "samples": "samples of a generator",
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
    "samples of a generator": Kind(names.SIMULATIONS),
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
    "weighting": Kind(names.WEIGHTINGS, {"parameterization": "parameterization", "weighting": "weighting"}),
    "conditioning augmentation": Kind(names.CONDITIONING_AUGMENTATIONS),
    "model": Kind(names.MODELS),
    "tuning": Kind(names.TUNINGS),
    "optimizer": Kind(names.OPTIMIZERS),
    "moving average": Kind(names.AVERAGES),
    "augmentation": Kind(names.AUGMENTATIONS),
    "sampler": Kind(names.SAMPLERS, {"predictor": "sampler", "sampler": "sampler"}),
    "grid": Kind(names.GRIDS, {"grid": "grid"}),
    "plan": Kind(names.PLANS),
    "cache": Kind(names.CACHES),
}
