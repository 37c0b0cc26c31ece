"""LoRA: teaches a text-to-image model a subject or a style from a few pictures, in a file of some megabytes.

    diffusion train --config=tuning/lora --workdir=runs/lora --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos --config.data.text.prompt="a photo of sks dog"
    diffusion sample --workdir=runs/lora --prompt="a photo of sks dog on a beach" -n 4

Rank 4, learning rate 1e-4 and 500 steps are those of the example `train_dreambooth_lora.py` of diffusers.

Presets: `lora:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    return base.preset(base.tuned({"name": "lora", "rank": 4}, learning_rate=1e-4, steps=500), arg)
