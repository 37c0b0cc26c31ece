"""The pipelines of Stable Diffusion 3 and 3.5, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.pixart.pipeline import perturbed_layers
from diffusion.text.encoding import Embeddings, Encoder, encode, one_after_other, pooled, side_by_side


def stable_diffusion_3(
    prompts: Sequence[str],
    clip: Encoder,
    clip_g: Encoder,
    t5: Encoder | None = None,
    *,
    width: int = 4096,
    length: int = 256,
    **how: Any,
) -> dict[str, jax.Array]:
    """{"text", "pooled"} of SD 3.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower with its projection, `skip=1, norm=False`.
        clip_g: ViT-bigG's text tower with its projection, `skip=1, norm=False`.
        t5: T5's encoder with a tokenizer of `length`; None: the model receives zeros in its place, as in training.
        width, length: width and number of the zero tokens if there is no T5.
        **how: further arguments of `encode`.
    """
    first = encode(prompts, clip, **how)
    second = encode(prompts, clip_g, **how)
    if t5 is None:
        zeros = jnp.zeros((len(prompts), length, width))
        third = Embeddings(zeros, jnp.ones(zeros.shape[:2], bool), None)
    else:
        third = encode(prompts, t5, **how)
    tokens = one_after_other(side_by_side(first, second), third).tokens
    return {"text": tokens, "pooled": jnp.concatenate([pooled(first), pooled(second)], axis=-1)}


HIDDEN = {"skip": 1, "norm": False}  # CLIP's states as SDXL and SD 3 read them
SD_3 = kinds.Kind(
    "StableDiffusion3",
    kinds.Prompts(
        (kinds.Reader(how=HIDDEN), kinds.Reader("_2", HIDDEN), kinds.Reader("_3", length=256, optional=True)),
        stable_diffusion_3,
    ),
    kinds.Usual(28, 7.0),
    guidance=kinds.Guidance(perturbs=perturbed_layers),
)
SD_3_CONTROLLED = SD_3._replace(files=kinds.Files(attaches="controlnet"))
SD_3_PERTURBED = SD_3._replace(guidance=kinds.Guidance(perturbs=perturbed_layers, perturbed_scale=3.0))
KINDS = {
    "StableDiffusion3Pipeline": SD_3,
    "StableDiffusion3Img2ImgPipeline": SD_3,
    "StableDiffusion3InpaintPipeline": SD_3,
    "StableDiffusion3ControlNetPipeline": SD_3_CONTROLLED,
    "StableDiffusion3ControlNetInpaintingPipeline": SD_3_CONTROLLED,
    "StableDiffusion3PAGPipeline": SD_3_PERTURBED,
    "StableDiffusion3PAGImg2ImgPipeline": SD_3_PERTURBED,
}
