"""The pipelines of HunyuanVideo 1.5, and the conditions of their prompts."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hunyuan_video_15.network import HunyuanVideo15
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER
from diffusion.text.weighting import unbracketed

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
QUOTED = re.compile(r"\"(.*?)\"|“(.*?)”")  # words that the second text encoder reads, and no others
UNIT = 16  # pixels that divide the sides of clips in training
NARROWEST = 4  # the largest ratio of these sides


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
    texts = [unbracketed(prompt, how.get("emphasis", "none")) for prompt in prompts]
    return text | glyphs([in_quotes(prompt) for prompt in texts], byt5)


def in_quotes(prompt: str) -> str:
    """The words in quotes of a prompt, as their encoder reads them; "" without any."""
    words = dict.fromkeys(straight or curved for straight, curved in QUOTED.findall(prompt))
    return "".join(f'Text "{one}". ' for one in words)


def glyphs(quoted: Sequence[str], byt5: Encoder) -> dict[str, Any]:
    """{"glyphs", "glyph_mask"} of words in quotes; the mask of a prompt without such words is False everywhere.

    Args:
        quoted: B texts as their encoder reads them; "" for a prompt without words in quotes.
        byt5: ByT5's encoder, `masked=True`.
    """
    states = encode(quoted, byt5)
    shown = states.mask & np.array([bool(words) for words in quoted])[:, None]
    return {"glyphs": states.tokens, "glyph_mask": shown}


def nearest_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The (height, width) whose ratio is nearest to a given one, of the sizes that the model was trained on.

    These have about side^2 pixels. The result is no narrower than the given size.

    Args:
        height, width: sides of the given size.
        side: side in pixels of a square of as many pixels.

    Reference: the code of HunyuanVideo 1.5 (Tencent, 2025), data_utils.py.
    """
    area = round((side / UNIT) ** 2)
    rows, columns, sizes = area, 1, []
    while rows:
        if max(rows, columns) <= NARROWEST * min(rows, columns):
            sizes.append((rows, columns))
        if (columns + 1) * rows <= area:
            columns += 1
        else:
            rows -= 1
    wanted = height / width
    away = {size: round(size[0] / size[1], 5) - wanted for size in sizes}
    fitting = [size for size, ratio in away.items() if (ratio <= 0 if wanted >= 1 else ratio >= 0)]
    rows, columns = min(fitting, key=lambda size: abs(away[size]))
    return rows * UNIT, columns * UNIT


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
