"""Converts between clips of pixels and the input of a run's network: latents, or the pixels themselves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffusion.experiments.sampling import autoencoder_folders
from diffusion.models.autoencoders import latent_space
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe


class Coding(NamedTuple):
    """The autoencoder of a run on latents; for other runs, functions that change nothing.

    Attributes:
        params: the parameters of the autoencoder.
        encode: (params, clips `[B, F, H, W, C]` in [-1, 1]) -> x `[B, f, ...]`.
        decode: (params, x) -> clips.
        step: the factor f_t between frames of clips and of x: a clip of 1 + f_t n frames has 1 + n frames of x.
    """

    params: Any
    encode: Callable[[Any, jax.Array], jax.Array]
    decode: Callable[[Any, jax.Array], jax.Array]
    step: int = 1


def build_coding(recipe: Recipe) -> Coding:
    """The coding of a run.

    Raises:
        ConfigError: for an autoencoder that was trained with the model, or one that does not exist.
    """
    if recipe.companions.autoencoder is not None:
        raise ConfigError(
            "the autoencoder of this run was trained together with it, which is not supported here. Valid: a run on "
            "pictures, or on a cache of latents."
        )
    autoencoder = autoencoder_folders.load_for_run(recipe.config)
    if autoencoder is None:
        same = lambda params, x: x
        return Coding((), same, same)
    module: Any = autoencoder.module

    def encode(params: Any, x: jax.Array) -> jax.Array:
        moments = module.apply({"params": params}, x, method="encode")
        return latent_space.to_diffusion(moments.mean, module.scale, module.shift)

    decode = autoencoder_folders.decoder(module)
    return Coding(autoencoder.params, encode, decode, getattr(module, "time_factor", 1))
