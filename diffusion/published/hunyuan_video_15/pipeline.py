"""The pipelines of HunyuanVideo 1.5, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hunyuan_video_15.clip_sizes import nearest_size
from diffusion.published.hunyuan_video_15.network import HunyuanVideo15
from diffusion.published.hunyuan_video_15.quoted_words import glyphs, in_quotes
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER

ASPECTS = (  # as in its authors' code, with the indents of its lines
    "You are a helpful assistant. Describe the video by detailing the following aspects:",
    "1. The main content and theme of the video.",
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects.",
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.",
    "4. background environment, light, style and atmosphere.",
    "5. camera angles, movements, and transitions used in the video.",
)
TASK = f"<|im_start|>system\n{(' ' * 9).join(ASPECTS)}<|im_end|>\n{USER}"
OF_TASK = 108  # tokens of the task


def hunyuan_video_15(prompts: Sequence[str], qwen: Encoder, byt5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask", "glyphs", "glyph_mask"} of HunyuanVideo 1.5: the prompt after a task, and words in quotes.

    Args:
        prompts: B texts; an empty text is read as a space.
        qwen: Qwen's states before its last two layers, `masked=True, layers=(-3,)`, with a tokenizer of 108 + 1000
            tokens.
        byt5: ByT5's encoder, `masked=True`, with a tokenizer of 256 tokens.
        **how: further arguments of `encode`, for Qwen.
    """
    embeddings = encode([prompt or " " for prompt in prompts], qwen, before=TASK, behind=ANSWER, **how)
    text = text_first(embeddings, OF_TASK)
    return text | glyphs([in_quotes(prompt) for prompt in prompts], byt5)


def _variant(kind: kinds.Kind, denoiser: HunyuanVideo15) -> kinds.Kind:
    assert kind.video is not None
    return kind._replace(video=kind.video._replace(size=nearest_size(9, 16, denoiser.side)))


CLIPS = kinds.Video(121, (480, 848), 24.0)
HUNYUAN_VIDEO_15 = kinds.Kind(
    "HunyuanVideo15",
    kinds.Prompts(
        (
            kinds.Reader(how={"masked": True, "layers": (-3,)}, length=OF_TASK + 1000),
            kinds.Reader("_2", how={"masked": True}, length=256),
        ),
        hunyuan_video_15,
    ),
    kinds.Usual(50, 6.0),
    kinds.DenoiserNetwork(HunyuanVideo15, multiple=lambda denoiser: 1, variant=_variant, unit_clock=True),
    kinds.FlowSteps(even=True),
    video=CLIPS,
)
IMAGE = kinds.FirstImage(begins=True, masked=False, one_mask=True)
FROM_IMAGE = HUNYUAN_VIDEO_15._replace(video=CLIPS._replace(first=IMAGE))
KINDS = {"HunyuanVideo15Pipeline": HUNYUAN_VIDEO_15, "HunyuanVideo15ImageToVideoPipeline": FROM_IMAGE}
