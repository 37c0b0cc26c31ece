"""The pipelines of SANA and SANA-Sprint, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from diffusion.models.layers import layer_masks
from diffusion.published import pipeline_kinds as kinds
from diffusion.published.sana.network import Sana
from diffusion.text.encoding import Encoder, encode
from diffusion.text.long_prompts import lowered

INSTRUCTION = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt: "
)
OF_PROMPT = 300  # number of tokens of the condition: the start of the text, and those from the prompt


def sana(prompts: Sequence[str], gemma: Encoder, *, instructed: bool = True, **how: Any) -> dict[str, Any]:
    """The condition {"text", "text_mask"} of SANA: Gemma 2's states of prompts in lower case, after an instruction.

    Two tokens before the prompt stay: the start of the text, and the last token of the instruction, which may merge
    with the beginning of the prompt.

    Args:
        prompts: B texts.
        gemma: the encoder, which returns the normalised states of Gemma's last layer, with `masked=True` and a
            tokenizer for 300 tokens.
        instructed: whether the instruction precedes the prompts; False for negative prompts.
        **how: further arguments of `encode`.
    """
    prompts = [lowered(prompt, how.get("windows", False)).strip() for prompt in prompts]
    if not instructed:
        embeddings = encode(prompts, gemma, **how)
        return {"text": embeddings.tokens, "text_mask": embeddings.mask}
    tokenizer: Any = gemma.tokenizer
    tokenizer = tokenizer.longer(len(tokenizer.start) + len(tokenizer.split(INSTRUCTION)[0]) - 2)
    embeddings = encode(prompts, gemma._replace(tokenizer=tokenizer), before=INSTRUCTION, **how)
    first = tokenizer.length - OF_PROMPT + 1
    prompt_tokens = lambda rows: jnp.concatenate([rows[:, :1], rows[:, first:]], axis=1)
    return {"text": prompt_tokens(embeddings.tokens), "text_mask": prompt_tokens(jnp.asarray(embeddings.mask))}


SANA = kinds.Kind(
    "Sana",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=300, left=False),), sana, instructed=True),
    kinds.Usual(20, 4.5),
    kinds.DenoiserNetwork(Sana),
    guidance=kinds.Guidance(perturbs=lambda denoiser: layer_masks.mask(1, denoiser.depth, (0,))),
)
SANA_SPRINT = SANA._replace(
    family="SanaSprint",
    usual=kinds.Usual(2, 4.5),
    denoiser=kinds.DenoiserNetwork(Sana, strength=True, unit_clock=True),
    guidance=kinds.Guidance(),
)
SANA_PERTURBED = SANA._replace(guidance=SANA.guidance._replace(perturbed_scale=3.0))
KINDS = {
    "SanaPipeline": SANA,
    "SanaPAGPipeline": SANA_PERTURBED,
    "SanaSprintPipeline": SANA_SPRINT,
    "SanaSprintImg2ImgPipeline": SANA_SPRINT,
}
