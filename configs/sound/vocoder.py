"""DiffWave as a vocoder: clips from the levels of 40 bands of frequency, which say nothing of phases.

    diffusion train --config=sound/vocoder --workdir=runs/vocoder
    diffusion sample --workdir=runs/vocoder
    diffusion evaluate --workdir=runs/vocoder --metrics=vocoder

The network receives the noise level, as WaveGrad does, and clips that are flattened by their levels, so that its noise
has their spectrum, as SpecGrad's: see `sound.shaping`. Eight samples in a row are one step, which costs an eighth.
`diffusion sample` makes the clips of the first records again, and `--metrics=vocoder` those of the test split.

Presets: `vocoder:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.experiments.config import recipes

base = recipes.module("sound/base")
SMALL = {"model.width": 8, "model.layers": 2, "model.cycle": 2}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    source = {
        "name": "instruments",
        "number": 8000,
        "length": 2048,
        "form": {"name": "samples", "fold": 8, "gain": 1.0},
        "mels": 40,
        "window": 256,
        "hop": 64,
        "shaped": True,
    }
    model = {"name": "diffwave", "width": 64, "layers": 10, "cycle": 5, "mels": 40, "hop": 8, "clock": "level"}
    config = base.run(source, model, steps=2000, batch_size=8)
    config.schedule = {"name": "cosine"}
    config.parameterization = {"name": "v", "clock": {"name": "noise_level"}}
    config.objective = {
        "name": "denoising",
        "weighting": {"name": "constant"},
        "density": {"name": "uniform_density", "strata": 8},
    }
    config.sample.shift = 1.0
    config.sample.number = 64
    config.sample.batch_size = 64
    return base.finished(config, arg, SMALL, {})
