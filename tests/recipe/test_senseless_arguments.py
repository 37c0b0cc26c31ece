"""Each argument of each function that a config can name: a value without sense is taken, or refused by a ConfigError.

A new argument without a default needs an entry of `SENSIBLE`.
"""

import inspect
import math
import re

import pytest

from diffusion.recipe import ConfigError, names
from diffusion.recipe.entries import HIDDEN
from diffusion.recipe.parts import Resolver
from tests.recipe.test_resolve import NO_GUIDANCE, changed

SENSELESS = (math.nan, -math.inf, -1, 0, "x", True, None, (), ((1, 2),), (1.0, "x"), {}, {"name": "x"})
DENSITY = {"name": "uniform_density"}
LINEAR = {"name": "linear"}
SPHERE = {"name": "sphere", "n": 2}
SENSIBLE = {
    "A": ((1.0,),), "N": 4, "a": 1.0, "adversarial": 0.1, "augment": {"name": "edm_augmentation"}, "b": 1.0,
    "beta": 1.0, "betas": (0.1, 0.2), "block": 2, "blocks": 1, "chunk": 1, "concept": 1, "corruption": 0.5,
    "coupling": {"name": "independent"}, "critic": 0.1, "decoder_depth": 1, "decoder_heads": 2, "decoder_width": 16,
    "delay": 1, "density": DENSITY, "depth": 2, "depths": (0, 1), "exponents": (1.0,), "factor": 2, "features": 4,
    "first": 1.0, "frames": 4, "grid": {"name": "uniform"}, "group": 2, "heads": 2, "hidden": 16,
    "interpolant": {"name": "brownian_bridge"}, "interval": 2, "keeping": LINEAR, "kernel": SPHERE, "last": 2.0,
    "layer": 1, "layers": (0,), "levels": (1.0,), "log_snr": (5.0, -5.0), "manifold": SPHERE, "middle": 1,
    "most": 5.0, "negative": "young", "network": "sdxl", "neutral": "a face", "num_classes": 10, "number": 2,
    "pairs": {"name": "shrinking", "stage": 9}, "parameterization": {"name": "epsilon"}, "patch": 2,
    "patterns": ((1, 0),), "positive": "old", "process": {"name": "absorbing", "size": 3, "keeping": LINEAR},
    "rate": 0.1, "ratio": 0.1, "ratios": (1.0,), "reg": 0.1, "restarts": ((2, 1, 0.3, 1.0),),
    "reward": {"name": "near_value", "value": 0.5}, "sampler": {"name": "ddim"}, "scale": 2.0,
    "schedule": {"name": "cosine"}, "sigma": 0.5, "sigma_max": 10.0, "sigma_min": 0.01, "size": 8, "stage": 9,
    "steps": 4, "t_max": 0.9,
    "structure": 0.1, "student_density": DENSITY, "target": 0.5, "target_density": {"name": "dw4"}, "temperature": 0.1,
    "text_width": 8, "threshold": 0.1, "total": 9, "until": 10, "weighting": {"name": "constant"}, "width": 16,
    "widths": (8, 16),
}  # fmt: skip
# {field: (its table, the part that is built from it)}
FIELDS = {
    "schedule": (names.SCHEDULES, "schedule"),
    "parameterization": (names.PARAMETERIZATIONS, "prediction"),
    "parameterization.clock": (names.CLOCKS, "clock"),
    "objective": (names.OBJECTIVES, "objective"),
    "objective.density": (names.DENSITIES, "objective"),
    "objective.coupling": (names.COUPLINGS, "objective"),
    "objective.wrappers": ({**names.WRAPPERS, **names.TERMS}, "objective"),
    "optimizer": (names.OPTIMIZERS, "optimizer"),
    "ema": (names.AVERAGES, "average"),
    "model": (names.MODELS, "network"),
    "sample.sampler": (names.SAMPLERS, "sampler"),
    "sample.grid": (names.GRIDS, "grid"),
    "sample.plan": (names.PLANS, "plan"),
    "sample.cache": (names.CACHES, "cache"),
    "data.augment": (names.AUGMENTATIONS, "augmentations"),
}


def build(field, entry):
    listed = field in ("objective.wrappers", "data.augment")
    config = changed((field, (entry,) if listed else entry), *[NO_GUIDANCE][: field != "objective.wrappers"])
    return getattr(Resolver(config, shape=(8, 8, 1)), FIELDS[field][1])


def sensible(field, name):
    """An entry with a value for each argument that has no default, or None where it needs other parts of a run."""
    entry = {"name": name}
    while True:
        try:
            build(field, entry)
        except ConfigError as error:
            needs = re.search(rf"{re.escape(repr(name))} needs ([\w, ]+), e\.g\.", str(error))
            if needs is None:
                return entry
            entry |= {argument: SENSIBLE[argument] for argument in needs[1].split(", ")}
        else:
            return entry


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_each_argument_is_taken_or_refused_by_name(field):
    table, _ = FIELDS[field]
    ended = []
    for name, function in table.items():
        entry = sensible(field, name)
        for argument in (
            inspect.signature(function).parameters.keys() - HIDDEN - {"num_classes"}
        ):  # `fields.check` looks at that
            for value in SENSELESS:
                try:
                    build(field, entry | {argument: value})
                except ConfigError as error:
                    if re.search(rf"unknown argument .*{argument!r}", str(error)):
                        break  # the run supplies it
                except Exception as error:
                    ended.append((name, argument, value, repr(error)[:90]))
    assert ended == []
