"""The conditions that the published text-to-image models receive of a prompt (`models.layers.conditions`).

| model  | "text"                                                       | "pooled"            | "text_mask" |
|--------|--------------------------------------------------------------|---------------------|-------------|
| SD 1,2 | [B, 77, 768 or 1024] CLIP                                    |                     |             |
| SDXL   | [B, 77, 2048] two CLIPs side by side                         | of the second       |             |
| SD 3   | [B, 77 + 256, 4096] two CLIPs side by side, then T5          | of both, in a row   |             |
| Flux   | [B, 512, 4096] T5                                            | of CLIP             |             |
| PixArt | [B, 120 or 300, 4096] T5                                     |                     | T5's        |
| Chroma | [B, 512, 4096] T5                                            |                     | and one     |
| FLUX.2 dev | [B, 512, 15360] three layers of Mistral 3 side by side, padding first |        |             |
| klein  | [B, 512, 7680] three layers of Qwen 3 side by side           |                     |             |
| Qwen-Image | [B, 512, 3584] Qwen 2.5 VL, behind the task              |                     | Qwen's      |
| Lumina-Image 2 | [B, 256, 2304] Gemma 2, of the prompt behind a system's   |                     | Gemma's     |
| SANA   | [B, 300, 2304] Gemma 2, of the prompt behind an instruction  |                     | Gemma's     |
| LTX-Video | [B, 128, 4096] T5                                         |                     | T5's        |
| HunyuanVideo | [B, 256, 4096] Llama 3, of the prompt behind a task    | of CLIP             | Llama's     |
| CogVideoX | [B, 226, 4096] T5                                         |                     |             |
| Wan    | [B, 512, 4096] umT5, zeros behind the text                   |                     |             |
| Z-Image | [B, 512, 2560] Qwen 3, of the prompt in a template          |                     | Qwen's      |

SDXL and SD 3 read CLIP's states before the last layer, without the final norm: `Encoder.of(..., skip=1, norm=False)`.
Encode prompts and negative prompts in one call, so that they have equally many tokens; "" is a prompt like any other.
(SDXL was published to receive zeros where there is no negative prompt: `jax.tree.map(jnp.zeros_like, condition)`.)
"""

__all__ = [
    "chroma",
    "cogvideox",
    "flux",
    "flux2",
    "flux2_klein",
    "hunyuan_video",
    "ltx_video",
    "lumina2",
    "pixart",
    "qwen_image",
    "sana",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_xl",
    "wan",
    "z_image",
]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.text.encoding import Embeddings, Encoder, encode, one_after_other, side_by_side

# What stands before and behind the words of a user in the chats of Qwen.
USER = "<|im_start|>user\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"
TASK = (  # of Qwen-Image
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n"
)
OF_TASK = 34  # tokens of the task and of what stands before the user's words
SYSTEM = (  # of Lumina-Image 2
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)
INSTRUCTION = (  # of SANA
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
OF_PROMPT = 300  # tokens of SANA's prompt, the start among them
CLIP_TASK = (  # of HunyuanVideo
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: 1. The main "
    "content and theme of the video.2. The color, shape, size, texture, quantity, text, and spatial relationships of "
    "the objects.3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.4. "
    "background environment, light, style and atmosphere.5. camera angles, movements, and transitions used in the "
    "video:<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
)
OF_CLIP_TASK = 95  # tokens of that
JUDGE = (  # of FLUX.2 dev
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses focusing on "
    "object relationships, object\nattribution and actions without speculation.[/SYSTEM_PROMPT][INST]"
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def stable_diffusion(prompts: Sequence[str], clip: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of SD 1 and 2.

    Args:
        prompts: B texts.
        clip: CLIP's text tower.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, clip, **how).tokens}


def stable_diffusion_xl(prompts: Sequence[str], clip: Encoder, clip_g: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of SDXL.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower, `skip=1, norm=False`.
        clip_g: ViT-bigG's text tower with its projection, `skip=1, norm=False`.
        **how: further arguments of `encode`.
    """
    both = side_by_side(encode(prompts, clip, **how), encode(prompts, clip_g, **how))
    return {"text": both.tokens, "pooled": _pooled(both)}


def stable_diffusion_3(
    prompts: Sequence[str],
    clip: Encoder,
    clip_g: Encoder,
    t5: Encoder | None = None,
    *,
    width: int = 4096,
    length: int = 256,
    **how: Any,
) -> dict[str, jax.Array]:
    """{"text", "pooled"} of SD 3.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower with its projection, `skip=1, norm=False`.
        clip_g: ViT-bigG's text tower with its projection, `skip=1, norm=False`.
        t5: T5's encoder with a tokenizer of `length`; None: the model receives zeros in its place, as in training.
        width, length: width and number of T5's tokens where there is no T5.
        **how: further arguments of `encode`.
    """
    first = encode(prompts, clip, **how)
    second = encode(prompts, clip_g, **how)
    if t5 is None:
        zeros = jnp.zeros((len(prompts), length, width))
        third = Embeddings(zeros, jnp.ones(zeros.shape[:2], bool), None)
    else:
        third = encode(prompts, t5, **how)
    tokens = one_after_other(side_by_side(first, second), third).tokens
    return {"text": tokens, "pooled": jnp.concatenate([_pooled(first), _pooled(second)], axis=-1)}


def flux(prompts: Sequence[str], clip: Encoder, t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of Flux.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower; it reads the first window of a long prompt alone.
        t5: T5's encoder with a tokenizer of 512 (dev) or 256 (schnell) tokens.
        **how: further arguments of `encode`, for T5.
    """
    return {"text": encode(prompts, t5, **how).tokens, "pooled": _pooled(encode(prompts, clip))}


def chroma(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Chroma, which sees the first token of the padding behind the whole prompt, too.

    Args:
        prompts: B texts.
        t5: T5's encoder, `masked=True`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, t5, **how)
    mask = jnp.asarray(embeddings.mask)
    end = mask.shape[1] - mask[:, ::-1].argmax(1)  # behind the last token; with several windows, the last window's
    return {"text": embeddings.tokens, "text_mask": mask | (jnp.arange(mask.shape[1]) == end[:, None])}


def pixart(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of PixArt, which was trained on captions in lower case.

    Args:
        prompts: B texts.
        t5: T5's encoder, `masked=True`, with a tokenizer of 120 (alpha) or 300 (sigma) tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode([prompt.lower().strip() for prompt in prompts], t5, **how)
    return {"text": embeddings.tokens, "text_mask": embeddings.mask}


def ltx_video(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of LTX-Video, whose network does not see the padding; its T5 does, before 0.9.5.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 128 tokens; for 0.9.5 and later `masked=True`, with 256 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, t5, **how)
    return {"text": embeddings.tokens, "text_mask": jnp.asarray(embeddings.mask)}


def hunyuan_video(prompts: Sequence[str], llama: Encoder, clip: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask", "pooled"} of HunyuanVideo: Llama reads the prompt behind a task, which is left out.

    Args:
        prompts: B texts.
        llama: Llama's states before its last two layers, `masked=True, layers=(-3,)`, with a tokenizer of 95 + 256
            tokens.
        clip: ViT-L's text tower; it reads the first window of a long prompt alone.
        **how: further arguments of `encode`, for Llama.
    """
    embeddings = encode(prompts, llama, before=CLIP_TASK, behind="<|eot_id|>", **how)
    tokens, mask = embeddings.tokens[:, OF_CLIP_TASK:], embeddings.mask[:, OF_CLIP_TASK:]
    return _text_first(embeddings._replace(tokens=tokens, mask=mask)) | {"pooled": _pooled(encode(prompts, clip))}


def cogvideox(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of CogVideoX, which sees the padding, too.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 226 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, t5, **how).tokens}


def z_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Z-Image: what a user says to Qwen 3, up to where the answer begins; padding stands last.

    Args:
        prompts: B texts.
        qwen: Qwen's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    return _text_first(encode(prompts, qwen, before=USER, behind=ANSWER, **how))


def qwen_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Qwen-Image: the prompt as Qwen 2.5 VL reads it behind a task, whose tokens are left out.

    Args:
        prompts: B texts.
        qwen: Qwen's normalised states of its last layer, `masked=True`, with a tokenizer of 34 + 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, qwen, before=TASK + USER, behind=ANSWER, **how)
    tokens, mask = embeddings.tokens[:, OF_TASK:], embeddings.mask[:, OF_TASK:]
    return _text_first(embeddings._replace(tokens=tokens, mask=mask))


def lumina2(prompts: Sequence[str], gemma: Encoder, *, instructed: bool = True, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Lumina-Image 2: what Gemma 2 reads of the prompt behind a system's; padding stands last.

    Args:
        prompts: B texts.
        gemma: Gemma's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 256 tokens.
        instructed: whether the system's text stands before the prompts; False for negative prompts.
        **how: further arguments of `encode`.
    """
    return _text_first(encode(prompts, gemma, before=SYSTEM if instructed else "", **how))


def sana(prompts: Sequence[str], gemma: Encoder, *, instructed: bool = True, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of SANA: the prompt in lower case, as Gemma 2 reads it behind an instruction.

    Two tokens of the instruction stay: the start of the text, and the last token, with which the prompt may begin.

    Args:
        prompts: B texts.
        gemma: Gemma's normalised states of its last layer, `masked=True`, with a tokenizer of 300 tokens.
        instructed: whether the instruction stands before the prompts; False for negative prompts.
        **how: further arguments of `encode`.
    """
    prompts = [prompt.lower().strip() for prompt in prompts]
    if not instructed:
        embeddings = encode(prompts, gemma, **how)
        return {"text": embeddings.tokens, "text_mask": embeddings.mask}
    tokenizer: Any = gemma.tokenizer
    tokenizer = tokenizer.longer(len(tokenizer.start) + len(tokenizer.split(INSTRUCTION)[0]) - 2)
    embeddings = encode(prompts, gemma._replace(tokenizer=tokenizer), before=INSTRUCTION, **how)
    first = tokenizer.length - OF_PROMPT + 1
    prompt_tokens = lambda rows: jnp.concatenate([rows[:, :1], rows[:, first:]], axis=1)
    return {"text": prompt_tokens(embeddings.tokens), "text_mask": prompt_tokens(jnp.asarray(embeddings.mask))}


def wan(prompts: Sequence[str], umt5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of Wan, whose network attends to zeros behind the text; runs of white space are one space.

    Args:
        prompts: B texts.
        umt5: umT5's encoder, `masked=True`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode([" ".join(prompt.split()) for prompt in prompts], umt5, **how)
    return {"text": jnp.where(jnp.asarray(embeddings.mask)[..., None], embeddings.tokens, 0)}


def flux2(prompts: Sequence[str], mistral: Encoder, **how: Any) -> dict[str, Any]:
    """{"text"} of FLUX.2 dev: the padding, and what Mistral 3 reads of the prompt behind a system's.

    Args:
        prompts: B texts, of which "[IMG]", the place of a picture, is left out.
        mistral: the states of its layers 10, 20 and 30, `masked=True, layers=(10, 20, 30)`, with a tokenizer of 512
            tokens that pads on the left.
        **how: further arguments of `encode`.
    """
    texts = [prompt.replace("[IMG]", "") for prompt in prompts]
    return {"text": encode(texts, mistral, before=JUDGE, behind="[/INST]", **how).tokens}


def flux2_klein(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text"} of FLUX.2 klein: what a user says to Qwen 3, which is not to think, and the padding behind.

    Args:
        prompts: B texts.
        qwen: the states of its layers 9, 18 and 27, `masked=True, layers=(9, 18, 27)`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, qwen, before=USER, behind=ANSWER + NO_THOUGHT, **how).tokens}


def _text_first(embeddings: Embeddings) -> dict[str, Any]:
    """{"text", "text_mask"} with the tokens of all windows before all padding."""
    mask = jnp.asarray(embeddings.mask)
    order = jnp.argsort(~mask, axis=1, stable=True)
    text = jnp.take_along_axis(embeddings.tokens, order[..., None], axis=1)
    return {"text": text, "text_mask": jnp.take_along_axis(mask, order, axis=1)}


def _pooled(embeddings: Embeddings) -> jax.Array:
    if embeddings.pooled is None:
        raise ValueError("this encoder has no pooled embedding; valid: CLIP's text tower, not T5")
    return embeddings.pooled
