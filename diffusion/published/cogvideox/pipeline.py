"""The pipelines of CogVideoX, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.cogvideox.dynamic_guidance import dynamic_scales
from diffusion.published.cogvideox.network import CogVideoX
from diffusion.text.encoding import Encoder, encode


def cogvideox(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of CogVideoX, which also attends to the padding.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 226 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, t5, **how).tokens}


def _paired(kind: kinds.Kind, denoiser: CogVideoX) -> kinds.Kind:
    """The kind of CogVideoX 1.5, whose patches have two frames: clips have the size that its card states."""
    assert kind.video is not None
    return kind._replace(video=PAIRED_CLIPS._replace(first=kind.video.first)) if denoiser.frames == 2 else kind


COGVIDEOX_CLIPS = kinds.Video(49, (480, 720), 8.0, first=kinds.FirstImage(masked=False))
PAIRED_CLIPS = kinds.Video(81, (768, 1360), 16.0)
COGVIDEOX = kinds.Kind(
    "CogVideoX",
    kinds.Prompts((kinds.Reader(length=226),), cogvideox),
    kinds.Usual(50, 6.0),
    kinds.DenoiserNetwork(CogVideoX, variant=_paired),
    guidance=kinds.Guidance(dynamic_scales=dynamic_scales),
    video=COGVIDEOX_CLIPS,
)
COGVIDEOX_FROM_IMAGE = COGVIDEOX._replace(
    video=COGVIDEOX_CLIPS._replace(first=kinds.FirstImage(begins=True, masked=False))
)
KINDS = {"CogVideoXPipeline": COGVIDEOX, "CogVideoXImageToVideoPipeline": COGVIDEOX_FROM_IMAGE}
