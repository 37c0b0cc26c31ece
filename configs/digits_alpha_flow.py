"""One-step digits: AlphaFlow (Zhang et al. 2025), which begins as flow matching and ends as MeanFlow.

    diffusion train --config=digits_alpha_flow --workdir=runs/digits_alpha_flow

The recipe follows `configs/digits_mean_flow.py`, and has its loss in the last three tenths of the training. Half of the
examples have s = t, in place of three quarters.

Time and score (docs/students_digits.md): eight minutes of two cores that also ran other programs; in one evaluation
1.26 times the Frechet distance of `configs/digits.py` in pixels, in four 1.15 times.

Presets: `digits_alpha_flow:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes
from diffusion.recipe.recipes import preset

mean_flow = recipes.module("digits_mean_flow")

PRESETS = mean_flow.PRESETS


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = mean_flow.get_config()
    config.objective.name = "alpha_flow"
    return preset(config, arg, PRESETS)
