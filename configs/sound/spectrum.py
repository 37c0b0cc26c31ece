"""A 1-D U-Net along the frequencies of the lapped spectrum (MDCT) of notes of eight instruments, by their class.

    diffusion train --config=sound/spectrum --workdir=runs/spectrum
    diffusion sample --workdir=runs/spectrum
    diffusion evaluate --workdir=runs/spectrum --metrics=sound

A clip has 256 frequencies, its steps, at 8 times, its channels. It has as many numbers as samples. A convolution along
the frequencies recognises a partial at any frequency. `diffusion sample` writes WAV files of its samples.

Presets: `spectrum:dit` (a 1-D DiT in place of the U-Net), `spectrum:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("sound/base")
SMALL = {"model.widths": (8, 16), "model.attention_levels": (), "model.groups": 4, "model.heads": 2}
UNET = {
    "name": "unet", "widths": (64, 96, 128), "blocks": 1, "attention_levels": (2,), "heads": 4, "groups": 8,
    "num_classes": 8,
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    form = {"name": "lapped_spectrum", "bins": 256, "gain": 5.0, "along": "frequency"}
    source = {"name": "instruments", "number": 2000, "length": 2048, "form": form}
    config = base.run(source, UNET, steps=1200, batch_size=16)
    return base.finished(config, arg, SMALL, {"dit": base.transformer(patch=8, steps=2500)})
