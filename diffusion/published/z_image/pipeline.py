"""The pipelines of Z-Image, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.z_image.network import PATCH, ZImage
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER


def z_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Z-Image: Qwen 3's states of the prompt as a user's message; padding is last.

    Args:
        prompts: B texts.
        qwen: Qwen's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    return text_first(encode(prompts, qwen, before=USER, behind=ANSWER, **how))


# diffusers writes pos + w (pos - neg), without guidance at w = 0: our scales are one more.
Z_IMAGE = kinds.Kind(
    "ZImage",
    kinds.Prompts((kinds.Reader(how={"masked": True, "layers": (-2,)}, length=512),), z_image),
    kinds.Usual(50, 6.0),
    kinds.DenoiserNetwork(ZImage, multiple=lambda denoiser: PATCH, unit_clock=True),
    kinds.FlowSteps(even=True),
    kinds.Students(by_scheduler={("euler", 3.0): kinds.Usual(8, 1.0)}),  # Z-Image-Turbo
)
KINDS = {"ZImagePipeline": Z_IMAGE, "ZImageImg2ImgPipeline": Z_IMAGE, "ZImageInpaintPipeline": Z_IMAGE}
