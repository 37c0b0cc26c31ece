"""What the function of an entry returns, by the kind of the entry: a mistake is named where the function is called."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion import discrete, guidance, manifolds, parameterizations, samplers, schedules, timesteps
from diffusion.adapters.tuning import Tuning
from diffusion.data import sound
from diffusion.guidance import measurements
from diffusion.objectives.augmented import Augmentation
from diffusion.objectives.backward_simulation import Simulation
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.interpolants import Interpolant
from diffusion.objectives.projectors import Projector
from diffusion.objectives.rewards import CaptionReward
from diffusion.objectives.uncertainty import Uncertainty
from diffusion.objectives.unnormalised_targets import Target
from diffusion.recipe.config_errors import ConfigError
from diffusion.sampling import caching
from diffusion.training import ema, optimizers


class Returned(NamedTuple):
    """What the functions of a kind return.

    Attributes:
        words: a noun phrase for it.
        fits: whether a value is one.
    """

    words: str
    fits: Callable[[Any], bool]


def _fields_of(kind: type) -> list[str]:
    return getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind)]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _values(*kinds: type) -> Returned:
    """A value with the fields of one of these types: a user's own type with these fields is valid."""
    fields = [_fields_of(kind) for kind in kinds]
    words = " or ".join(_with_article(kind.__name__) for kind in kinds)
    alike = lambda value: any(all(hasattr(value, one) for one in names) for names in fields)
    return Returned(words, lambda value: isinstance(value, kinds) or alike(value))


def _function(signature: str) -> Returned:
    return Returned(f"a function {signature}", callable)


def _either(one: Returned, other: Returned) -> Returned:
    return Returned(f"{one.words} or {other.words}", lambda value: one.fits(value) or other.fits(value))


def _is_network(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "apply", None))


def _array(words: str, rank: int) -> Returned:
    """An array of numbers of a rank, which may be traced, or nested sequences of them."""

    def fits(value: Any) -> bool:
        try:
            return (
                np.ndim(value) == rank
                and np.dtype(getattr(value, "dtype", None) or np.asarray(value).dtype).kind in "iuf"
            )
        except (TypeError, ValueError):  # words, or rows of different lengths
            return False

    return Returned(words, fits)


GUIDED = _either(_function("(x_t, t) -> Prediction"), _values(guidance.Memory, guidance.Unpaired))
NETWORK = Returned("a Linen module, or another network with init and apply", _is_network)

# Objectives, wrappers, models, sources and drivers are checked where they are built.
RETURNED: Mapping[str, Returned] = {
    "schedule": _values(schedules.NoiseSchedule),
    "parameterization": _values(parameterizations.Parameterization),
    "clock": _function("(schedule, t) -> the network's time"),
    "density": _values(timesteps.Density),
    "interpolant": _values(Interpolant),
    "coupling": _values(Coupling),
    "cost of transport": _function("(x, noise) -> costs"),
    "distance of conditions": _function("(condition, condition) -> distances"),
    "manifold": _values(manifolds.Manifold),
    "prior": _values(manifolds.Distribution),
    "heat kernel": _values(manifolds.heat_kernels.HeatKernel),
    "auxiliary loss": _function("(x_0, x, t) -> losses"),
    "weighting": _function("(schedule, t) -> weights"),
    "weighting of pairs": _function("(schedule, t, s) -> weights"),
    "distance": _function("(x, y) -> distances"),
    "solver": _function("(denoise, schedule) -> FlowMap"),
    "projector": _values(Projector),
    "network of uncertainty": _values(Uncertainty),
    "conditioning augmentation": _values(Augmentation),
    "decoder": _function("(x_0, noise, sigma / alpha) -> log p(x_0 | x_t)"),
    "pairs of times": _function("(schedule, t, step) -> (t, s)"),
    "curriculum": _function("of the training step that returns a number of times"),
    "samples of a generator": _values(Simulation),
    "f-divergence": _function("of the density ratio that returns weights"),
    "reward": _either(_function("(x, condition) -> rewards"), _values(CaptionReward)),
    "unnormalised density": _values(Target),
    "reading": _function("(process, output, x_t, t) -> log p(x_0 | x_t)"),
    "process of symbols": _values(discrete.Process, discrete.RateProcess, discrete.MetricPath, discrete.TokenMasks),
    "schedule of symbols": _values(discrete.Keeping),
    "rates": _array("a square array of jump rates", 2),
    "distances of symbols": _array("a square array of distances", 2),
    "law of a step": _function("(predict, process, x, t, s) -> probabilities"),
    "choice of masks": _function("(log-probabilities, masked) -> scores"),
    "share of masks": _function("of the time that returns a share"),
    "encoder": NETWORK,
    "critic": NETWORK,
    "perceptual network": NETWORK,
    "autoencoder": NETWORK,
    "tuning": _values(Tuning),
    "optimizer": _values(optimizers.Optimizer),
    "moving average": _values(ema.ExponentialMovingAverage),
    "augmentation": _function("(random generator, image) -> image"),
    "sampler": _values(discrete.SymbolSampler, samplers.Sampler),
    "grid": _array("an array of times [N + 1]", 1),
    "plan": _values(timesteps.Plan),
    "cache": _values(caching.Cache),
    "guidance": GUIDED,
    "ramp": _function("of the time that returns a share"),
    "guide": GUIDED,
    "measurement": _values(measurements.Measurement),
    "mask": Returned("an array", lambda value: hasattr(value, "shape")),
    "likelihood": _function("of x that returns log-likelihoods"),
    "filter": _function("of a record that returns whether it is kept"),
    "control": _function("of a picture that returns its control"),
    "part that is hidden": _function("(random generator, series) -> mask"),
    "parser": _function("of bytes that returns columns"),
    "form": _values(sound.Form),
    "editor": _function("of an editors.Task that returns the edited examples"),
}


def check(kind: str, value: Any, path: str, name: Any) -> None:
    """Refuses what the function of an entry returned if it is not what functions of its kind return.

    Args:
        kind: the kind of the entry.
        value: the value that the function returned.
        path: the path of the entry, e.g. `config.schedule`.
        name: the name of the function.

    Raises:
        ConfigError: naming the function, what it returned, and what is valid.
    """
    if kind in RETURNED and not RETURNED[kind].fits(value):
        raise ConfigError(
            f"{path}.name = {name!r} returns {_with_article(type(value).__name__)}. Valid: a function that returns "
            f"{RETURNED[kind].words}; see docs/extend.md."
        )
