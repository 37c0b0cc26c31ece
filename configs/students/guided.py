"""Guidance distillation (Meng et al. 2023, first stage): the guided teacher as one network, which needs no guidance.

    diffusion train --config=students/guided:runs/digits --workdir=runs/guided
    diffusion sample --workdir=runs/guided

A step of sampling costs one evaluation in place of two, by any sampler. The student may teach other students.

With a range of scales less 1, the paper's w, the network receives the scale, which sampling then chooses:

    diffusion train --config=students/guided:runs/digits --workdir=runs/scales --config.teacher.scale=1 \\
        --config.objective.guidance="(0.0, 2.0)" --config.sample.guidance.scale=1.5
    diffusion sample --workdir=runs/scales --config.sample.guidance.scale=2.5

Time and score (docs/students_digits.md): 2.6 minutes of CPU time; in eight steps the guided digits teacher's own
distances.

Presets: `guided:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    # At times that a network of x0, say, was hardly trained at, its velocity is off by most.
    known, uniform = config.objective.density, {"name": "uniform_density", "strata": 32}
    config.objective = {
        "name": "guidance_distillation",
        "density": uniform if config.parameterization.name == "velocity" else known,
        "weighting": {"name": "constant"},
    }
    config.train.steps = 800
    config.sample.sampler = {"name": "dpmpp_2m"}
    config.sample.steps = 10
    return base.preset(config, arg, {})
