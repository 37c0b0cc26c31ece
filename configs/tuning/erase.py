"""ESD: a model forgets a concept, as its prediction for the concept's prompt is guided away from the concept.

    diffusion sample --model=stable-diffusion-v1-5 --prompt="Van Gogh" -n 50 --out=concept
    diffusion train --config=tuning/erase --workdir=runs/erased --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=concept --config.data.text.prompt="Van Gogh" --config.objective.concept="Van Gogh"
    diffusion sample --model=runs/erased/tuning --prompt="a house by Van Gogh"

The layers of cross-attention train (ESD-x, for styles); --config.tuning.targets='^(?!.*attn2)' trains all others
(ESD-u). Learning rate 1e-5, 1,000 steps and the scale 1 are the paper's.

Presets: `erase:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "full", "targets": "attn2"}, learning_rate=1e-5, steps=1000)
    config.objective = {
        "name": "erased_concept",
        "density": {"name": "uniform_density"},
        "concept": "Van Gogh",
        "scale": 1.0,
    }
    return base.preset(config, arg)
