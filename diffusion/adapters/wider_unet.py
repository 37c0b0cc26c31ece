"""Tunings of a whole U-Net with further input channels beside x_t, for which its first kernel is zero at the start."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters.tuning import Params, Tuning
from diffusion.published.stable_diffusion.network import ConditionalUNet

Seen = Callable[[Params, dict[str, Array], Array], Array]
"""(the base's parameters, condition, x_t) -> the channels beside x_t; it takes what it reads out of the condition."""


def widened(base: Any, pipeline: str, channels: int, seen: Seen, **how: Any) -> Tuning:
    """Trains the whole U-Net, with further input channels beside x_t.

    The kernel of its first convolution is zero for the new channels at the start, so that the first step's output is
    the base's. The run writes the folder of a model of another pipeline.

    Args:
        base: the model, `text_to_image.described`; its denoiser is a U-Net that receives only x_t.
        pipeline: the class in the folder's model_index.json.
        channels: number of new channels.
        seen: (params, condition, x_t) -> the new channels.
        **how: fields of the `Tuning`, such as networks and reads.

    Raises:
        ValueError: for another denoiser.
    """
    unet = base.denoiser
    part = base.kind.denoiser.folder
    if not isinstance(unet, ConditionalUNet) or unet.in_channels != base.channels:
        sees = f" of {unet.in_channels} channels" if isinstance(unet, ConditionalUNet) else ""
        raise ValueError(
            f"this tuning adds input channels to a U-Net that sees only the {base.channels} channels of its latents; "
            f"the denoiser of the base is a {type(unet).__name__}{sees}"
        )
    module = unet.clone(in_channels=base.channels + channels)

    def init(key: Array, params: Params) -> Any:
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dict(params[part]))
        kernel = weights["conv_in"]["kernel"]
        wider = jnp.pad(kernel, ((0, 0), (0, 0), (0, channels), (0, 0)))
        return {**weights, "conv_in": {**weights["conv_in"], "kernel": wider}}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = dict(condition)
        beside = seen(jax.lax.stop_gradient(params), condition, x)
        wide = jnp.concatenate([x, beside.astype(x.dtype)], axis=-1)
        output: Any = module.apply({"params": weights}, wide, clock, condition)
        return output

    def attach(model: Any, weights: Any) -> Any:
        dtype = model.dtype_of(part)
        modules = {**model.modules, part: module.clone(dtype=model.denoiser.dtype)}
        params = {**model.params, part: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), weights)}
        return model.as_pipeline(pipeline).replaced(modules=modules, params=params)

    nothing = lambda folder, weights, metadata: []
    return Tuning(base, init, apply, nothing, attach, copies=(part,), replaces=(part,), **how)
