"""Textual inversion: teaches a new word by training only its embedding, a file of some kilobytes.

    diffusion train --config=tuning/textual_inversion --workdir=runs/word --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos --config.data.text.prompt="a photo of <new>" --config.tuning.initial=dog
    diffusion sample --workdir=runs/word --prompt="a photo of <new> on a beach" -n 4
    diffusion sample --model=stable-diffusion-v1-5 --embedding=runs/word/tuning/learned_embeds.safetensors \\
      --prompt="a photo of <new> on a beach"

3,000 steps of 4 pictures and the learning rate 2e-3 are those of the example `textual_inversion.py` of diffusers, whose
`--scale_lr` multiplies its 5e-4 by the 4 pictures.

Presets: `textual_inversion:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "textual_inversion", "word": "<new>", "initial": "thing"}, 2e-3, steps=3000)
    config.train.batch_size = 4
    return base.preset(config, arg)
