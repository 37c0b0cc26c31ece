"""SD 3 of diffusers: small transformers with each of their options, and the published sizes; its pipelines."""

import functools
import pathlib

import diffusers
import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import EULER, SHIFTED, VAE, Pipeline, clip, clip_tokenizer, t5, t5_tokenizer
from tests.peers.translated import Translated, dense, under

INPUTS = {
    "x": drawn("mmdit x", 2, 8, 12, 4),
    "t": np.array([3.0, 731.5], np.float32),
    "text": drawn("mmdit text", 2, 5, 24),
    "pooled": drawn("mmdit pooled", 2, 20),
}


def small(**options) -> SD3Transformer2DModel:
    sizes = {"num_layers": 2, **options}
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=7,
        **sizes,
    )


def call(module: SD3Transformer2DModel, a: dict[str, torch.Tensor], **entries) -> torch.Tensor:
    return last(module(first(a["x"]), a["text"], a["pooled"], a["t"], **entries).sample)


def run(module: SD3Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"output": call(module, a)}


def run_adapters(module: SD3Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Also with ControlNet's residuals, and with layers skipped: 1 and 2 for the second example, none for the first."""
    skipped = torch.cat([call(module, a)[:1], call(module, a, skip_layers=[1, 2])[1:]])
    controlled = call(module, a, block_controlnet_hidden_states=[a["residual_0"], a["residual_1"]])
    return {**run(module, a), "skipped": skipped, "controlled": controlled}


def original() -> Translated:
    """Under the names of Stability-AI/sd3.5, mmditx.py."""
    network = small(qk_norm="rms_norm", num_layers=3, dual_attention_layers=(0,))
    width, head = 32, 16
    shapes = {
        "pos_embed": (1, 49, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "x_embedder.proj.bias": (width,),
        **dense(
            t_embedder__mlp__0=(256, width),
            t_embedder__mlp__2=(width, width),
            y_embedder__mlp__0=(20, width),
            y_embedder__mlp__2=(width, width),
            context_embedder=(24, width),
            final_layer__linear=(width, 16),
            final_layer__adaLN_modulation__1=(width, 2 * width),
        ),
    }
    enter = dense(qkv=(width, 3 * width)) | {"ln_q.weight": (head,), "ln_k.weight": (head,)}
    attention = enter | dense(proj=(width, width))
    for i in range(3):
        for stream in ("x", "context"):
            ends = i == 2 and stream == "context"
            dual = i == 0 and stream == "x"
            vectors = 2 if ends else 9 if dual else 6
            block = dense(adaLN_modulation__1=(width, vectors * width)) | under("attn", enter if ends else attention)
            if not ends:
                block |= dense(mlp__fc1=(width, 4 * width), mlp__fc2=(4 * width, width))
            if dual:
                block |= under("attn2", attention)
            shapes |= under(f"joint_blocks.{i}.{stream}_block", block)
    return Translated(network, shapes, convert_sd3_transformer_checkpoint_to_diffusers)


TABLE = ("pos_embed.pos_embed",)
CASES = {
    "mmdit_sd3": Case(small, INPUTS, run, kept=TABLE),
    "mmdit_sd35_medium": Case(
        lambda: small(qk_norm="rms_norm", num_layers=4, dual_attention_layers=(0, 1)),
        {**INPUTS, **{f"residual_{i}": drawn(f"mmdit residual {i}", 2, 24, 32) for i in range(2)}},
        run_adapters,
        kept=TABLE,
    ),
    "mmdit_original": Case(original, INPUTS, run),
}


def published(heads: int, positions: int, **options):
    return lambda: SD3Transformer2DModel(
        num_layers=heads,
        num_attention_heads=heads,
        caption_projection_dim=64 * heads,
        pos_embed_max_size=positions,
        **options,
    )


LISTINGS = {
    "mmdit_full_sd3_medium": published(24, 192),
    "mmdit_full_sd35_medium": published(24, 384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
    "mmdit_full_sd35_large": published(38, 192, qk_norm="rms_norm"),
}


def pipeline(folder: pathlib.Path, with_t5: bool = False) -> diffusers.DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=56,
        pooled_projection_dim=48,
        pos_embed_max_size=8,
    )
    return diffusers.StableDiffusion3Pipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=clip_tokenizer(folder / "clip_2"),
        text_encoder=clip(True),
        text_encoder_2=clip(True),
        text_encoder_3=t5(56) if with_t5 else None,
        tokenizer_3=t5_tokenizer(folder / "t5") if with_t5 else None,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED),
    )


TRAJECTORIES = EULER | {"heun": ("FlowMatchHeunDiscreteScheduler", {})}
PIPELINES = {
    "mmdit": Pipeline(pipeline, SHIFTED, TRAJECTORIES),
    "t5_mmdit": Pipeline(functools.partial(pipeline, with_t5=True), SHIFTED),
}
