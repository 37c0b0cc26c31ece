"""DreamBooth: teaches a subject by training the whole denoiser, also on pictures of its class, so that the class stays.

    diffusion train --config=tuning/dreambooth --workdir=runs/dreambooth --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos --config.data.text.prompt="a photo of sks dog" \\
      --config.objective.wrappers='({"name": "prior_preservation", "prompt": "a photo of a dog"},)'
    diffusion sample --workdir=runs/dreambooth --prompt="a photo of sks dog on a beach" -n 4

With LoRA in place of the whole denoiser: --config.tuning='{"name": "lora", "rank": 4}'
--config.optimizer.learning_rate=1e-4. Learning rate 5e-6, 800 steps, 200 pictures of the class and the weight 1 are
those of the example `train_dreambooth.py` of diffusers.

Presets: `dreambooth:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    return base.preset(base.tuned({"name": "full"}, learning_rate=5e-6, steps=800), arg)
