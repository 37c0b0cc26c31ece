"""IP-Adapter at work: an image prompt as an entry of a denoiser's condition, and as what sampling attaches.

    attachment = ip_adapter.opened("models/ip-adapter_sd15.safetensors", unet)    # with models/image_encoder beside it

extra = ip_adapter.prompt(adapter, params, features, weight, layers=unet.extra_layers(64, 64))
output = unet.apply(variables, x, t, {**condition, "extra": (extra,)})
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.adapters import ip_adapter_files
from diffusion.models import interchange
from diffusion.models.attachment import Attachment
from diffusion.models.image_encoders import prompt_features
from diffusion.models.image_projections import IPAdapter
from diffusion.models.joint_image_projections import JointIPAdapter
from diffusion.models.layers import bicubic
from diffusion.models.layers.extra_attention import ExtraLayer

IMAGE_ENCODER = "image_encoder"  # the folder beside an adapter's file, as h94's repository has it


def prompt(
    module: IPAdapter,
    params: Any,
    features: jax.Array,
    weight: jax.Array,
    mask: jax.Array | None = None,
    layers: Sequence[ExtraLayer] = (),
) -> tuple[tuple[jax.Array, ...], ...]:
    """An image prompt for the condition's "extra", see `models.layers.extra_attention`.

    Args:
        module, params: the adapter and its parameters.
        features: the features of the image encoder, [B, F] or [B, N, F].
        weight: the weight of the image prompt's part of attention, [B]; 0 adds exactly nothing.
        mask: the strength of the prompt over the picture, [B, H, W], for example in pixels; None for 1 everywhere.
        layers: the layers of the denoiser, needed with a mask: PyTorch's bicubic filter brings it to the grid of each,
            as in diffusers.

    Returns:
        The tuple (keys, values, weight) of each layer.
    """
    pairs: Any = module.apply({"params": params}, features)
    return _weighted(pairs, weight, mask, layers)


def _weighted(
    pairs: Any, weight: jax.Array, mask: jax.Array | None, layers: Sequence[ExtraLayer]
) -> tuple[tuple[jax.Array, ...], ...]:
    """An image prompt from the (keys, values, ...) of each layer; the other arguments are as in `prompt`.

    Returns:
        The tuple (keys, values, weight, ...) of each layer.
    """
    if mask is None:
        return tuple((keys, values, weight[:, None], *more) for keys, values, *more in pairs)
    on_grid = {}
    for layer in set(layers):
        rows, columns = (bicubic.plain(n, to) for n, to in zip(mask.shape[1:], (layer.rows, layer.columns)))
        small = jnp.einsum("ih,jw,bhw->bij", rows, columns, mask, precision=jax.lax.Precision.HIGHEST)
        on_grid[layer] = weight[:, None] * small.reshape(len(mask), -1)
    return tuple(
        (keys, values, on_grid[layer], *more) for (keys, values, *more), layer in zip(pairs, layers, strict=True)
    )


def opened(path: str | pathlib.Path, denoiser: nn.Module, **how: Any) -> Attachment:
    """The IP-Adapter in a file, with the image encoder in the folder image_encoder beside it.

    Args:
        path: the file, or the folder that holds both.
        denoiser: the denoiser that it attaches to.
        **how: arguments of `interchange.load` for the image encoder, such as shardings.

    Raises:
        FileNotFoundError: if there is no file, or no image encoder.
        Mismatch: for a file that is for another denoiser, or for another image encoder.
    """
    path = pathlib.Path(path).expanduser()
    module, params = ip_adapter_files.load(path, denoiser)
    folder = (path if path.is_dir() else path.parent) / IMAGE_ENCODER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: an IP-Adapter needs the image encoder that it was trained with, in a folder "
            "with config.json as transformers writes it."
        )
    encoder, encoder_params = interchange.load(folder, **{**how, "dtype": "float32"})
    try:
        return attachment(module, params, denoiser, encoder, encoder_params)
    except ValueError as error:
        raise interchange.Mismatch(f"{path}: {error}") from None


def attachment(
    module: IPAdapter | JointIPAdapter, params: Any, denoiser: nn.Module, encoder: nn.Module, encoder_params: Any
) -> Attachment:
    """An IP-Adapter as an attachment, which sampling adds to a denoiser.

    Args:
        module, params: the adapter and its parameters.
        denoiser: the denoiser, which has `extra_layers`.
        encoder, encoder_params: the image encoder and its parameters, see `prompt_features`.

    Raises:
        ValueError: for an encoder of another width than the adapter reads, or a denoiser with other layers.
    """
    reads_tokens = module.projection.reads_tokens
    width = prompt_features.width(encoder, reads_tokens)
    if width != module.projection.features:
        raise ValueError(
            f"the IP-Adapter reads {'tokens' if reads_tokens else 'a pooled vector'} of {module.projection.features} "
            f"features, but the image encoder {type(encoder).__name__} has {width}. Valid: the image encoder that the "
            "adapter was trained with"
        )
    if ip_adapter_files.widths(denoiser) != module.widths:
        raise ValueError(
            f"the IP-Adapter has keys of the widths {module.widths}, which are not the widths of this denoiser. "
            "Valid: the denoiser that the adapter was trained for"
        )

    def encode(params: Any, images: jax.Array) -> tuple[Any, Any]:
        pairs = lambda features: module.apply({"params": params["adapter"]}, features)
        shown = prompt_features.image_features(encoder, params["encoder"], images, reads_tokens)
        return pairs(shown), pairs(prompt_features.absent(encoder, params["encoder"], reads_tokens))

    def entries(params: Any, weight: jax.Array, seen: Any, x: jax.Array, *rest: Any) -> dict[str, Any]:
        return {"extra": (_everywhere_or_masked(seen, weight, denoiser, x),)}

    def encode_joint(params: Any, images: jax.Array) -> tuple[Any, Any]:
        features = prompt_features.inner(encoder, params["encoder"], images)
        return features, jnp.zeros_like(features)  # diffusers does so too

    def entries_joint(
        params: Any, weight: jax.Array, seen: Any, x: jax.Array, t: jax.Array, clock: jax.Array, *rest: Any
    ) -> dict[str, Any]:
        clock = jnp.broadcast_to(clock, (len(x),))
        layers = module.apply({"params": params["adapter"]}, seen, clock)
        return {"extra_joint": (_everywhere_or_masked(layers, weight, denoiser, x),)}

    joint = isinstance(module, JointIPAdapter)
    read = lambda picture, size: prompt_features.fitted(encoder, picture)  # a picture of any size
    how = (entries_joint, read, encode_joint) if joint else (entries, read, encode)
    return Attachment({"adapter": params, "encoder": encoder_params}, *how, masked=True)


def _everywhere_or_masked(layers: Any, weight: jax.Array, denoiser: Any, x: jax.Array) -> tuple:
    """An image prompt of a weight [B], or [B, H, W] of the pixels."""
    everywhere = weight.ndim == 1
    strength = weight if everywhere else jnp.ones(len(weight))
    return _weighted(layers, strength, None if everywhere else weight, denoiser.extra_layers(*x.shape[1:3]))
