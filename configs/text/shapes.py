"""Text to image on the bundled pictures of coloured shapes: the run of `make demo-text`.

    python -m examples.text.demo --config=text/shapes --workdir=runs/text
    diffusion sample --model=runs/text/model --prompt="a red circle above a blue square" -n 4

Three networks are trained, each as a run in the folder: a text encoder that learns which caption belongs to which
picture (CLIP's contrastive loss), an autoencoder from 64x64 pixels to 16x16 latents of 4 channels, and a transformer on
these latents that reads the captions by cross-attention (as in PixArt), trained by flow matching.

Time and score: docs/text_demo.md.

Presets: `shapes:tiny` (minutes; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipes import preset

TINY = {
    "vocabulary.size": 600,
    "vocabulary.length": 48,
    "encoder.model.text.positions": 48,
    "measured": 64,
    "encoder.model.features": 16,
    "encoder.model.text.width": 16,
    "encoder.model.text.depth": 1,
    "encoder.model.text.heads": 2,
    "encoder.model.text.hidden": 32,
    "encoder.model.text.vocabulary": 600,
    "encoder.model.vision.width": 16,
    "encoder.model.vision.depth": 1,
    "encoder.model.vision.heads": 2,
    "encoder.model.vision.hidden": 32,
    "encoder.model.vision.patch": 16,
    "autoencoder.model.widths": (4, 4, 8),
    "denoiser.model.width": 16,
    "denoiser.model.depth": 2,
    "denoiser.model.heads": 2,
    "denoiser.model.text_width": 16,
    **{
        f"{stage}.{field}": value
        for stage in ("encoder", "autoencoder", "denoiser")
        for field, value in {
            "train.steps": 4,
            "train.batch_size": 8,
            "train.log_every": 2,
            "checkpoint.every": 2,
            "optimizer.warmup": 2,
            "ema.decay": 0.5,
        }.items()
    },
    "denoiser.objective.density.strata": 8,
}
PRESETS = {"tiny": TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = ConfigDict(
        {
            "data": {
                "source": {"name": "tfds"},
                "name": "shapes",
                "dir": "",
                "split": "train",
            },  # settings of all three trainings
            "denoiser_data": {},  # fields of `data` that differ for the denoiser, for instance more pictures
            "vocabulary": {"size": 1024, "length": 20},  # ids at most; ids of a text
            "measured": 2000,  # training pictures by which the latents are normalised to mean 0 and variance 1
            "encoder": encoder(),
            "autoencoder": autoencoder(),
            "denoiser": denoiser(),
        }
    )
    return preset(config, arg, PRESETS)


def encoder() -> ConfigDict:
    """CLIP: two towers."""
    config = defaults()
    config.objective = {"name": "contrastive_pretraining"}
    config.model = {
        "name": "clip",
        "features": 128,
        "text": {
            "vocabulary": 1024,
            "positions": 20,
            "width": 128,
            "depth": 3,
            "heads": 4,
            "hidden": 512,
            "token_std": 1.0,  # with 0.02 the words for places, which the loss learns last, stay alike
        },
        "vision": {"patch": 8, "width": 128, "depth": 3, "heads": 4, "hidden": 512},
    }
    config.optimizer = annealed(1e-3, weight_decay=0.05)
    return _lengths(config, steps=300, batch_size=128)


def autoencoder() -> ConfigDict:
    """Latent diffusion's KL autoencoder, small, trained only on the error of its pixels."""
    config = defaults()
    config.objective = {"name": "kl_autoencoder", "pixels": "l2", "kl": 1e-6}  # with "l1" dark pictures lose their hues
    config.model = {
        "name": "autoencoder_kl",
        "widths": (16, 32, 64),
        "layers": 1,
        "latent_channels": 4,
        "groups": 1,
        "middle_attention": False,
    }
    config.optimizer = annealed(2e-3, clip=1e4)
    return _lengths(config, steps=1_700, batch_size=16)


def denoiser() -> ConfigDict:
    """PixArt's transformer, small, as a flow."""
    config = defaults()
    velocity = {"name": "velocity", "clock": {"name": "time", "scale": 1000.0}}
    config.parameterization = velocity | {"name": "x0"}
    config.objective = {  # the error of the velocity, by a network that need not carry the noise from end to end
        "name": "denoising",
        "weighting": {"name": "constant", "parameterization": velocity},
        "density": {"name": "logit_normal", "mean": 1.5, "std": 1.0, "strata": 64},  # layouts form near t = 1
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {"name": "pixart", "patch": 4, "width": 192, "depth": 6, "heads": 6, "text_width": 128, "span": 8.0}
    config.optimizer = annealed(3e-3, "muon", weight_decay=0.01)
    config.sample.update({"sampler": {"name": "dpmpp_2m"}, "steps": 20, "shift": 3.0, "batch_size": 50})
    config.sample.guidance.scale = 2.0  # the model's own, and what few-step students have built in
    return _lengths(config, steps=5_000, batch_size=64)


def _lengths(config: ConfigDict, steps: int, batch_size: int) -> ConfigDict:
    config.train.steps, config.train.batch_size, config.train.log_every = steps, batch_size, 50
    config.checkpoint.every = 200
    config.ema.update({"decay": 0.999, "warmup": True})
    return config
