"""The pipeline of HunyuanImage 2.1, and the condition that its denoiser receives for prompts."""

import re
from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hunyuan_image import guidance
from diffusion.published.hunyuan_image.network import HunyuanImage
from diffusion.published.hunyuan_video_15.pipeline import glyphs
from diffusion.published.qwen_image.pipeline import OF_TASK, TASK
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import USER
from diffusion.text.weighting import unbracketed

QUOTES = ("''", '""', "‘’", "“”")  # the pairs of quotes, in the order in which quoted words are read


def _in_quotes(prompt: str) -> str:
    """The words in quotes of a prompt in the form that ByT5 reads, with repetitions; "" without quotes.

    An apostrophe counts as a quote, as in the pipeline's code.
    """
    words = [word for begin, end in QUOTES for word in re.findall(f"{begin}(.*?){end}", prompt)]
    return "".join(f'Text "{word}". ' for word in words)


def hunyuan_image(prompts: Sequence[str], qwen: Encoder, byt5: Encoder, **how: Any) -> dict[str, Any]:
    """The condition {"text", "text_mask", "glyphs", "glyph_mask"} of HunyuanImage 2.1.

    The text is the prompt after a description of the task; the glyphs are the words in quotes.

    Args:
        prompts: B texts.
        qwen: the encoder, which returns Qwen 2.5 VL's states before its last two layers (`masked=True, layers=(-3,)`),
            with a tokenizer of 34 + 1000 tokens.
        byt5: ByT5's encoder, `masked=True`, with a tokenizer of 128 tokens.
        **how: further arguments of `encode`, for Qwen.
    """
    embeddings = encode(prompts, qwen, before=TASK + USER, behind="<|im_end|>", **how)
    text = text_first(embeddings, OF_TASK)
    texts = [unbracketed(prompt, how.get("emphasis", "none")) for prompt in prompts]
    return text | glyphs([_in_quotes(prompt) for prompt in texts], byt5)


def _objection(denoiser: Any) -> str:
    if not getattr(denoiser, "glyph_width", 1):
        return "the tokens of words in quotes (text_embed_2_dim)"
    distilled = getattr(denoiser, "times", 1) == 1 or denoiser.strength
    return "" if distilled else "a strength of the guidance (guidance_embeds) beside the end of a step (use_meanflow)"


def _distilled(kind: kinds.Kind, denoiser: Any) -> kinds.Kind:
    """The kind for a distilled denoiser, with the number of steps in diffusers' documentation."""
    if denoiser.times != 2:
        return kind
    return kind._replace(usual=kinds.Usual(8, 3.25), denoiser=kind.denoiser._replace(jumps=True))


HUNYUAN_IMAGE = kinds.Kind(
    "HunyuanImage",
    kinds.Prompts(
        (
            kinds.Reader(how={"masked": True, "layers": (-3,)}, length=OF_TASK + 1000),
            kinds.Reader("_2", how={"masked": True}, length=128),
        ),
        hunyuan_image,
    ),
    kinds.Usual(50, 3.25),
    kinds.DenoiserNetwork(
        HunyuanImage, multiple=lambda denoiser: 1, objection=_objection, variant=_distilled, unit_clock=True
    ),
    kinds.FlowSteps(even=True),
    kinds.Students(undistilled=kinds.Usual(50, 3.5)),  # the scale of the guider's class
    kinds.Guidance(by_condition=True, guiders=guidance.with_guiders),
    kinds.Pictures(sample_size=64),
)
KINDS = {"HunyuanImagePipeline": HUNYUAN_IMAGE}
