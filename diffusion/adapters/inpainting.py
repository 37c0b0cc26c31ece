"""A tuning that makes an inpainting model of a text-to-image one, whose U-Net sees a mask and what is not masked."""

__all__ = ["inpainting"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters import module_folder
from diffusion.adapters.tuning import Params, Tuning
from diffusion.models.autoencoders import latent_space
from diffusion.models.conditional_unet import ConditionalUNet

PICTURE, MASK = "picture", "mask"  # entries of a record's condition


def inpainting(base: Any) -> Tuning:
    """The whole U-Net, with nine channels in place of four: x_t, the mask, and the latents of the masked picture.

    The kernel of its first convolution is zero for the new channels at the start, so that the first step's output is
    the base's. Of each record it reads "picture" [H, W, 3], in [-1, 1], and "mask" [H, W, 1], above 0 where the
    picture is painted anew (`sources.painted` draws them); the autoencoder encodes the masked picture in each step, by
    the mean of its distribution.

    Args:
        base: the model, `text_to_image.described`; its denoiser is a U-Net that sees its latents alone.

    Raises:
        ValueError: for another denoiser.

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 4.5.
    """
    unet = base.denoiser
    part = base.kind.denoiser
    vae = base.modules["vae"]
    if not isinstance(unet, ConditionalUNet) or unet.in_channels != base.channels:
        inpaints = f" of {unet.in_channels} channels" if isinstance(unet, ConditionalUNet) else ""
        raise ValueError(
            f"inpainting widens a U-Net that sees the {base.channels} channels of its latents, and the denoiser of the "
            f"base is a {type(unet).__name__}{inpaints}"
        )
    module = unet.clone(in_channels=2 * base.channels + 1)

    def init(key: Array, params: Params) -> Any:
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dict(params[part]))
        kernel = weights["conv_in"]["kernel"]
        wider = jnp.pad(kernel, ((0, 0), (0, 0), (0, base.channels + 1), (0, 0)))
        return {**weights, "conv_in": {**weights["conv_in"], "kernel": wider}}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = dict(condition)
        picture = condition.pop(PICTURE)
        mask = condition.pop(MASK) > 0
        batch, height, width, _ = x.shape
        painted = mask.reshape(batch, height, vae.factor, width, vae.factor).any((2, 4))[..., None]
        frozen = jax.lax.stop_gradient(params["vae"])
        z = vae.apply({"params": frozen}, jnp.where(mask, 0, picture), method="encode")
        z = z.mean if isinstance(z, latent_space.Moments) else z
        z = latent_space.to_diffusion(z, vae.scale, vae.shift)
        seen = jnp.concatenate([x, painted.astype(x.dtype), z.astype(x.dtype)], axis=-1)
        output: Any = module.apply({"params": weights}, seen, clock, condition)
        return output

    def attach(model: Any, weights: Any) -> Any:
        dtype = model.dtype_of(part)
        modules = {**model.modules, part: module.clone(dtype=model.denoiser.dtype)}
        params = {**model.params, part: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), weights)}
        return dataclasses.replace(model, modules=modules, params=params, _programs={})

    write = module_folder.writer(module, part)
    return Tuning(base, init, apply, write, attach, ("vae",), copies=(part,), reads=(PICTURE, MASK))
