"""Consistency distillation (Song et al. 2023): a network that jumps to the end of the teacher's flow from any time.

    diffusion train --config=students/consistency:runs/digits --workdir=runs/consistency
    diffusion sample --workdir=runs/consistency --config.sample.steps=2

Between two of 18 times lies one step of Heun's method with the teacher. Where the teacher's prediction is x_t itself at
t = 0 (velocity, v, epsilon), the student meets the boundary as it is; a network of x0 gets the boundary of latent
consistency models.

Presets: `consistency:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    config.objective = {"name": "cd", "N": 18}
    if config.parameterization.name == "x0":
        config.parameterization = base.bounded(config)
    config.train.steps = 800
    return base.preset(config, arg, {})
