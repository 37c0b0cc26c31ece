"""Text to image on drawings, the training behind `weights/drawings`: `text/shapes` with words that are spelled.

    python -m examples.text.demo --config=text/drawings --workdir=runs/drawings
    mv runs/drawings/denoiser runs/drawings/first
    python -m examples.text.demo --config=text/drawings:second --workdir=runs/drawings \\
        --config.denoiser.init_from.path=runs/drawings/first
    mv runs/drawings/denoiser runs/drawings/second
    python -m examples.text.demo --config=text/drawings:third --workdir=runs/drawings \\
        --config.denoiser.init_from.path=runs/drawings/second
    mv runs/drawings/denoiser runs/drawings/third
    rm -r runs/drawings/captions runs/drawings/latents
    python -m examples.text.demo --config=text/drawings:fourth --workdir=runs/drawings \\
        --config.denoiser.init_from.path=runs/drawings/third

It differs from `text/shapes` in three ways. The drawings have words of random letters among them, and the vocabulary is
so small that such words stay single letters. The autoencoder trains for fewer steps. The denoiser trains four times.
The first training has a constant rate and draws more times of little noise, where edges form. The second one starts
from the first's average, with a rate that falls to 0, and draws more times of much noise, where colours find their
objects. The third one starts from the second's average and lasts 14,000 steps, with times between the two. The fourth
one does the same at a third of the rate, for 9,000 steps on three times as many drawings.

Time and score: docs/text_demo.md.

Presets: `drawings:second`, `drawings:third` and `drawings:fourth`, the later trainings; `drawings:tiny` (minutes; to
see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.text import shapes
from diffusion.recipe.recipes import preset

SECOND = {
    "denoiser.objective.density.mean": 1.4,
    "denoiser.objective.density.std": 1.1,
    "denoiser.optimizer.decay": "cosine",
    "denoiser.optimizer.learning_rate": 2e-3,
    "denoiser.train.steps": 2_500,
}
THIRD = SECOND | {
    "denoiser.objective.density.mean": 1.2,
    "denoiser.objective.density.std": 1.2,
    "denoiser.train.steps": 14_000,
}
FOURTH = THIRD | {
    "denoiser_data": {"source": {"name": "spelled_drawings", "number": 72_000}},
    "denoiser.optimizer.learning_rate": 7e-4,
    "denoiser.train.steps": 9_000,
}
PRESETS = shapes.PRESETS | {"second": SECOND, "third": THIRD, "fourth": FOURTH}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = shapes.get_config()
    config.data.source = {"name": "spelled_drawings"}
    config.vocabulary.update({"size": 640, "length": 16})  # the merges that the captions' own words need
    config.encoder.model.text.update({"vocabulary": 640, "positions": 16})
    config.autoencoder.train.steps = 1_000
    config.denoiser.objective.density.update({"mean": 1.0, "std": 1.2})
    config.denoiser.optimizer.decay = "constant"  # at this rate the loss rises again after 3,500 steps
    config.denoiser.train.steps = 3_200
    return preset(config, arg, PRESETS)
