"""The pipelines of FLUX.2, and the conditions that their denoisers receive for prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.flux2.network import Flux2
from diffusion.text.encoding import Encoder, encode
from diffusion.text.qwen_chat import ANSWER, NO_THOUGHT, USER

JUDGE = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses focusing on "
    "object relationships, object\nattribution and actions without speculation.[/SYSTEM_PROMPT][INST]"
)


def flux2(prompts: Sequence[str], mistral: Encoder, **how: Any) -> dict[str, Any]:
    """The condition {"text": [B, 512, D]} of FLUX.2 dev: Mistral 3's states of the system prompt, prompt and padding.

    Args:
        prompts: B texts; "[IMG]", the placeholder of a picture, is removed from them.
        mistral: the encoder, which returns the states of Mistral's layers 10, 20 and 30 (`masked=True,
            layers=(10, 20, 30)`), with a tokenizer of 512 tokens that pads on the left.
        **how: further arguments of `encode`.
    """
    texts = [prompt.replace("[IMG]", "") for prompt in prompts]
    return {"text": encode(texts, mistral, before=JUDGE, behind="[/INST]", **how).tokens}


def flux2_klein(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """The condition {"text": [B, 512, D]} of FLUX.2 klein: Qwen 3's states of the prompt and of the padding.

    The prompt is a user's message, to which the model answers without thinking.

    Args:
        prompts: B texts.
        qwen: the encoder, which returns the states of Qwen's layers 9, 18 and 27 (`masked=True, layers=(9, 18, 27)`),
            with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, qwen, before=USER, behind=ANSWER + NO_THOUGHT, **how).tokens}


FLUX2_KLEIN = kinds.Kind(
    "Flux2Klein",
    kinds.Prompts((kinds.Reader(how={"masked": True, "layers": (9, 18, 27)}, length=512),), flux2_klein),
    kinds.Usual(50, 4.0),
    kinds.DenoiserNetwork(Flux2, multiple=lambda module: 1, unit_clock=True),
    kinds.FlowSteps(even=True, by_steps=True),
    kinds.Students(stated=kinds.Usual(4, 1.0)),
    pictures=kinds.Pictures(several=kinds.EditedPictures(1024**2)),
)
FLUX2 = FLUX2_KLEIN._replace(
    family="Flux2",
    prompts=kinds.Prompts((kinds.Reader(how={"masked": True, "layers": (10, 20, 30)}, length=512),), flux2),
    denoiser=FLUX2_KLEIN.denoiser._replace(strength=True),
    students=kinds.Students(),
)
KINDS = {
    "Flux2Pipeline": FLUX2,
    "Flux2KleinPipeline": FLUX2_KLEIN,
    "Flux2KleinInpaintPipeline": FLUX2_KLEIN._replace(
        usual=kinds.Usual(50, 8.0), pictures=kinds.Pictures(several=kinds.EditedPictures(1024**2, repainted=True))
    ),
}
