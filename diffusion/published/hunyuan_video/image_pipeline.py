"""The pipeline of HunyuanVideo from an image, which its denoiser and its text encoder see."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.models.image_encoders import picture_fitting
from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hunyuan_video.network import HunyuanVideo
from diffusion.published.hunyuan_video.pipeline import HUNYUAN_VIDEO
from diffusion.published.llava import Llava
from diffusion.text.encoding import Embeddings, Encoder, encode, pooled, text_first

PLACEHOLDER = "<image>"
TASK = (
    "<|start_header_id|>system<|end_header_id|>\n\n{}\nDescribe the video by detailing the following aspects according "
    "to the reference image: 1. The main content and theme of the video.2. The color, shape, size, texture, quantity, "
    "text, and spatial relationships of the objects.3. Actions, events, behaviors temporal relationships, physical "
    "movement changes of the objects.4. background environment, light, style and atmosphere.5. camera angles, "
    "movements, and transitions used in the video:<|eot_id|>\n\n<|start_header_id|>user<|end_header_id|>\n\n"
)
ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
BEFORE_PICTURE, OF_TASK, OF_ANSWER = 5, 102, 5  # tokens; the task's are without the picture's


def hunyuan_video_from_image(
    prompts: Sequence[str], llava: Encoder, clip: Encoder, *, pictures: Sequence[Any] = (), every: int = 2, **how: Any
) -> dict[str, Any]:
    """{"text", "text_mask", "pooled"} of HunyuanVideo from an image: some tokens of the picture, and then the prompt's.

    The tokens of the task are removed, and of the tokens after the prompt only the last is kept.

    Args:
        prompts: B texts; the placeholder of a picture is removed from them.
        llava: Llava's states before its last two layers, `masked=True, layers=(-3,)`, with a tokenizer of 103 + 256
            tokens that pads on the right.
        clip: ViT-L's text tower, whose pooled state covers only the first window of a long prompt.
        pictures: one picture, float32 [1, S, S, 3] in [-1, 1] at the size that Llava sees; () for none.
        every: stride at which the picture's tokens are kept, beginning with the first.
        **how: further arguments of `encode`.
    """
    texts = [prompt.replace(PLACEHOLDER, "") for prompt in prompts]
    reader, counts = llava.with_pictures(pictures, held=1)
    count = sum(counts)
    read = encode(texts, reader, before=TASK.format(PLACEHOLDER * count), behind=ANSWER, **how)
    to_the_end = jnp.cumsum(read.mask[:, ::-1], axis=1)[:, ::-1]  # how many tokens there are from each one on
    shown = read.mask & ~((to_the_end > 1) & (to_the_end <= OF_ANSWER))
    parts = slice(BEFORE_PICTURE, BEFORE_PICTURE + count, every), slice(OF_TASK + count, None)
    states, shown = (jnp.concatenate([array[:, part] for part in parts], axis=1) for array in (read.tokens, shown))
    return text_first(Embeddings(states, shown, None)) | {"pooled": pooled(encode(texts, clip, **how))}


def sight(folder: pathlib.Path, encoder: Llava) -> Callable[[np.ndarray], np.ndarray]:
    """Picture -> the picture as Llava sees it: its middle, as transformers' image processor of CLIP fits it."""
    return lambda picture: picture_fitting.cropped(picture, encoder.vision.size)


def _variant(kind: kinds.Kind, denoiser: HunyuanVideo) -> kinds.Kind:
    if denoiser.image_condition != "token_replace":
        return kind
    assert kind.video is not None
    first = kind.video.first._replace(clean=True, one_mask=False, left_out=0)
    condition = functools.partial(hunyuan_video_from_image, every=4)
    return kind._replace(video=kind.video._replace(first=first), prompts=kind.prompts._replace(condition=condition))


FROM_IMAGE = HUNYUAN_VIDEO._replace(
    prompts=kinds.Prompts(
        (kinds.Reader(how={"masked": True, "layers": (-3,)}, length=OF_TASK + 1 + 256), kinds.Reader("_2")),
        hunyuan_video_from_image,
    ),
    usual=kinds.Usual(50, 1.0),
    denoiser=HUNYUAN_VIDEO.denoiser._replace(objection=lambda denoiser: "", variant=_variant),
    video=kinds.Video(
        129,
        (720, 1280),
        24.0,
        first=kinds.FirstImage(begins=True, masked=False, one_mask=True, hint=0.001, left_out=1, sight=sight),
    ),
)
KINDS = {"HunyuanVideoImageToVideoPipeline": FROM_IMAGE}
