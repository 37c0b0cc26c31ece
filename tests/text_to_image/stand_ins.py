"""A text-to-image model whose networks a test can read: an autoencoder of single pixels, a denoiser of one product."""

import jax
import jax.numpy as jnp

from diffusion import text_to_image
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.models.interchange import schedulers
from diffusion.published.pipeline_kinds import DenoiserNetwork, Kind, Prompts, Usual

CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "sample",
}
WIDTH = 5  # of the condition


class Pixels:
    """An autoencoder of single pixels, of three channels."""

    factor, latent_channels, scale, shift = 1, 3, 1.0, 0.0

    def apply(self, variables, x, method):
        return x if method == "decode" else Moments(x, jnp.full_like(x, -20.0))


class Product:
    """A denoiser that keeps the shapes with which it is traced: a part of x, and of its condition."""

    widths, in_channels = (1,), 3

    def __init__(self):
        self.traced = []

    def apply(self, variables, x, clock, condition):
        self.traced.append(x.shape)
        return 0.2 * x + 0.1 * (condition["tokens"] @ variables["params"]["kernel"])[:, None, None, :]


def made_model():
    """A model of 8 x 8 pixels; `_programs["encoded"]` are the texts that its encoder has read, call by call."""
    encoded = []

    def condition(texts, **how):
        encoded.append(list(texts))
        return {"tokens": jnp.stack([jnp.linspace(0, len(text), WIDTH) for text in texts])}

    kind = Kind("Made", Prompts((), condition), Usual(), DenoiserNetwork(None, "unet", lambda denoiser: 1))
    kernel = jax.random.normal(jax.random.key(0), (WIDTH, 3)) / 10
    params = {"unet": {"kernel": kernel}, "vae": {}}
    modules = {"unet": Product(), "vae": Pixels()}
    made = text_to_image.TextToImage("made", kind, modules, params, {}, schedulers.read(CONFIG), 8, False)
    made._programs["encoded"] = encoded
    return made
