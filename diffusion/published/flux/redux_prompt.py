"""FLUX.1 Redux at work: a picture as further tokens of the text.

attachment = redux_prompt.opened("FLUX.1-Redux-dev", flux)    # with its folders image_encoder and image_embedder
"""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models import interchange
from diffusion.models.attachment import Attachment
from diffusion.models.image_encoders import prompt_features
from diffusion.published.flux.network import Flux
from diffusion.published.flux.redux import Redux

EMBEDDER, ENCODER = "image_embedder", "image_encoder"


def opened(folder: str | pathlib.Path, denoiser: nn.Module, **how: Any) -> Attachment:
    """The attachment in a folder as diffusers' FluxPriorReduxPipeline writes it; its text encoders are not read.

    Args:
        folder: the folder, with image_encoder and image_embedder.
        denoiser: the denoiser that it attaches to.
        **how: arguments of `interchange.load`, such as shardings; all numbers are float32.

    Raises:
        FileNotFoundError: if one of these is missing.
        Mismatch: for an image encoder of other features, or another denoiser.
    """
    folder = pathlib.Path(folder).expanduser()
    how = {**how, "dtype": "float32"}
    module, params = interchange.load(folder / EMBEDDER, **how)
    encoder, encoder_params = interchange.load(folder / ENCODER, **how)
    try:
        return attachment(module, params, denoiser, encoder, encoder_params)
    except ValueError as error:
        raise interchange.Mismatch(f"{folder}: {error}.") from None


def attachment(module: nn.Module, params: Any, denoiser: nn.Module, encoder: nn.Module, of: Any) -> Attachment:
    """Redux as an attachment, which sampling adds to a denoiser.

    The weight multiplies the tokens of the picture; at weight 0 the denoiser sees the text alone. The unconditional
    branch sees no tokens of the picture.

    Args:
        module, params: Redux and its parameters.
        denoiser: a Flux or Chroma.
        encoder, of: SigLIP and its parameters, see `prompt_features`.

    Raises:
        ValueError: for another denoiser, or another encoder.
    """
    if not isinstance(denoiser, Flux):
        raise ValueError(f"Redux attaches to FLUX.1, but this denoiser is a {type(denoiser).__name__}")
    if not isinstance(module, Redux) or module.text_width != denoiser.text_width:
        raise ValueError(
            f"this denoiser needs tokens of a text with {denoiser.text_width} features, but {module} makes others"
        )
    width = prompt_features.width(encoder, whole=True)
    if width != module.features:
        raise ValueError(
            f"Redux reads tokens of {module.features} features, but the image encoder {type(encoder).__name__} has "
            f"{width}. Valid: the image encoder that Redux was trained with"
        )

    def encode(params: Any, images: jax.Array) -> tuple[Any, Any]:
        features = prompt_features.image_features(encoder, params["encoder"], images, whole=True)
        tokens = jnp.asarray(module.apply({"params": params["redux"]}, features))
        return tokens, jnp.zeros_like(tokens)

    def entries(params: Any, weight: jax.Array, seen: jax.Array, *rest: Any) -> dict[str, Any]:
        tokens = weight[:, None, None].astype(seen.dtype) * seen
        return {"extra_text": ((tokens, jnp.any(tokens != 0, axis=-1)),)}

    read = lambda picture, size: prompt_features.fitted(encoder, picture)  # a picture of any size
    return Attachment({"redux": params, "encoder": of}, entries, read, encode)
