"""The pipelines of LTX-2, whose clips have a sound, and the condition of their prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.models.layers import layer_masks
from diffusion.published import pipeline_kinds as kinds
from diffusion.published.ltx2.guidance import SCALES, guided
from diffusion.published.ltx2.network import LTX2, SOUND_CELL, SPECTRA
from diffusion.text.encoding import Encoder, encode

PERTURBED = 28
"""The index of the layer that the published guidance perturbs; in a denoiser with fewer layers it is the last one."""


def ltx2(prompts: Sequence[str], gemma: Encoder, connect: Callable[..., tuple], **how: Any) -> dict[str, Any]:
    """The condition {"text", "sound_text"} of LTX-2, all of whose tokens are valid.

    Args:
        prompts: B texts.
        gemma: the encoder Gemma 3, with padding before the prompt and the states of all layers side by side.
        connect: a function (states [B, M, E], mask [B, M]) -> the texts of the clip and of the sound, which applies the
            connectors.
        **how: further arguments of `encode`.
    """
    embeddings = encode([prompt.strip() for prompt in prompts], gemma, **how)
    text, sound_text = connect(embeddings.tokens, jnp.asarray(embeddings.mask))
    return {"text": text, "sound_text": sound_text}


def sound_shape(modules: Mapping[str, Any], frames: int, rate: float) -> tuple[int, int]:
    """The shape (L, C) of the latents of a clip's sound; L counts one for each 40 ms, and is at least 1.

    Args:
        modules: the modules of a model, by the names of their folders.
        frames: number of frames of the clip.
        rate: frames per second.
    """
    return max(round(frames / rate * SPECTRA / SOUND_CELL), 1), modules["transformer"].sound_channels


def waveforms(modules: Mapping[str, Any], params: Mapping[str, Any], z: Array) -> Array:
    """The waveforms [B, L', 2] in [-1, 1] of the denoiser's latents [B, L, C]."""
    apply = lambda part, x, **how: modules[part].apply({"params": params[part]}, x, **how)
    return apply("vocoder", apply("audio_vae", modules["audio_vae"].latents(z), method="decode"))


def sound_rate(modules: Mapping[str, Any]) -> int:
    """The samples per second of a waveform."""
    return modules["vocoder"].sample_rate


def _variant(kind: kinds.Kind, denoiser: LTX2) -> kinds.Kind:
    """The kind for a denoiser: without perturbed layers, if the denoiser's config does not have `perturbed_attn`."""
    return kind if denoiser.perturbed else kind._replace(guidance=kinds.Guidance())


LTX_2 = kinds.Kind(
    "LTX2",
    kinds.Prompts((kinds.Reader(how={"masked": True, "layers": None}, length=1024, left=True),), ltx2, ("connectors",)),
    kinds.Usual(30, SCALES["video"].text),
    kinds.DenoiserNetwork(LTX2, multiple=lambda module: 1, variant=_variant),
    kinds.FlowSteps(even=True),
    guidance=kinds.Guidance(
        perturbs=lambda denoiser: layer_masks.mask(1, denoiser.depth, (min(PERTURBED, denoiser.depth - 1),)),
        perturbed_scale=SCALES["video"].perturbed,
    ),
    video=kinds.Video(121, (512, 768), 24.0, first=kinds.FirstImage(clean=True), rated=True),
    sound=kinds.Sound(
        ("audio_vae", "vocoder"),
        sound_shape,
        waveforms,
        sound_rate,
        guided,
        guidance=SCALES["sound"].text,
        modality_guidance=SCALES["video"].apart,
    ),
)
KINDS = {"LTX2Pipeline": LTX_2, "LTX2ImageToVideoPipeline": LTX_2}
