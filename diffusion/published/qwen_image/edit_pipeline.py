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
OF_TASK = 64  # number of tokens before the first picture, most of which are the task
PLACEHOLDER = "<|image_pad|>"
DIVISOR = 32  # the sides of all pictures are multiples of this number


def _edits(prompts: Sequence[str], qwen: Encoder, pictures: Sequence[Any], names: str, **how: Any) -> dict[str, Any]:
    """The condition of prompts that follow pictures.

    Args:
        prompts: B texts.
        qwen: the encoder, see `qwen_image_edit`.
        pictures: the pictures, see `qwen_image_edit`.
        names: the text before each picture, in which {} stands for the picture's number.
        **how: further arguments of `encode`.
    """
    texts = [prompt.replace(PLACEHOLDER, "") for prompt in prompts]
    reader, counts = qwen.with_pictures(pictures)
    shown = [f"<|vision_start|>{PLACEHOLDER * count}<|vision_end|>" for count in counts]
    before = TASK + USER + "".join(names.format(i + 1) + picture for i, picture in enumerate(shown))
    embeddings = encode(texts, reader, before=before, behind=ANSWER, **how)
    return text_first(embeddings, OF_TASK)


def qwen_image_edit(
    prompts: Sequence[str], qwen: Encoder, *, pictures: Sequence[Any] = (), **how: Any
) -> dict[str, Any]:
    """The condition {"text", "text_mask"} of Qwen-Image-Edit: Qwen 2.5 VL's states of pictures and prompt.

    The states of the task, which precedes the pictures, are left out.

    Args:
        prompts: B texts; the placeholder of a picture is removed from them.
        qwen: the encoder, which returns the normalised states of Qwen's last layer, with `masked=True` and a tokenizer
            for 64 + 512 tokens.
        pictures: the pictures, each float32 [1, H, W, 3] in [-1, 1], in the size that Qwen reads.
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
