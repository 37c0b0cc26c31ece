"""Text to image on drawings, the training behind `weights/drawings`: `text/shapes` with words that are spelled.

    python -m examples.text.demo --config=text/drawings --workdir=runs/drawings
    diffusion sample --model=drawings --prompt="a red circle above a blue square" -n 4

It differs from `text/shapes` in three ways. The drawings have words of random letters among them, and the vocabulary
is so small that such words stay single letters: the model learns letters in place of whole words. The autoencoder
trains for fewer steps. The denoiser trains for longer, on more times of little noise, where edges form, at a constant
rate that falls to 0 over the last fifth of the steps: a run can be extended up to there, and the rest of it is the same
for any length.

Time and score: docs/text_demo.md.

Presets: `drawings:tiny` (minutes; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.text import shapes
from diffusion.experiments.config.recipes import preset


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = shapes.get_config()
    config.data.source = {"name": "spelled_drawings"}
    config.vocabulary.update({"size": 640, "length": 16})  # the merges that the captions' own words need
    config.encoder.model.text.update({"vocabulary": 640, "positions": 16})
    config.autoencoder.train.steps = 1_000
    config.denoiser.objective.density.update({"mean": 1.0, "std": 1.2})
    config.denoiser.optimizer.decay = "cooldown"
    config.denoiser.train.steps = 9_200
    return preset(config, arg, shapes.PRESETS)
