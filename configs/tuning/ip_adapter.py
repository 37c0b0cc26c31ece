"""IP-Adapter: teaches a text-to-image model to take pictures as prompts. In training each picture is its own prompt.

    diffusion train --config=tuning/ip_adapter --workdir=runs/ip --config.base.path=stable-diffusion-v1-5 \\
      --config.tuning.encoder=image_encoder --config.data.source.path=photos
    diffusion sample --workdir=runs/ip --prompt="a cat" --controls=image:painting.png:0.7

The encoder is the folder of CLIP with projection, SigLIP or DINOv2. The pictures have captions (docs/data.md); 5 % of
the examples have neither caption nor picture. Learning rate 1e-4 and weight decay 0.01 are those of the paper.

Presets: `ip_adapter:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "ip_adapter", "encoder": "image_encoder", "kind": "global"}, 1e-4, steps=10_000)
    config.objective.wrappers = ({"name": "condition_dropout", "rate": 0.05},)
    return base.preset(config, arg)
