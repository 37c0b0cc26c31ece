"""A tiny text-to-image folder and pictures, and the config of a run that tunes it."""

import numpy as np
from PIL import Image

from diffusion.recipe.defaults import defaults
from tests.text_to_image import made_pipelines


def config(place, tuning, pipeline="pixart", **changes):
    """The config of a run on five pictures of noise; the folders are made in `place`."""
    if not (place / pipeline).exists():
        made_pipelines.folder(pipeline, place / pipeline)
    if not (place / "pictures").exists():
        pictures(place / "pictures")
    made = defaults()
    made.base.path = str(place / pipeline)
    made.tuning = tuning
    made.data.source = {"name": "picture_folder", "path": str(place / "pictures")}
    made.data.text.prompt = "a photo of a cat"
    made.data.threads = 0
    made.objective = {
        "name": "denoising",
        "weighting": {"name": "constant"},
        "density": {"name": "uniform_density"},
        "wrappers": ({"name": "condition_dropout", "rate": 0.2},),
    }
    made.optimizer = {"name": "adamw", "learning_rate": 1e-2}
    made.ema.decay = 0.0
    made.train.update({"steps": 2, "batch_size": 2, "accumulate": 1, "log_every": 1})
    made.checkpoint.every = 1
    made.update_from_flattened_dict(changes)
    return made


def pictures(folder, number=5, side=16):
    """Pictures of noise, as PNG files."""
    folder.mkdir()
    for i in range(number):
        noise = np.random.default_rng(i).integers(0, 256, (side, side, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder
