"""A transformer on the lapped spectrum (MDCT) of notes of eight instruments, by their class.

    diffusion train --config=sound/spectrum --workdir=runs/spectrum
    diffusion sample --workdir=runs/spectrum
    diffusion evaluate --workdir=runs/spectrum --metrics=sound

A clip is 32 blocks of 64 coefficients, as many numbers as samples; `diffusion sample` writes WAV files of its samples.

Presets: `spectrum:unet` (a 1-D U-Net in place of the transformer), `spectrum:tiny` (seconds; to see that everything
works).
"""

from ml_collections import ConfigDict

from diffusion.experiments.config import recipes

base = recipes.module("sound/base")
SMALL = {"model.width": 16, "model.depth": 1, "model.heads": 2}
UNET = {"name": "unet", "widths": (128, 192), "blocks": 1, "heads": 4, "groups": 8, "num_classes": 8}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    source = {"name": "instruments", "number": 2000, "length": 2048, "form": {"name": "lapped_spectrum"}}
    model = {"name": "sequence_transformer", "width": 128, "depth": 4, "heads": 4, "num_classes": 8}
    config = base.run(source, model, steps=3000, batch_size=16)
    return base.finished(config, arg, SMALL, {"unet": {"model": UNET}})
