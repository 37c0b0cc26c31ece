"""One-step digits: drifting (Deng et al. 2026), a generator whose samples are moved towards the data as it trains.

    diffusion train --config=digits_drifting --workdir=runs/digits_drifting

No teacher, no second network and no times: the examples of a batch attract and repel those of their digit in pixels. A
sample without another one of its digit in the batch learns nothing, so a batch has about 13 of each. The temperature is
a ninth of the mean distance between two examples of a digit. The paper drifts in features of images.

Time and score (docs/students_digits.md): 2.9 minutes of CPU time; 3.34 times the Frechet distance of
`configs/digits.py` in pixels, since noise stays between the strokes; 95.8 % of the digits are recognised.

Presets: `digits_drifting:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes
from diffusion.recipe.recipes import preset

digits = recipes.module("digits")

TINY = {name: value for name, value in digits.PRESETS["tiny"].items() if not name.startswith("objective.")}
PRESETS = {"tiny": TINY | {"sample.steps": 1, "objective.block": 32}}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = digits.get_config()
    config.objective = {"name": "drifting", "temperature": 0.5, "block": 128}
    config.train.batch_size = 128
    config.train.steps = 900
    config.sample.sampler = {"name": "consistency"}
    config.sample.steps = 1
    config.sample.guidance.scale = 1.0
    return preset(config, arg, PRESETS)
