"""The pipelines of Qwen-Image-Edit, whose prompts hold the pictures that they edit or combine."""

from collections.abc import Sequence
from typing import Any

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.qwen_image.pipeline import QWEN_IMAGE
from diffusion.published.qwen_vl import picture_sizes
from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER

TASK = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n"
)
OF_TASK = 64  # tokens of the task and of what stands before the first picture
PLACEHOLDER = "<|image_pad|>"
DIVISOR = 32  # of the sides of all pictures


def _edits(prompts: Sequence[str], qwen: Encoder, pictures: Sequence[Any], names: str, **how: Any) -> dict[str, Any]:
    """The condition of texts after pictures; `names` precedes each picture, with its number in place of {}."""
    texts = [prompt.replace(PLACEHOLDER, "") for prompt in prompts]
    reader, counts = qwen.with_pictures(pictures)
    shown = [f"<|vision_start|>{PLACEHOLDER * count}<|vision_end|>" for count in counts]
    before = TASK + USER + "".join(names.format(i + 1) + picture for i, picture in enumerate(shown))
    embeddings = encode(texts, reader, before=before, behind=ANSWER, **how)
    return text_first(embeddings, OF_TASK)


def qwen_image_edit(
    prompts: Sequence[str], qwen: Encoder, *, pictures: Sequence[Any] = (), **how: Any
) -> dict[str, Any]:
    """{"text", "text_mask"} of Qwen-Image-Edit: picture and prompt as Qwen 2.5 VL reads them, without the task.

    Args:
        prompts: B texts; the placeholder of a picture is removed from them.
        qwen: Qwen's normalised states of its last layer, `masked=True`, with a tokenizer of 64 + 512 tokens.
        pictures: pictures, each float32 [1, H, W, 3] in [-1, 1] of the size that Qwen sees.
        **how: further arguments of `encode`.
    """
    return _edits(prompts, qwen, pictures, "", **how)


def qwen_image_edit_plus(
    prompts: Sequence[str], qwen: Encoder, *, pictures: Sequence[Any] = (), **how: Any
) -> dict[str, Any]:
    """The condition of Qwen-Image-Edit-2509 and later, which numbers the pictures; see `qwen_image_edit`."""
    return _edits(prompts, qwen, pictures, "Picture {}: ", **how)


SIGHT = picture_sizes.sight_of_pipeline
ONE = kinds.EditedPictures(1024**2, DIVISOR, 1, True, repainted=True, prompt_pixels=1024**2, sight=SIGHT)
EDIT = QWEN_IMAGE._replace(
    prompts=kinds.Prompts(
        (kinds.Reader(how={"masked": True}, length=OF_TASK + 512, family="Qwen2_5_VLModel"),), qwen_image_edit
    ),
    pictures=kinds.Pictures(several=ONE),
)
KINDS = {
    "QwenImageEditPipeline": EDIT,
    "QwenImageEditInpaintPipeline": EDIT,
    "QwenImageEditPlusPipeline": EDIT._replace(
        prompts=EDIT.prompts._replace(condition=qwen_image_edit_plus),
        pictures=kinds.Pictures(several=ONE._replace(number=0, sized=-1, prompt_pixels=384**2)),
    ),
}
