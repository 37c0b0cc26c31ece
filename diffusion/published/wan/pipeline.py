"""The pipelines of Wan 2.1 and 2.2, and the conditions of their prompts."""

import html
from collections.abc import Sequence
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.wan.network import PATCH, Wan
from diffusion.text.encoding import Encoder, encode, zeroed_padding


def wan(prompts: Sequence[str], umt5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of Wan, whose network attends to zeros after the text.

    Entities of HTML, such as &amp;, become their characters, and runs of white space become one space.

    Args:
        prompts: B texts.
        umt5: umT5's encoder, `masked=True`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    texts = [html.unescape(html.unescape(prompt)) for prompt in prompts]  # twice, as in its authors' code
    return {"text": zeroed_padding(encode([" ".join(text.split()) for text in texts], umt5, **how))}


WAN_CLIPS = kinds.Video(81, (480, 832), 16.0, second="transformer_2")
WAN = kinds.Kind(
    "Wan",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=512),), wan),
    kinds.Usual(50, 5.0),
    kinds.DenoiserNetwork(Wan, multiple=lambda denoiser: PATCH),
    video=WAN_CLIPS,
)
WAN_FROM_IMAGE = WAN._replace(video=WAN_CLIPS._replace(first=kinds.FirstImage(begins=True)))
WAN_VACE = WAN._replace(video=WAN_CLIPS._replace(fills=True))
KINDS = {"WanPipeline": WAN, "WanImageToVideoPipeline": WAN_FROM_IMAGE, "WanVACEPipeline": WAN_VACE}
