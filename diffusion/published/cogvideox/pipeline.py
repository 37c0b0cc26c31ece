"""The pipelines of CogVideoX, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.cogvideox.network import CogVideoX
from diffusion.text.encoding import Encoder, encode

POWER = 5  # of the cosine's argument, in `dynamic_scales`


def cogvideox(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of CogVideoX, which also attends to the padding.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 226 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, t5, **how).tokens}


def dynamic_scales(scale: float, times: np.ndarray, steps: int) -> np.ndarray:
    """The scale of the guidance at each step, as by `use_dynamic_cfg` of the pipelines in diffusers.

        w_i = 1 + w (1 - cos(pi ((N - tau_i) / N)^5)) / 2

    tau_i counts the steps of the training process, 0 .. T - 1, and N those of the sampler. If T is much larger than N,
    the cosine has many periods between two steps, so the scale jumps within [1, 1 + w]. This is what diffusers 0.42
    computes; with the index i in place of tau_i, the cosine would be smooth.

    Args:
        scale: w, the scale of the request.
        times: tau_i, whole numbers, `[N]`.
        steps: N, the number of steps of the sampler.

    Returns:
        w_i, float64 `[N]`: float32 would not resolve the power.

    Reference: Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024, whose code has
    it as DynamicCFG.
    """
    share = (steps - np.asarray(times, np.float64)) / steps
    return 1 + scale * (1 - np.cos(np.pi * share**POWER)) / 2


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
