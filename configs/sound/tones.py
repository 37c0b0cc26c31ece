"""A 1-D DiT on notes of eight instruments as harmonics and the rest, by instrument and pitch: one second at 16 kHz.

    diffusion train --config=sound/tones --workdir=runs/tones
    diffusion sample --workdir=runs/tones
    python -m examples.sound.tones --workdir=runs/tones --out=runs/tones/report

A clip has 72 harmonics and 256 frequencies of the rest, its steps, at 64 times. The network receives the instrument,
the fundamental and the vibrato, which the harmonics follow. It predicts the note, and its loss is the loss of the
velocity that follows from it. `diffusion sample` writes WAV files of its samples. The demo measures them and plays a
melody.

Presets: `tones:large` (15 M parameters, for a GPU: 40,000 notes, 3.4 GB of memory, and 8 minutes of an
H200), `tones:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("sound/base")
SMALL = {"model.width": 16, "model.depth": 1, "model.heads": 2, "data.source.length": 4096}
MODEL = {
    "name": "sequence_transformer", "width": 192, "depth": 4, "heads": 4, "patch": 8, "qk_norm": True,
    "num_classes": 8, "vector_width": 3, "input_gain": True,
}  # fmt: skip


LARGE = {
    "model": MODEL | {"width": 320, "depth": 8, "heads": 5, "patch": 4},
    "data.source.number": 40_000,
    "objective.density.strata": 32,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup": 200,
    "ema.decay": 0.999,
    "train.steps": 37_200,
    "train.batch_size": 128,
    "train.dtype": "bfloat16",
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    form = {"name": "harmonics_and_rest", "gains": (10.0, 4.0)}
    source = {
        "name": "instruments",
        "number": 4000,
        "sample_rate": 16000,
        "length": 16384,
        "form": form,
        "vibrato": True,
    }
    config = base.run(source, MODEL, steps=3000, batch_size=16)
    config.parameterization = {"name": "clipped_x0", "floor": 0.05, "clock": {"name": "steps"}}
    weighting = {"name": "constant", "parameterization": {"name": "velocity"}}
    density = {"name": "logit_normal", "mean": 0.5, "strata": 16}
    config.objective = {"name": "denoising", "weighting": weighting, "density": density}
    return base.finished(config, arg, SMALL, {"large": LARGE})
