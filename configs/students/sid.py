"""Score identity distillation (SiD; Zhou et al. 2024): a generator of one step, by the Fisher divergence of two scores.

    diffusion train --config=students/sid:runs/digits --workdir=runs/sid
    diffusion sample --workdir=runs/sid

As `students/dmd`, with another loss of the generator: its gradient goes through both networks, so that an update costs
about twice as much. Both players act in every step, and Adam has no first moment, as in SiD's code.

Score on the digits (docs/students_digits.md): 1.02 times the teacher's Frechet distance in pixels, in one evaluation.

Presets: `sid:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

dmd = recipes.module("students/dmd")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = dmd.get_config(arg)
    config.objective.name = "score_identity"
    config.second_player.updates = 1
    config.second_player.optimizer.b1 = config.optimizer.b1 = 0.0
    config.train.steps = 700
    return dmd.base.preset(config, arg, {})
