"""Text to video on clips of one or two moving shapes, on pixels.

    python -m examples.video.demo --config=video/pairs --workdir=runs/pairs --config.data.processes=14     # on a GPU

Clips have 16 frames of 48 x 48 pixels. A space-time transformer works on patches of 6 x 6 pixels of 2 frames, and
predicts the clip. It reads the words of each shape, and a time for each frame. Six of ten examples noise the whole
clip. The others give the first frame or the first eight frames.

The training is for a GPU: an H100 needs five and a half minutes, and two cores would need days. Its weights ship with
the project as the model "moving". Time and figures: docs/video_demo.md.

Presets: `pairs:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

drawings = recipes.module("video/drawings")
FRAMES = 16
PATTERNS = ("." * 16, "1" + "." * 15, "1" * 8 + "." * 8)
TINY = drawings.TINY | {"model.patch": 6}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = drawings.get_config()
    config.data.source = {"name": "moving_pairs", "frames": FRAMES, "side": 48, "number": 96_000}
    config.data.threads = 8
    config.objective.density.update({"patterns": PATTERNS, "shares": (0.6, 0.15, 0.25)})
    config.objective.density.density.update({"mean": 1.4, "std": 1.2, "strata": 32})
    config.model.update({"patch": 6, "patch_frames": 2, "width": 256, "depth": 8, "heads": 4, "vector_width": 56})
    config.optimizer.update({"learning_rate": 2e-3, "decay": "cooldown"})  # a longer run can continue this one
    config.train.update({"steps": 4_916, "batch_size": 128, "dtype": "bfloat16"})
    config.checkpoint.every = 1_000
    config.sample.update({"steps": 20, "shift": 3.0})
    return recipes.preset(config, arg, {"tiny": TINY})
