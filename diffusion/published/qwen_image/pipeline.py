"""The pipelines of Qwen-Image, and the conditions of their prompts."""

import functools
from collections.abc import Sequence
from typing import Any

from diffusion import guidance
from diffusion.published import pipeline_kinds as kinds
from diffusion.published.qwen_image.network import PATCH, QwenImage
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER

TASK = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n"
)
OF_TASK = 34  # tokens of the task and of what stands before the user's words


def qwen_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Qwen-Image: the prompt as Qwen 2.5 VL reads it after a task, whose tokens are left out.

    Args:
        prompts: B texts.
        qwen: Qwen's normalised states of its last layer, `masked=True`, with a tokenizer of 34 + 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, qwen, before=TASK + USER, behind=ANSWER, **how)
    return text_first(embeddings, OF_TASK)


QWEN_IMAGE = kinds.Kind(
    "QwenImage",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=34 + 512),), qwen_image),
    kinds.Usual(50, 4.0),
    kinds.DenoiserNetwork(
        QwenImage,
        multiple=lambda denoiser: PATCH,
        objection=lambda denoiser: "no layers (use_layer3d_rope)" if getattr(denoiser, "layered", False) else "",
        unit_clock=True,
    ),
    kinds.FlowSteps(even=True),
    guidance=kinds.Guidance(functools.partial(guidance.renormalised, patch=2)),
)
LAYERED = QWEN_IMAGE._replace(
    denoiser=QWEN_IMAGE.denoiser._replace(
        objection=lambda denoiser: "" if getattr(denoiser, "layered", True) else "layers (use_layer3d_rope)"
    ),
    flow=kinds.FlowSteps(even=True, by_root=True),
    guidance=kinds.Guidance(),
    pictures=kinds.Pictures(layers=4, several=kinds.EditedPictures(640**2, 32, 1, True)),
)
KINDS = {
    "QwenImagePipeline": QWEN_IMAGE,
    "QwenImageLayeredPipeline": LAYERED,
    "QwenImageImg2ImgPipeline": QWEN_IMAGE,
    "QwenImageInpaintPipeline": QWEN_IMAGE,
}
