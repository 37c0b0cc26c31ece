"""One-step digits: AlphaFlow (Zhang et al. 2025), which begins as flow matching and ends as MeanFlow.

    diffusion train --config=digits_alpha_flow --workdir=runs/digits_alpha_flow

As `configs/digits_mean_flow.py`, whose loss it reaches in the last three tenths of the training; half of the examples
have s = t, in place of three quarters. It has not been trained to its end.

Time: about that of `configs/digits_mean_flow.py` on two cores, not measured. Score: none yet.

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
