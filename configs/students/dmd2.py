"""Distribution matching in several steps (DMD2; Yin et al. 2024): the generator is trained where its own steps lead it.

    diffusion train --config=students/dmd2:runs/digits --workdir=runs/dmd2
    diffusion sample --workdir=runs/dmd2

As `students/dmd`, with backward simulation of the four steps of config.sample (grid, steps, shift); without DMD2's
discriminator.

Time and score (docs/students_digits.md): 4.9 minutes of CPU time; on the digits in two steps 1.04 times the Frechet
distance of the teacher's 20 in pixels, in its four 1.43 times.

Presets: `dmd2:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

dmd = recipes.module("students/dmd")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = dmd.get_config(arg)
    config.objective.samples = config.second_player.objective.samples = {"name": "backward_simulation"}
    config.sample.steps = 4
    config.train.steps = 900
    return dmd.base.preset(config, arg, {})
