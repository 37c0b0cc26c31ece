"""Text to image on 3,786 captioned emoji: `configs/text/shapes.py` on real drawings.

    python -m examples.text.demo --config=text/emoji --workdir=runs/emoji --config.data.dir=DIR
    diffusion sample --model=runs/emoji/model --prompt="smiling face with sunglasses" -n 4

DIR holds `noto_emoji` as TFDS prepares it: pictures of 64x64 pixels, each with a caption. Captions like "woman pilot,
medium-dark skin tone" have more words, and rarer ones, than those of the shapes; the pictures repeat more often.

Time and score: docs/text_demo.md.

Presets: `emoji:tiny`.
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes
from diffusion.recipe.recipes import preset

shapes = recipes.module("text/shapes")

PRESETS = {"tiny": shapes.TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = shapes.get_config()
    config.data.name = "noto_emoji"
    config.data.split = "train[:90%]"  # the rest is what copies are measured by
    config.vocabulary = {"size": 2048, "length": 24}
    config.encoder.model.text.update({"vocabulary": 2048, "positions": 24})
    for stage, steps in (("encoder", 300), ("autoencoder", 1_200), ("denoiser", 1_500)):  # a fifth as many pictures
        config[stage].train.steps = steps
    return preset(config, arg, PRESETS)
