"""Krea 2 of diffusers: its transformer by both kinds of names, small and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import Krea2Pipeline, Krea2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import QWEN, Pipeline, by_channel, qwen_tokenizer
from tests.peers.translated import Translated, dense, under

WIDTH, STATES, OF_STATE = 64, 12, 8
INPUTS = {
    "x": drawn("krea2 x", 2, 6, 10, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("krea2 text", 2, 5, STATES * OF_STATE),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small(**options) -> Krea2Transformer2DModel:
    fields = {
        "in_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "text_hidden_dim": OF_STATE,
        "text_num_attention_heads": 2,
        "text_num_key_value_heads": 1,
        "text_intermediate_size": 20,
        "num_layerwise_text_blocks": 1,
        "num_refiner_text_blocks": 2,
        "axes_dims_rope": (4, 6, 6),
    }
    return Krea2Transformer2DModel(**fields | options)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Latents, channels first, as patches in the order of the pipeline."""
    batch, channels, height, width = x.shape
    patches = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, -1, 4 * channels)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    patches = tokens.view(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, height, width)


def run(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipeline calls it."""
    height, width = a["x"].shape[1:3]
    words = a["text"].shape[1]
    positions = Krea2Pipeline.prepare_position_ids(words, height // 2, width // 2, torch.device("cpu"))
    text = a["text"].unflatten(-1, (STATES, OF_STATE))
    how = {"encoder_hidden_states": text, "encoder_attention_mask": a["text_mask"], "position_ids": positions}
    out = module(packed(first(a["x"])), timestep=a["t"], **how)
    return {"output": last(unpacked(out.sample, height, width))}


def layer(width: int, heads: int, keys: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer under its authors' names, without a table."""
    size = width // heads
    shapes = {f"attn.w{name}.weight": (number * size, width) for name, number in zip("qkv", (heads, keys, keys))}
    shapes |= {f"attn.{name}.weight": (width, width) for name in ("wo", "gate")}
    shapes |= {f"attn.qknorm.{name}norm.scale": (size,) for name in "qk"}
    shapes |= {f"mlp.{name}.weight": (hidden, width) for name in ("gate", "up")}
    return shapes | {"mlp.down.weight": (width, hidden), "prenorm.scale": (width,), "postnorm.scale": (width,)}


def original() -> Translated:
    """Under the names of the authors' files."""
    shapes = dense(first=(16, WIDTH), tmlp__0=(256, WIDTH), tmlp__2=(WIDTH, WIDTH), tproj__1=(WIDTH, 6 * WIDTH))
    shapes |= dense(txtmlp__1=(OF_STATE, WIDTH), txtmlp__3=(WIDTH, WIDTH), last__linear=(WIDTH, 16))
    shapes |= {"txtmlp.0.scale": (OF_STATE,), "last.norm.scale": (WIDTH,), "last.modulation.lin": (2, WIDTH)}
    shapes |= {"txtfusion.projector.weight": (1, STATES)}
    for name in ("layerwise_blocks.0", "refiner_blocks.0", "refiner_blocks.1"):
        shapes |= under(f"txtfusion.{name}", layer(OF_STATE, 2, 1, 20))
    for i in range(2):
        shapes |= under(f"blocks.{i}", layer(WIDTH, 4, 2, 40) | {"mod.lin": (6 * WIDTH,)})
    return Translated(small(), shapes, convert_krea2_transformer_checkpoint_to_diffusers)


CASES = {"krea2": Case(small, INPUTS, run), "krea2_original": Case(original, INPUTS, run)}
LISTINGS = {"krea2_full": Krea2Transformer2DModel}


SHIFTS = {  # as it is published
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 6400,
    "use_dynamic_shifting": True,
}


def pipeline(folder: pathlib.Path, **options) -> diffusers.DiffusionPipeline:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 24,
              "patch_size": 4, "deepstack_visual_indexes": [0], "num_position_embeddings": 4}  # fmt: skip
    turns = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 5e6}
    text = QWEN | {"num_hidden_layers": 36, "rope_parameters": turns}
    return Krea2Pipeline(
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[-0.7, 0.1, 0.9, -0.2],
            latents_std=[2.8, 1.4, 0.7, 1.9],
        ),
        tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen3VLModel(transformers.Qwen3VLConfig(text_config=text, vision_config=vision)),
        transformer=small(text_hidden_dim=24, num_layers=1),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTS),
        **options,
    )


def arguments(pipe, usual: dict) -> dict:
    """Its scale is 0 without guidance, and it takes patches."""
    scale = usual["guidance_scale"] - 1
    return usual | {"guidance_scale": scale, "latents": packed(usual["latents"])}


def decode(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the autoencoder of clips of one frame."""
    latents = unpacked(output, 8, 8)
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    return latents, pipe.vae.decode(latents[:, :, None] * deviation + mean).sample[:, :, 0]


def distilled(pipe) -> dict[str, torch.Tensor]:
    """By the student's shift, without guidance, in 8 steps."""
    student = Krea2Pipeline(**pipe.components, is_distilled=True)
    student.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(drawn("latents", 2, 8, 8, 4)).movedim(-1, 1)
    how = {"num_inference_steps": 8, "guidance_scale": 0.0, "height": 16, "width": 16, "output_type": "latent"}
    with torch.no_grad():
        output = student(["a cat", "the red car on a hill"], latents=packed(latents), **how).images
    return {"distilled": last(unpacked(output, 8, 8)).contiguous()}


PIPELINES = {"krea2": Pipeline(pipeline, SHIFTS, arguments=arguments, decoded=decode, further=distilled)}
