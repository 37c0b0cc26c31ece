"""The pipelines of FLUX.1, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.flux import control_lora, redux_prompt
from diffusion.published.flux.network import PATCH
from diffusion.text.encoding import Encoder, encode, pooled


def flux(prompts: Sequence[str], clip: Encoder, t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """The conditions of prompts for FLUX.1.

    Args:
        prompts: B texts.
        clip: the text tower of CLIP ViT-L, whose pooled state covers only the first window of a long prompt.
        t5: T5's encoder, with a tokenizer of 512 (dev) or 256 (schnell) tokens.
        **how: further arguments of `encode`.

    Returns:
        {"text": T5's states [B, M, E], "pooled": the pooled state of CLIP [B, P]}.
    """
    return {"text": encode(prompts, t5, **how).tokens, "pooled": pooled(encode(prompts, clip, **how))}


# FLUX.1-dev reads the guidance's strength. FLUX.1-schnell does not; its model card states 4 steps without guidance.
FLUX = kinds.Kind(
    "Flux",
    kinds.Prompts((kinds.Reader(), kinds.Reader("_2", length=512)), flux),
    kinds.Usual(28, 3.5),
    kinds.DenoiserNetwork(
        multiple=lambda denoiser: PATCH,
        objection=lambda denoiser: "no approximator, as Chroma's" if getattr(denoiser, "approximator", ()) else "",
        unit_clock=True,
    ),
    kinds.FlowSteps(even=True),
    kinds.Students(undistilled=kinds.Usual(4, 1.0)),
    relatives=kinds.Relatives(
        control_loras=kinds.ControlLoras("FluxControlPipeline", control_lora.is_control, control_lora.widened)
    ),
)
FLUX_CONTROLLED = FLUX._replace(
    usual=kinds.Usual(28, 7.0), files=kinds.Files(attaches="controlnet"), relatives=kinds.Relatives()
)
FLUX_FILL = FLUX._replace(
    usual=kinds.Usual(50, 30.0),
    students=kinds.Students(),
    pictures=kinds.Pictures(fills=True),
    relatives=kinds.Relatives(),
)
FLUX_CONTROL = FLUX_FILL._replace(
    usual=FLUX.usual, denoiser=FLUX.denoiser._replace(strength=True), pictures=kinds.Pictures(controlled=True)
)
KONTEXT = FLUX_CONTROL._replace(pictures=kinds.Pictures(appends=True))
KINDS = {
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxInpaintPipeline": FLUX,
    "FluxFillPipeline": FLUX_FILL,
    "FluxControlPipeline": FLUX_CONTROL,
    "FluxKontextPipeline": KONTEXT,
    "FluxKontextInpaintPipeline": KONTEXT,
    "FluxControlNetPipeline": FLUX_CONTROLLED,
    "FluxControlNetImg2ImgPipeline": FLUX_CONTROLLED,
    "FluxControlNetInpaintPipeline": FLUX_CONTROLLED,
}
ATTACHED = {
    "FluxPriorReduxPipeline": kinds.Attachable("FLUX.1 Redux, which is attached to a FLUX.1", redux_prompt.opened)
}
