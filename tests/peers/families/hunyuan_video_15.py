"""HunyuanVideo 1.5 of diffusers: transformer and autoencoder, small and at the published size; its pipelines."""

import functools
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from tests.peers.cases import Case, first, last
from tests.peers.families import hunyuan_autoencoder
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QUOTED_PROMPTS, QWEN, Pipeline, decode, first_frame, qwen_tokenizer, t5

TEXTS = {
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("hunyuan_video_15 text", 2, 5, 10),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
    "glyphs": drawn("hunyuan_video_15 glyphs", 2, 4, 12),
    "glyph_mask": np.arange(4) < np.array([[0], [3]]),
}
PROMPTED = TEXTS | {"x": drawn("hunyuan_video_15 x", 2, 3, 2, 4, 4)}
PICTURED = TEXTS | {"x": drawn("hunyuan_video_15 pictured x", 2, 3, 2, 4, 9), "patches": drawn("patches", 2, 3, 14)}


def small(**options) -> HunyuanVideo15Transformer3DModel:
    fields = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 10,
        "text_embed_2_dim": 12,
        "image_embed_dim": 14,
        "rope_axes_dim": (4, 6, 6),
        "target_size": 32,
    }
    return HunyuanVideo15Transformer3DModel(**fields | options)


def run(module: HunyuanVideo15Transformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of prompts alone its patches are zeros, as are the channels of an image."""
    x = torch.nn.functional.pad(a["x"], (0, 9 - a["x"].shape[-1]))
    patches = a.get("patches", torch.zeros(2, 3, 14))
    texts = a["text"], a["text_mask"].long(), None, a["glyphs"], a["glyph_mask"].long()
    return {"output": last(module(first(x), 1000 * a["t"], *texts, patches).sample)}


def small_autoencoder() -> AutoencoderKLHunyuanVideo15:
    return AutoencoderKLHunyuanVideo15(block_out_channels=(8, 16, 16, 32, 32), latent_channels=4, layers_per_block=1)


def pipeline(folder: pathlib.Path, image: bool = False) -> diffusers.DiffusionPipeline:
    """Of prompts, or from an image, which SigLIP sees."""
    tokenizer = qwen_tokenizer()
    text = {name: value for name, value in QWEN.items() if name != "head_dim"} | {"vocab_size": len(tokenizer)}
    turns = {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e4}
    text |= {"rope_parameters": turns, "num_hidden_layers": 4}
    seen = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 8, "patch_size": 4}  # fmt: skip
    eyes = {
        "image_encoder": transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**seen)),
        "feature_extractor": transformers.SiglipImageProcessor(size={"height": 8, "width": 8}),
    }
    kind = diffusers.HunyuanVideo15ImageToVideoPipeline if image else diffusers.HunyuanVideo15Pipeline
    return kind(
        text_encoder=Qwen2_5_VLTextModel(transformers.Qwen2_5_VLTextConfig(**text)),
        tokenizer=tokenizer,
        transformer=small(
            num_layers=1,
            text_embed_dim=24,
            text_embed_2_dim=32,
            image_embed_dim=16,
            task_type="i2v" if image else "t2v",
        ),
        vae=small_autoencoder(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW),
        text_encoder_2=t5(),
        tokenizer_2=transformers.ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=5.0),
        **(eyes if image else {}),
    )


def arguments(pipe, usual: dict) -> dict:
    """Words in quotes are read apart; the guidance is the guider's."""
    pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=usual.pop("guidance_scale"))
    return usual | {"prompt": QUOTED_PROMPTS}


def image_arguments(pipe, usual: dict) -> dict:
    """The image sets the size."""
    side = usual.pop("height")
    del usual["width"]
    return arguments(pipe, usual) | {"image": first_frame(side)}


def decode_one_by_one(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask of its attention fits no batch."""
    pipe.vae.use_slicing = True
    return decode(pipe, latents)


FLOW = {"shift": 5.0}
CLIP = Pipeline(
    pipeline,
    FLOW,
    latents=(3, 2, 2, 4),
    size={"height": 32, "width": 32, "num_frames": 9},
    arguments=arguments,
    decoded=decode_one_by_one,
)
PIPELINES = {
    "hunyuan_video_15": CLIP,
    "hunyuan_video_15_from_image": CLIP._replace(
        build=functools.partial(pipeline, image=True), arguments=image_arguments
    ),
}
CASES = {
    "hunyuan_video_15": Case(functools.partial(small, task_type="t2v"), PROMPTED, run),
    "hunyuan_video_15_pictured": Case(small, PICTURED, run),
    "hunyuan_video_15_autoencoder": Case(
        small_autoencoder,
        {"x": drawn("hunyuan_video_15 video", 1, 9, 32, 16, 3), "z": drawn("hunyuan_video_15 z", 1, 3, 1, 2, 4)},
        hunyuan_autoencoder.run,
    ),
}
LISTINGS = {
    "hunyuan_video_15_full": HunyuanVideo15Transformer3DModel,
    "hunyuan_video_15_autoencoder_full": AutoencoderKLHunyuanVideo15,
}
