"""A concept slider: a LoRA whose weight in sampling, of either sign, moves a property of the pictures.

    diffusion sample --model=stable-diffusion-v1-5 --prompt="a photo of a person" -n 50 --out=people
    diffusion train --config=tuning/slider --workdir=runs/age --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=people --config.data.text.prompt="a photo of a person" \\
      --config.objective.target="a photo of a person" --config.objective.positive="a photo of an old person" \\
      --config.objective.negative="a photo of a young person"
    diffusion sample --model=stable-diffusion-v1-5 --lora=runs/age/tuning/pytorch_lora_weights.safetensors:-2 \\
      --prompt="a photo of a person"

The pictures say where x_t lies; the loss reads only prompts. Rank 4, learning rate 2e-4, 1,000 steps and the scale 4
are those of the authors' example (config.yaml and prompts.yaml of rohitgandikota/sliders).

Presets: `slider:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "lora", "rank": 4, "alpha": 1.0}, learning_rate=2e-4, steps=1000)
    config.objective = {
        "name": "concept_slider",
        "density": {"name": "uniform_density"},
        "target": "a person",
        "positive": "an old person",
        "negative": "a young person",
        "scale": 4.0,
    }
    return base.preset(config, arg)
