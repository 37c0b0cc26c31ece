"""A 1-D U-Net on the samples of notes of eight instruments, by their class.

    diffusion train --config=sound/waveform --workdir=runs/waveform
    diffusion train --config=sound/waveform:dit --workdir=runs/waveform_dit
    diffusion sample --workdir=runs/waveform
    diffusion evaluate --workdir=runs/waveform --metrics=sound

Eight samples in a row are the channels of one step: 256 steps of 8 numbers. `diffusion sample` writes WAV files.

Presets: `waveform:dit` (a 1-D DiT in place of the U-Net), `waveform:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.experiments.config import recipes

base = recipes.module("sound/base")
SMALL = {"model.widths": (8, 16), "model.groups": 4, "model.heads": 2}
DIT = {"name": "sequence_transformer", "width": 128, "depth": 5, "heads": 4, "patch": 8, "num_classes": 8}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    source = {"name": "instruments", "number": 2000, "length": 2048, "form": {"name": "samples", "fold": 8}}
    model = {"name": "unet", "widths": (48, 96, 128), "blocks": 1, "heads": 4, "groups": 8, "num_classes": 8}
    config = base.run(source, model, steps=2000, batch_size=16)
    return base.finished(config, arg, SMALL, {"dit": {"model": DIT}})
