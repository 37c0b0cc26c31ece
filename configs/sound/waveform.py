"""A 1-D U-Net on the samples of notes of eight instruments, by their class.

    diffusion train --config=sound/waveform --workdir=runs/waveform
    diffusion train --config=sound/waveform:dit --workdir=runs/waveform_dit
    diffusion sample --workdir=runs/waveform
    diffusion evaluate --workdir=runs/waveform --metrics=sound

Sixteen consecutive samples are the channels of one step, so a clip has 128 steps of 16 numbers. `diffusion sample`
writes WAV files.

Presets: `waveform:dit` (a 1-D DiT in place of the U-Net), `waveform:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("sound/base")
SMALL = {"model.widths": (8, 16), "model.attention_levels": (), "model.groups": 4, "model.heads": 2}
UNET = {
    "name": "unet", "widths": (64, 128, 192), "blocks": 1, "attention_levels": (1, 2), "heads": 4, "groups": 8,
    "num_classes": 8,
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    form = {"name": "samples", "fold": 16, "gain": 4.0}
    source = {"name": "instruments", "number": 2000, "length": 2048, "form": form}
    config = base.run(source, UNET, steps=1000, batch_size=16)
    return base.finished(config, arg, SMALL, {"dit": base.transformer(patch=4, steps=2000)})
