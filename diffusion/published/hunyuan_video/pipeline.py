"""The pipelines of HunyuanVideo, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hunyuan_video.network import PATCH, HunyuanVideo
from diffusion.text.encoding import Encoder, encode, pooled, text_first

CLIP_TASK = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: 1. The main "
    "content and theme of the video.2. The color, shape, size, texture, quantity, text, and spatial relationships of "
    "the objects.3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.4. "
    "background environment, light, style and atmosphere.5. camera angles, movements, and transitions used in the "
    "video:<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
)
OF_CLIP_TASK = 95  # tokens of that


def hunyuan_video(prompts: Sequence[str], llama: Encoder, clip: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask", "pooled"} of HunyuanVideo: Llama reads the prompt after a task, whose states are left out.

    Args:
        prompts: B texts.
        llama: Llama's states before its last two layers, `masked=True, layers=(-3,)`, with a tokenizer of 95 + 256
            tokens.
        clip: ViT-L's text tower, whose pooled state covers only the first window of a long prompt.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, llama, before=CLIP_TASK, behind="<|eot_id|>", **how)
    return text_first(embeddings, OF_CLIP_TASK) | {"pooled": pooled(encode(prompts, clip, **how))}


HUNYUAN_VIDEO = kinds.Kind(
    "HunyuanVideo",
    kinds.Prompts(
        (kinds.Reader(how={"masked": True, "layers": (-3,)}, length=95 + 256), kinds.Reader("_2")), hunyuan_video
    ),
    kinds.Usual(50, 6.0),
    kinds.DenoiserNetwork(
        HunyuanVideo,
        multiple=lambda denoiser: PATCH,
        objection=lambda denoiser: "no image_condition_type" * (getattr(denoiser, "image_condition", "none") != "none"),
        unit_clock=True,
    ),
    kinds.FlowSteps(even=True),
    video=kinds.Video(129, (720, 1280), 24.0),
)
KINDS = {"HunyuanVideoPipeline": HUNYUAN_VIDEO}
