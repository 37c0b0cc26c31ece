"""Custom diffusion: teaches a new word by its embedding and cross-attention's keys and values, with class pictures.

    diffusion train --config=tuning/custom_diffusion --workdir=runs/custom --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos --config.data.text.prompt="photo of a <new> dog" \\
      --config.tuning.initial=dog \\
      --config.objective.wrappers='({"name": "prior_preservation", "prompt": "photo of a dog"},)'
    diffusion sample --workdir=runs/custom --prompt="photo of a <new> dog on a beach" -n 4

Learning rate 4e-5, 250 steps of 2 pictures and 200 pictures of the class are the values for one word in diffusers'
example `train_custom_diffusion.py`. Its `--scale_lr` multiplies 1e-5 by the 2 pictures, and by 2 for the pictures of
the class.

Presets: `custom_diffusion:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "custom_diffusion", "word": "<new>", "initial": "thing"}, 4e-5, steps=250)
    config.train.batch_size = 2
    return base.preset(config, arg)
