"""Qwen-Image 2.1 of diffusers: its transformer and its autoencoder, small and at the published size; its pipeline."""

import functools
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline, QwenImage21Transformer2DModel

from tests.peers.cases import Case, first
from tests.peers.families import wan_autoencoder
from tests.peers.families.qwen_image import OfPictures, one_by_one
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QWEN, Pipeline, by_channel, qwen_tokenizer

INPUTS = {
    "x": drawn("qwen_image_21 x", 2, 4, 6, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("qwen_image_21 text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small(**options) -> QwenImage21Transformer2DModel:
    fields = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "context_in_dim": 24,
        "mlp_ratio": 2,
        "axes_dims_rope": (4, 6, 6),
    }
    return QwenImage21Transformer2DModel(**fields | options)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Latents, channels first, as tokens."""
    return QwenImage21Pipeline._pack_latents(x, len(x), x.shape[1], *x.shape[2:])


def run(module: QwenImage21Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One prompt at a time, without its padding, as its pipeline calls it: positions count the padding of a batch."""
    outputs = []
    for x, t, text, mask in zip(first(a["x"]).split(1), a["t"].split(1), a["text"].split(1), a["text_mask"]):
        height, width = x.shape[2:]
        slots = torch.arange(mask.sum() + height * width // 4) >= mask.sum()
        out = module(packed(x), text[:, mask], t, [[(1, height, width)]], slots[None]).sample
        outputs.append(out[0, -height * width :].reshape(height, width, -1))
    return {"output": torch.stack(outputs)}


AUTOENCODER = {
    "base_dim": 8,
    "decoder_base_dim": 12,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True, True],
}
CASES = {
    "qwen_image_21": Case(small, INPUTS, run),
    "qwen_image_21_of_time": Case(functools.partial(small, causal_condition=False), INPUTS, run),
    "qwen_image_21_autoencoder": Case(
        lambda: AutoencoderKLQwenImage21(**AUTOENCODER, latents_mean=[0.5] * 4, latents_std=[2.0] * 4),
        {"x": drawn("qwen 21 coded x", 2, 1, 32, 48, 4), "z": drawn("qwen 21 coded z", 2, 1, 2, 3, 4)},
        wan_autoencoder.run,
    ),
}
LISTINGS = {
    "qwen_image_21_full": QwenImage21Transformer2DModel,
    "qwen_image_21_autoencoder_full": AutoencoderKLQwenImage21,
}


SHIFTS = {
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 4,
    "max_image_seq_len": 64,
    "shift_terminal": 0.02,
    "use_dynamic_shifting": True,
}
# With these the message of the system has fourteen tokens, as with the published vocabulary.
WORDS = ("Comprehend and", " analyze", " the provided", " prompt.")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)


class WithTokenizer(OfPictures):
    """The processor whose folder has the tokenizer, as the published one."""

    def save_pretrained(self, folder, **_):
        super().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 24,
              "patch_size": 4, "deepstack_visual_indexes": [0], "num_position_embeddings": 4}  # fmt: skip
    turns = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 5e6}
    config = transformers.Qwen3VLConfig(text_config=QWEN | {"rope_parameters": turns}, vision_config=vision)
    pictures = transformers.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 10**6})
    parts = {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTS),
        "vae": AutoencoderKLQwenImage21(
            **AUTOENCODER, latents_mean=[-0.7, 0.1, 0.9, -0.2], latents_std=[2.8, 1.4, 0.7, 1.9]
        ),
        "text_encoder": transformers.Qwen3VLForConditionalGeneration(config),
        "processor": WithTokenizer(pictures, qwen_tokenizer(further=WORDS), chat_template=CHAT),
        "transformer": small(),
    }
    return one_by_one(QwenImage21Pipeline, parts)


def arguments(pipe, usual: dict) -> dict:
    """It takes tokens."""
    usual["true_cfg_scale"] = usual.pop("guidance_scale")
    return usual | {"latents": packed(usual["latents"])}


def decode(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the autoencoder of clips of one frame."""
    latents = pipe._unpack_latents(output, 128, 128, pipe.vae_scale_factor)
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    return latents[:, :, 0], pipe.vae.decode(latents * deviation + mean).sample[:, :, 0]


PIPELINES = {
    "qwen_image_21": Pipeline(pipeline, SHIFTS, size={"height": 128, "width": 128}, arguments=arguments, decoded=decode)
}
