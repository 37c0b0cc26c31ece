"""The pipeline of AuraFlow, and the conditions of its prompts."""

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.auraflow.network import AuraFlow
from diffusion.text.encoding import Encoder, encode, zeroed_padding


def auraflow(prompts: Sequence[str], pile_t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """The conditions of prompts for AuraFlow, whose network attends to zeros in place of the padding.

    Args:
        prompts: B texts.
        pile_t5: Pile-T5's encoder with `masked=True`, and a tokenizer of 256 tokens.
        **how: further arguments of `encode`.

    Returns:
        {"text": the encoder's states [B, M, E], 0 at the padding}.
    """
    return {"text": zeroed_padding(encode(prompts, pile_t5, **how))}


AURAFLOW = kinds.Kind(
    "AuraFlow",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=256),), auraflow),
    kinds.Usual(50, 3.5),
    kinds.DenoiserNetwork(AuraFlow, unit_clock=True),
    pictures=kinds.Pictures(side=1024),
)
KINDS = {"AuraFlowPipeline": AURAFLOW}
