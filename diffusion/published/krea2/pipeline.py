"""The pipeline of Krea 2, whose prompts are Qwen-Image's, as twelve layers of Qwen 3 VL read them."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.krea2.network import PATCH, Krea2
from diffusion.published.qwen_image.pipeline import OF_TASK, qwen_image
from diffusion.text.encoding import Encoder

STATES = tuple(range(2, 36, 3))


def krea2(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Krea 2: the prompt as in `qwen_image`, each token's states one after the other.

    A long prompt is cut before the end of the chat.

    Args:
        prompts: B texts.
        qwen: Qwen 3 VL's states after twelve of its layers, `masked=True, layers=STATES`, with a tokenizer of 34 + 512
            tokens.
        **how: further arguments of `encode`.
    """
    return qwen_image(prompts, qwen, closed=True, **how)


KREA2 = kinds.Kind(
    "Krea2",
    kinds.Prompts((kinds.Reader(how={"masked": True, "layers": STATES}, length=OF_TASK + 512, left=False),), krea2),
    kinds.Usual(28, 5.5),  # 1 + the guidance_scale of its `__call__`
    kinds.DenoiserNetwork(Krea2, multiple=lambda denoiser: PATCH, unit_clock=True),
    kinds.FlowSteps(even=True),
    kinds.Students(stated=kinds.Usual(8, 1.0), schedule={"base_shift": 1.15, "max_shift": 1.15}),
    files=kinds.Files(stated={"patch_size": PATCH, "text_encoder_select_layers": list(STATES)}),
)
KINDS = {"Krea2Pipeline": KREA2}
