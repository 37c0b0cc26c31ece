"""Text to video on the bundled clips of moving shapes: the denoiser of `make demo-video`.

    python -m examples.video.demo --config=video/drawings --workdir=runs/video
    diffusion train --config=video/drawings --workdir=runs/clips        # the denoiser alone

Clips have 8 frames of 32 x 32 pixels with one shape each. A space-time transformer reads which words the caption has,
and a time for each frame. Half of the examples noise the whole clip, a quarter give the first frame, and a quarter the
first four frames. So one network makes clips from captions and from pictures, and continues clips.

Time and figures: docs/video_demo.md.

Presets: `drawings:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe import recipes

base = recipes.module("small_flow")
FRAMES = 8
TINY = base.tiny(batch_size=8, samples=16) | {
    "data.source.number": 16,
    "train.steps": 4,
    "train.log_every": 2,
    "optimizer.warmup": 2,
    "checkpoint.every": 2,
    "model.width": 32,
    "model.depth": 1,
    "model.heads": 2,
    "model.patch": 8,
}
TINY["objective.density.density.strata"] = TINY.pop("objective.density.strata")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    source = {
        "name": "moving_drawings",
        "frames": FRAMES,
        "side": 32,
        "number": 8_000,
        "radii": (7.6, 8.2),
        "alone": True,
    }
    velocity = {"name": "velocity", "clock": {"name": "time", "scale": 1000.0}}
    objective = {  # the error of the velocity, by a network that need not carry the noise of a patch to the output
        "name": "denoising",
        "weighting": {"name": "constant", "parameterization": velocity},
        "density": {
            "name": "given_frames",
            # The layout of a clip forms at these times.
            "density": {"name": "logit_normal", "mean": 1.0, "std": 1.0, "strata": 24},
            "patterns": ("........", "1.......", "1111...."),
            "shares": (0.5, 0.25, 0.25),
        },
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config = base.flow(source, objective, steps=6_000, batch_size=24)
    config.parameterization = velocity | {"name": "x0"}
    config.model = {
        "name": "video_dit",
        "patch": 8,
        "width": 128,
        "depth": 4,
        "heads": 4,
        "vector_width": 28,
        "positions": "sincos_rope",
        "qk_norm": True,
    }
    config.optimizer = annealed(3e-3, "muon", weight_decay=0.01)
    config.checkpoint.every = 500
    config.train.log_every = 50
    base.sampled(config, "dpmpp_2m", steps=16, number=40, batch_size=20)
    config.sample.update({"shift": 2.0})
    config.sample.guidance.scale = 2.0
    return recipes.preset(config, arg, {"tiny": TINY})
