"""Distribution matching distillation (DMD; Yin et al. 2024): a generator of one step, by the scores of two networks.

    diffusion train --config=students/dmd:runs/digits --workdir=runs/dmd
    diffusion sample --workdir=runs/dmd

A second network follows the generator's own distribution; as in DMD2 it is updated five times for one update of the
generator, and takes the place of the regression on the teacher's samples.

Presets: `dmd:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


TIMES = {"name": "uniform_density", "strata": 32}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    config.objective = {"name": "distribution_matching", "density": TIMES}
    config.second_player = {
        "objective": {
            "name": "fake_score",
            "density": TIMES,
            "weighting": {"name": "constant", "parameterization": config.teacher.parameterization.to_dict()},
        },
        "network": {"name": ""},  # the teacher's
        "optimizer": {"name": "adamw", "learning_rate": 5e-4, "warmup": 50, "clip": 1.0},
        "updates": 5,
    }
    config.optimizer.learning_rate = 2e-4
    config.train.steps = 1500
    config.sample.steps = 1
    return base.preset(config, arg, {})
