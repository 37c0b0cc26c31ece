"""The pipelines of Kolors, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.stable_diffusion import pipeline as stable_diffusion
from diffusion.text.encoding import Encoder, encode, pooled


def kolors(prompts: Sequence[str], chat_glm: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of Kolors, whose network also attends to the padding.

    Args:
        prompts: B texts.
        chat_glm: ChatGLM, `masked=True, skip=1, norm=False`, with a tokenizer of 256 tokens that pads on the left.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, chat_glm, **how)
    return {"text": embeddings.tokens, "pooled": pooled(embeddings)}


KOLORS = stable_diffusion.SD._replace(
    family="Kolors",
    prompts=kinds.Prompts((kinds.Reader(how={"masked": True, **stable_diffusion.HIDDEN}, length=256),), kolors),
    usual=kinds.Usual(50, 5.0),
    relatives=kinds.Relatives(),
)
KINDS = {
    "KolorsPipeline": KOLORS,
    "KolorsImg2ImgPipeline": KOLORS,
    "KolorsPAGPipeline": KOLORS._replace(guidance=stable_diffusion.PAG),
}
