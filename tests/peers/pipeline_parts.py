"""What the pipelines of tests/peers/families have in common: how one is stated, texts, tokenizers, tiny networks."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.peers.cases import last
from tests.peers.made_weights import drawn
from tests.text.vocabularies import folder_of

PROMPTS, NEGATIVE = ["a cat", "the red car on a hill"], "bad"
QUOTED_PROMPTS = ['a cat with "hé" and “cat”', PROMPTS[1]]
STEPS, GUIDANCE = 30, 7.5
SHIFTED = {"shift": 3.0}
DYNAMIC = SHIFTED | {"use_dynamic_shifting": True}
EULER = {"euler": ("FlowMatchEulerDiscreteScheduler", {})}
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "layers_per_block": 1,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
CLIP = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "projection_dim": 24,
    "bos_token_id": 52,
    "eos_token_id": 53,
}
QWEN = {
    "vocab_size": 272,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
GEMMA = {name: value for name, value in QWEN.items() if name != "vocab_size"} | {"vocab_size": 120}


@contextlib.contextmanager
def encoded_by_mean(pipe, latents: torch.Tensor):
    """The call of a pipeline that encodes its first frame by the mean."""
    module = sys.modules[type(pipe).__module__]
    with mock.patch.object(module, "retrieve_latents", lambda output, *_, **__: output.latent_dist.mode()):
        yield


def decode(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents that are those of the autoencoder, and their picture."""
    config = pipe.vae.config
    shift = getattr(config, "shift_factor", None) or 0
    return latents, pipe.vae.decode(latents / config.scaling_factor + shift).sample


class Pipeline(NamedTuple):
    """A small pipeline of diffusers.

    Attributes:
        build: (an empty folder, for its vocabularies) -> pipeline.
        scheduler: config that its schedulers have in common.
        trajectories: by the names of our samplers the scheduler's class and its further settings.
        latents: shape for one prompt, channels last; a clip has frames before its sides.
        size: arguments that state the size of the picture or the clip.
        steps: number of steps; some samplers have their own (`pipelines.STEPS_OF`).
        arguments: (pipeline, arguments that most take) -> its own arguments.
        within: (pipeline, initial latents) -> context in which the call draws no more than its scheduler's noise.
        decoded: (pipeline, what the call returns) -> latents and decoded picture, channels first.
        images: uint8 pictures [H, W, 3] of the argument `image`, which the fixture holds.
        unclipped: whether the fixture has the picture of the pipeline itself, before it is clipped.
        further: pipeline -> further arrays of the fixture.
        further_steps: steps of the trajectories that `further` runs, by the names of our samplers.
    """

    build: Callable[[pathlib.Path], diffusers.DiffusionPipeline]
    scheduler: Mapping[str, Any]
    trajectories: Mapping[str, tuple[str, Mapping[str, Any]]] = EULER
    latents: tuple[int, ...] = (8, 8, 4)
    size: Mapping[str, int] = {"height": 16, "width": 16}
    steps: int = STEPS
    arguments: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda pipe, usual: usual
    within: Callable[..., contextlib.AbstractContextManager] = lambda pipe, latents: contextlib.nullcontext()
    decoded: Callable[..., tuple[torch.Tensor, torch.Tensor]] = decode
    images: tuple[np.ndarray, ...] = ()
    unclipped: bool = False
    further: Callable[[Any], Mapping[str, torch.Tensor]] = lambda pipe: {}
    further_steps: Mapping[str, int] = {}


def clip_tokenizer(folder: pathlib.Path):
    """Letters, some of them merged."""
    letters = [chr(ord("a") + i) for i in range(26)]
    merges = [("c", "a"), ("ca", "t</w>"), ("t", "h")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    words += ["".join(pair) for pair in merges]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=12)


def clip(projected: bool = False):
    model = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return model(transformers.CLIPTextConfig(**CLIP))


def t5(width: int = 32):
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=512, d_model=width, d_kv=8, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        )
    )


def t5_tokenizer(folder: pathlib.Path):
    return transformers.T5Tokenizer.from_pretrained(folder_of(folder, "t5"))


def qwen_tokenizer(thought: str = "", further: tuple[str, ...] = ()):
    """Bytes, some of them merged, with the template of Qwen 3's chats for one message, and what it answers at once.

    `further` are special words behind the others.
    """
    letters = sorted(bytes_to_unicode().values())
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("u", "s"), ("e", "r"), ("us", "er")]
    words = [*letters, *("".join(pair) for pair in merges), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = transformers.Qwen2Tokenizer({word: i for i, word in enumerate(words)}, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *further]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + thought + "{% endif %}"
    )
    return tokenizer


def gemma_tokenizer():
    """Letters, some of them merged, behind a start."""
    letters = [chr(code) for code in range(33, 127)] + ["\n", "\u2581"]
    merges = [("c", "a"), ("ca", "t"), ("\u2581", "cat"), ("\u2581", "a"), ("u", "s"), ("e", "r"), ("us", "er")]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, *("".join(pair) for pair in merges)]
    return transformers.GemmaTokenizer({word: i for i, word in enumerate(words)}, merges)


def first_frame(side: int) -> Image.Image:
    return Image.fromarray(bytes_of(drawn("first frame", side, side, 3)))


def mask(height: int = 16, width: int = 16) -> torch.Tensor:
    """One where it is painted: the right half of a picture."""
    return (torch.arange(width) >= width // 2).float().expand(1, 1, height, width)


def painted(pipe, strengths, picture: np.ndarray, latents, **arguments) -> dict[str, torch.Tensor]:
    """The right half of a picture, painted by a prompt: the latents, by their strengths.

    Args:
        pipe: the pipeline, of a class that sees the picture that it paints.
        strengths: parts of the trajectory.
        picture: uint8 [H, W, 3].
        latents: the pipeline's output -> latents [1, C, h, w].
        **arguments: further arguments of the call.
    """
    pipe.set_progress_bar_config(disable=True)
    usual = {"prompt": [PROMPTS[0]], "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **arguments}
    usual |= {"image": Image.fromarray(picture), "mask_image": mask(*picture.shape[:2]), "output_type": "latent"}
    arrays = {}
    for strength in strengths:
        with made_noise(pipe), torch.no_grad():
            arrays[f"painted/{strength}"] = last(latents(pipe(strength=strength, **usual).images)).contiguous()
    return arrays


def made_noise(scheduler):
    """Each draw of the scheduler is made from its number; one that draws nothing is left as it is."""
    count = 0

    def draw(shape, **_):
        nonlocal count
        count += 1
        *before, channels, height, width = shape  # CogVideoX's frames stand before the channels
        return torch.from_numpy(drawn(f"step {count - 1}", *before, height, width, channels)).movedim(-1, -3)

    return mock.patch.object(sys.modules[scheduler.__module__], "randn_tensor", draw, create=True)


def pictured() -> torch.Tensor:
    """Latents of two pictures, [2, 4, 8, 8]."""
    return torch.from_numpy(drawn("pictured", 2, 8, 8, 4)).movedim(-1, 1)


def by_channel(numbers) -> torch.Tensor:
    """One number for each channel of clips, [1, C, 1, 1, 1]."""
    return torch.tensor(numbers).view(1, -1, 1, 1, 1)


def changed(module, **fields):
    """A network of the same class with other fields."""
    config = {name: value for name, value in module.config.items() if name[0] != "_"}
    return type(module).from_config(config | fields)


def parts_of(pipe) -> dict[str, Any]:
    """The parts that a pipeline has."""
    return {name: part for name, part in pipe.components.items() if part is not None}


def as_written(pipe, usual: dict[str, Any]) -> dict[str, Any]:
    """Arguments of pipelines that would clean the prompts, and round the size."""
    return usual | {"clean_caption": False, "use_resolution_binning": False}


def bytes_of(picture: np.ndarray) -> np.ndarray:
    return np.uint8(np.clip(128 + 60 * picture, 0, 255))
