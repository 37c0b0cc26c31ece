"""A transformer on the lapped spectrum (MDCT) of notes of eight instruments, by their class.

    diffusion train --config=sound/spectrum --workdir=runs/spectrum
    diffusion sample --workdir=runs/spectrum
    diffusion evaluate --workdir=runs/spectrum --metrics=sound

A clip is 16 blocks of 128 coefficients, as many numbers as samples, each the fourth root of its size with its sign:
silence is then near 0, and not 80 dB below the rest. `diffusion sample` writes WAV files of its samples.

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
    form = {"name": "lapped_spectrum", "bins": 128, "window": "kaiser_bessel", "power": 0.25, "gain": 3.0}
    source = {"name": "instruments", "number": 8000, "length": 2048, "form": form}
    model = {"name": "sequence_transformer", "width": 128, "depth": 5, "heads": 4, "num_classes": 8}
    config = base.run(source, model, steps=2500, batch_size=16)
    return base.finished(config, arg, SMALL, {"unet": {"model": UNET}})
