"""Latent consistency distillation (LCM; Luo et al. 2023): guidance is built in, and the network receives its scale.

    diffusion train --config=students/lcm:runs/digits --workdir=runs/lcm
    diffusion sample --workdir=runs/lcm --config.sample.steps=2 --config.sample.guidance.scale=1.5

A sample costs one evaluation a step at any scale from 1 (none) to twice the teacher's own. The teacher may be one of
latents or of pictures.

Score (docs/students_digits.md): in 4 steps 1.15 times the Frechet distance of the digits teacher's 20 in pixels, 1.26
times in classifier features, after 800 steps of training.

Presets: `lcm:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    scale = config.teacher.scale  # scale of the teacher's samples
    config.teacher.scale = 1.0  # the objective guides it
    config.objective = {
        "name": "latent_consistency_distillation",
        "guidance": (0.0, 2.0 * scale - 1),
        "shift": config.sample.shift,
        "solver_steps": 50,
    }
    config.parameterization = base.bounded(config)
    config.train.steps = 800
    config.sample.guidance.scale = scale
    return base.preset(config, arg, {})
