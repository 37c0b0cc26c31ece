"""Reflow (Liu et al. 2023): a flow trained on pairs of noise and the teacher's sample of it: straighter paths.

    diffusion train --config=students/reflow:runs/digits --workdir=runs/reflow
    diffusion sample --workdir=runs/reflow --config.sample.steps=2

The run begins by making the pairs, with the teacher's own sampler and guidance, and keeps them in its folder.

Presets: `reflow:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    config.teacher.pairs.update({"number": 4096, "sampler": {"name": "dpmpp_2m"}, "steps": 10})
    config.data.augment = ()  # the pairs are what they are
    # A network of x0, say, has the largest errors of velocity at times at which it hardly trained.
    known, uniform = config.objective.density, {"name": "uniform_density", "strata": 32}
    config.objective = {"name": "reflow", "density": uniform if config.parameterization.name == "velocity" else known}
    config.train.steps = 1000
    config.sample.sampler = {"name": "euler"}
    return base.preset(config, arg, {"teacher.pairs.number": 600, "teacher.pairs.steps": 2})
