"""Three tunings of the model of drawings, of about a minute each: a slider of size, ESD, custom diffusion.

    diffusion sample --model=drawings --prompt="a shape" -n 50 --batch_size=25 --out=runs/concepts/shapes
    diffusion train --config=tuning/drawings_concepts:slider --workdir=runs/concepts/slider
    diffusion sample --model=drawings --lora=runs/concepts/slider/tuning/pytorch_lora_weights.safetensors:-1 \\
        --prompt="a red circle"

    diffusion sample --model=drawings --prompt="a heart" -n 50 --batch_size=25 --out=runs/concepts/hearts
    diffusion train --config=tuning/drawings_concepts:erase --workdir=runs/concepts/erase
    diffusion sample --model=runs/concepts/erase/tuning --prompt="a red heart"

    python -m examples.glyph.pictures --out=runs/glyph/pictures
    diffusion train --config=tuning/drawings_concepts:custom_diffusion --workdir=runs/concepts/custom_diffusion
    diffusion sample --workdir=runs/concepts/custom_diffusion --prompt="a red <ghost>"

The base is weights/drawings, or another by --config.base.path. The times of the training are the base's own.

Figures: docs/gallery/techniques.

Presets: the three above (the recipe itself is the slider), and `drawings_concepts:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
denoiser = recipes.module("text/shapes").denoiser

TIMES = denoiser()["objective"]["density"].to_dict()
PRESETS = {
    "slider": {},
    "erase": {
        "data.source.path": "runs/concepts/hearts",
        "data.text.prompt": "a heart",
        "tuning": {"name": "full", "targets": "attn2"},
        "objective": {"name": "erased_concept", "density": TIMES, "concept": "a heart", "scale": 1.0},
        "optimizer.learning_rate": 3e-4,
    },
    "custom_diffusion": {
        "data.source": {"name": "picture_folder", "path": "runs/glyph/pictures", "caption": "word"},
        "data.text.prompt": "",
        "tuning": {"name": "custom_diffusion", "word": "<ghost>", "initial": "heart"},
        "objective": {
            **denoiser()["objective"].to_dict(),
            "wrappers": ({"name": "prior_preservation", "prompt": "a shape", "number": 50},),
        },
        "optimizer.learning_rate": 3e-3,
        "train.steps": 300,
    },
    "tiny": base.TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "lora", "rank": 4, "alpha": 1.0}, learning_rate=1e-3, steps=200)
    config.base.path = "weights/drawings"
    config.data.source = {"name": "picture_folder", "path": "runs/concepts/shapes"}
    config.data.text.prompt = "a shape"
    config.objective = {
        "name": "concept_slider",
        "density": TIMES,
        "target": "a shape",
        "positive": "a large shape",
        "negative": "a small shape",
        "scale": 2.0,
    }
    config.optimizer.decay = "cosine"
    config.train.batch_size = 16
    return recipes.preset(config, arg, PRESETS)
