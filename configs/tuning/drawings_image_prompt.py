"""IP-Adapter of the drawings' model (docs/text_demo.md): a reference drawing as a prompt.

    diffusion train --config=tuning/drawings_image_prompt --workdir=runs/reference
    python -m examples.control.report --reference=runs/reference --out=runs/control

The base is runs/text/model, or another by --config.base.path; the image encoder is the image tower that was trained
with its text encoder, runs/text/image_encoder. Half of the captions say nothing ("a picture"), so that only the
reference says what is drawn. Loss and density of the times are those of the base's training.

Time and figures: docs/image_prompts.md.

Presets: `drawings_image_prompt:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
control = recipes.module("tuning/drawings_control")

PRESETS = {"tiny": base.TINY | {"data.source.number": 16, "tuning.inner": 64, "tuning.depth": 1, "tuning.heads": 1}}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    tuning = {"name": "ip_adapter", "encoder": "runs/text/image_encoder", "kind": "plus", "tokens": 16}
    tuning |= {"inner": 192, "depth": 2, "heads": 3}
    config = base.tuned(tuning, learning_rate=2e-3, steps=1800)
    config.data.source = {"name": "drawings", "silent": 0.5, "number": 4_000}
    return recipes.preset(control.use_drawings(config), arg, PRESETS)
