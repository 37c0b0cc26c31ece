"""The pipelines of Z-Image, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.z_image.network import PATCH, ZImage
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER


def z_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """The conditions of prompts for Z-Image: Qwen 3's states of each prompt as a message of the user.

    Args:
        prompts: B texts.
        qwen: Qwen's encoder with `masked=True, layers=(-2,)`, so that it returns the states behind the last layer but
            one, and a tokenizer of 512 tokens.
        **how: further arguments of `encode`.

    Returns:
        {"text": the states [B, M, E], "text_mask": Bool [B, M]}; the padding is behind the text.
    """
    return text_first(encode(prompts, qwen, before=USER, behind=ANSWER, **how))


# diffusers computes pos + w (pos - neg), which is without guidance at w = 0; our scales are w + 1.
Z_IMAGE = kinds.Kind(
    "ZImage",
    kinds.Prompts((kinds.Reader(how={"masked": True, "layers": (-2,)}, length=512),), z_image),
    kinds.Usual(50, 6.0),
    kinds.DenoiserNetwork(ZImage, multiple=lambda denoiser: PATCH, unit_clock=True),
    kinds.FlowSteps(even=True),
    kinds.Students(by_scheduler={("euler", 3.0): kinds.Usual(8, 1.0)}),  # Z-Image-Turbo
)
KINDS = {"ZImagePipeline": Z_IMAGE, "ZImageImg2ImgPipeline": Z_IMAGE, "ZImageInpaintPipeline": Z_IMAGE}
