"""The pipeline of Qwen-Image 2.1, and the condition of its prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.qwen_image_21.network import PATCH, QwenImage21
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER

SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
OF_SYSTEM = 14  # tokens of this message


def qwen_image_21(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Qwen-Image 2.1: the chat with the prompt, without the message of the system before it.

    Args:
        prompts: B texts; an empty text is read as a space.
        qwen: Qwen 3 VL's states after its last layer, `masked=True, norm=False`, with a tokenizer of 14 + 1024 tokens.
        **how: further arguments of `encode`.
    """
    texts = [prompt or " " for prompt in prompts]
    embeddings = encode(texts, qwen, before=SYSTEM + USER, behind=ANSWER, closed=True, **how)
    return text_first(embeddings, OF_SYSTEM)


QWEN_IMAGE_21 = kinds.Kind(
    "QwenImage21",
    kinds.Prompts(
        (
            kinds.Reader(
                how={"masked": True, "norm": False}, length=OF_SYSTEM + 1024, left=False, vocabulary="processor"
            ),
        ),
        qwen_image_21,
    ),
    kinds.Usual(40, 1.0),
    kinds.DenoiserNetwork(QwenImage21, multiple=lambda denoiser: PATCH, unit_clock=True),
    kinds.FlowSteps(even=True),
    pictures=kinds.Pictures(sample_size=64),
    files=kinds.Files(stated={"sample_sigmas": None}),
)
KINDS = {"QwenImage21Pipeline": QWEN_IMAGE_21}
