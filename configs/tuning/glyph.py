"""A glyph from five pictures, for the model of `make demo-text`, in three ways: docs/tuning.md#a-glyph-in-three-ways.

    python -m examples.glyph.pictures --out=runs/glyph/pictures
    diffusion train --config=tuning/glyph:lora --workdir=runs/glyph/lora
    diffusion sample --workdir=runs/glyph/lora --prompt="a red ghost above a blue square" -n 4

The times and the loss are those of the model's own training (configs/text/shapes.py).

Presets: `glyph:lora` (the recipe itself), `glyph:dreambooth`, `glyph:textual_inversion`, minutes each; `glyph:tiny` (to
see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
denoiser = recipes.module("text/shapes").denoiser

GLYPH = {
    "base.path": "runs/text/model",
    "data.source": {"name": "picture_folder", "path": "runs/glyph/pictures", "caption": "caption"},
    "objective": {
        **denoiser()["objective"].to_dict(),
        "wrappers": ({"name": "prior_preservation", "prompt": "a shape", "number": 50},),
    },
    "train.batch_size": 16,
    "train.accumulate": 1,
    "optimizer.decay": "cosine",
}
PRESETS = {
    "lora": {},
    "dreambooth": {"tuning": {"name": "full"}, "optimizer.learning_rate": 2e-4, "train.steps": 500},
    "textual_inversion": {
        "tuning": {"name": "textual_inversion", "word": "<ghost>", "vectors": 2, "initial": "heart"},
        "data.source.caption": "word",
        "objective.wrappers": (),  # nothing that it trains is in other prompts
        "train.steps": 800,
        "optimizer.learning_rate": 2e-2,
        "optimizer.weight_decay": 0.0,
    },
    "tiny": base.TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    lora = {"name": "lora", "rank": 8, "targets": r"(^|\.)(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)$"}
    config = base.tuned(lora, learning_rate=1e-3, steps=300)
    recipes.preset(config, "glyph", {"glyph": GLYPH})
    return recipes.preset(config, arg, PRESETS)
