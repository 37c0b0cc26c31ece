"""A causal autoencoder of moving drawings: 9 frames of 32 x 32 pixels to 5 frames of 8 x 8 latents with 8 channels.

    diffusion train --config=video/autoencoder --workdir=runs/video_autoencoder
    diffusion convert --source=runs/video_autoencoder --out=video_vae
    diffusion encode --autoencoder=video_vae --out=latents/drawings \\
        --data='{"name": "moving_drawings", "frames": 9, "side": 32}@train'

Its loss is the error of the pixels, without a critic. It has not been trained to its end, so no score is known.

Presets: `autoencoder:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipes import preset

TINY = {
    "data.source": {"name": "moving_drawings", "frames": 9, "side": 16, "number": 16},
    "model.widths": (4, 4),
    "train.steps": 4,
    "train.batch_size": 4,
    "train.log_every": 2,
    "checkpoint.every": 2,
    "optimizer.warmup": 2,
    "ema.decay": 0.5,
}
PRESETS = {"tiny": TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = defaults()
    config.data.source = {"name": "moving_drawings", "frames": 9, "side": 32}
    config.objective = {"name": "kl_autoencoder", "pixels": "l2", "kl": 1e-6}  # with "l1" dark pictures lose their hues
    config.model = {
        "name": "autoencoder_kl_video",
        "patch": 2,  # half of the time of a level of single pixels
        "widths": (16, 32),
        "layers": 1,
        "temporal": (True,),
        "latent_channels": 8,
    }
    config.optimizer = annealed(2e-3, clip=1e4)
    config.train.steps, config.train.batch_size, config.train.log_every = 2_000, 8, 50
    config.checkpoint.every = 250
    config.ema.update({"decay": 0.999, "warmup": True})
    config.evaluate.every = 0
    return preset(config, arg, PRESETS)
