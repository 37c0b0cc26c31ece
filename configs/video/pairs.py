"""Text to video on clips of one or two moving shapes, on latents of an autoencoder of pictures.

    python -m examples.video.demo --config=video/pairs --workdir=runs/pairs

Clips of 16 frames of 48 x 48 pixels. Two trainings, each a run of its own in the folder: an autoencoder of pictures,
which makes 12 x 12 latents of 4 channels of each frame, and a space-time transformer on these latents, whose patches
are 4 x 4 latents of 2 frames. It reads the words of each shape, and a time for each frame: six of ten examples are
whole clips, the others go on from their first frame or their first eight.

Time and figures: docs/video_demo.md.

Presets: `pairs:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

drawings = recipes.module("video/drawings")
shapes = recipes.module("text/shapes")
FRAMES = 16
PATTERNS = ("." * 16, "1" + "." * 15, "1" * 8 + "." * 8)
TINY = {
    "data.source.number": 16,
    "measured": 8,
    "autoencoder.model.widths": (4, 4, 8),
    **{f"autoencoder.{field}": value for field, value in {
        "train.steps": 4, "train.batch_size": 2, "train.log_every": 2, "checkpoint.every": 2, "optimizer.warmup": 2,
        "ema.decay": 0.5,
    }.items()},
    **{f"denoiser.{field}": value for field, value in drawings.TINY.items() if field != "data.source.number"},
    "denoiser.model.patch": 4,
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    denoiser, autoencoder = drawings.get_config(), shapes.autoencoder()
    autoencoder.train.update({"steps": 1_000, "batch_size": 2})  # 32 pictures
    denoiser.objective.density.update({"patterns": PATTERNS, "shares": (0.6, 0.15, 0.25)})
    denoiser.objective.density.density.update({"mean": 1.6, "std": 1.2, "strata": 32})
    denoiser.model.update({"patch": 4, "patch_frames": 2, "width": 160, "depth": 6, "heads": 5, "vector_width": 56})
    denoiser.optimizer.update({"learning_rate": 2e-3, "decay": "cooldown"})  # a longer run can continue this one
    denoiser.train.update({"steps": 5_000, "batch_size": 32})
    denoiser.checkpoint.every = 250
    denoiser.sample.update({"steps": 20, "shift": 3.0})
    source = {"name": "moving_pairs", "frames": FRAMES, "side": 48, "number": 16_000}
    denoiser.data.source = dict(source)
    config = ConfigDict(
        {
            "data": {
                "source": source,
                "name": denoiser.data.name,
                "dir": "",
                "split": "train",
            },  # the data of both trainings
            "measured": 500,  # training clips by which the latents are normalised to mean 0 and variance 1
            "autoencoder": autoencoder,
            "denoiser": denoiser,
        }
    )
    return recipes.preset(config, arg, {"tiny": TINY})
