"""SANA of diffusers: its transformer, by both kinds of names, small and at the published size; its pipelines."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import SanaTransformer2DModel
from diffusers.loaders.single_file_utils import convert_sana_transformer_to_diffusers
from PIL import Image

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import (
    GEMMA,
    GUIDANCE,
    NEGATIVE,
    PROMPTS,
    Pipeline,
    as_written,
    bytes_of,
    changed,
    gemma_tokenizer,
    made_noise,
)
from tests.peers.translated import Translated, dense, under

INPUTS = {
    "x": drawn("sana x", 2, 6, 10, 4),
    "t": np.array([3.0, 731.5], np.float32),
    "text": drawn("sana text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}
SIZES = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 24,
}


def small() -> SanaTransformer2DModel:
    return SanaTransformer2DModel(**SIZES)


def normed() -> SanaTransformer2DModel:
    """SANA 1.5's norms, and the positions and patches of larger pictures."""
    return SanaTransformer2DModel(
        **SIZES, qk_norm="rms_norm_across_heads", interpolation_scale=0.5, sample_size=8, patch_size=2
    )


def sprint() -> SanaTransformer2DModel:
    """SANA-Sprint's, which reads the strength of the guidance."""
    return SanaTransformer2DModel(**SIZES, qk_norm="rms_norm_across_heads", guidance_embeds=True)


def run(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mask = a["text_mask"].to(a["x"].dtype)
    how = {"guidance": module.config.guidance_embeds_scale * a["strength"]} if "strength" in a else {}
    out = module(first(a["x"]), encoder_hidden_states=a["text"], timestep=a["t"], encoder_attention_mask=mask, **how)
    return {"output": last(out.sample)}


def original() -> Translated:
    """Under the names of the authors' files; diffusers takes out a table of positions and the empty text."""
    width, hidden = 32, 80
    shapes = {"x_embedder.proj.weight": (width, 4, 1, 1), "x_embedder.proj.bias": (width,)}
    shapes |= dense(t_embedder__mlp__0=(256, width), t_embedder__mlp__2=(width, width), t_block__1=(width, 6 * width))
    shapes |= under("y_embedder.y_proj", dense(fc1=(24, width), fc2=(width, width)))
    shapes |= {"attention_y_norm.weight": (width,), "final_layer.scale_shift_table": (2, width)}
    shapes |= dense(final_layer__linear=(width, 4))
    for i in range(2):
        layer = dense(attn__proj=(width, width), cross_attn__q_linear=(width, width), cross_attn__proj=(width, width))
        layer |= dense(cross_attn__kv_linear=(width, 2 * width))
        layer |= {"scale_shift_table": (6, width), "attn.qkv.weight": (3 * width, width)}
        for name, shape in (("inverted", (2 * hidden, width, 1, 1)), ("depth", (2 * hidden, 1, 3, 3))):
            layer |= {f"mlp.{name}_conv.conv.weight": shape, f"mlp.{name}_conv.conv.bias": shape[:1]}
        shapes |= under(f"blocks.{i}", layer | {"mlp.point_conv.conv.weight": (width, hidden, 1, 1)})

    def convert(left: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        left |= dict.fromkeys(("pos_embed", "y_embedder.y_embedding"), torch.zeros(1))
        return convert_sana_transformer_to_diffusers(left)

    return Translated(small(), shapes, convert)


CASES = {
    "sana": Case(small, INPUTS, run),
    "sana_normed": Case(normed, INPUTS, run),
    "sana_sprint": Case(sprint, INPUTS | {"strength": np.array([4.5, 1.2], np.float32)}, run),
    "sana_original": Case(original, INPUTS, run),
}
LISTINGS = {"sana_full": SanaTransformer2DModel}


FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}  # SANA's


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """With the scheduler that SANA is published with."""
    levels = {"block_out_channels": (8, 16), "layers_per_block": (1, 1)}
    of_level = {"block_types": ("ResBlock", "EfficientViTBlock"), "qkv_multiscales": ((), (5,))}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (levels | of_level).items()}
    return diffusers.SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
            **sides,
        ),
        transformer=small(),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(FLOW_SIGMAS),
    )


def sprint_pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """A student of SANA that reads the guidance as a strength."""
    base = pipeline(folder)
    transformer = changed(base.transformer, guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return diffusers.SanaSprintPipeline(
        **(base.components | {"transformer": transformer, "scheduler": diffusers.SCMScheduler()})
    )


def arguments(pipe, usual: dict) -> dict:
    return as_written(pipe, usual) | {"negative_prompt": NEGATIVE}


def sprint_arguments(pipe, usual: dict) -> dict:
    del usual["negative_prompt"]
    between = 1.3 if usual["num_inference_steps"] == 2 else None
    return as_written(pipe, usual) | {"intermediate_timesteps": between}


PICTURE = bytes_of(drawn("sana changed", 32, 32, 3))


def sprint_changed(pipe) -> dict[str, torch.Tensor]:
    """By the class that changes a picture, in the last 3 of 4 steps."""
    change = diffusers.SanaSprintImg2ImgPipeline(**pipe.components)
    change.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 4, "intermediate_timesteps": None, "guidance_scale": GUIDANCE, "strength": 0.6}
    how = as_written(change, how | {"image": Image.fromarray(PICTURE), "output_type": "latent", **SIZE})
    with made_noise(change), made_noise(change.scheduler), torch.no_grad():
        found = change([PROMPTS[0]], **how).images
    return {"changed/image": torch.from_numpy(PICTURE), "changed/0.6": last(found).contiguous()}


SIZE = {"height": 32, "width": 32}
SANA = Pipeline(
    pipeline, FLOW_SIGMAS, {"dpmpp_2m": ("DPMSolverMultistepScheduler", {})}, size=SIZE, arguments=arguments
)
TRAJECTORIES = {"lcm": ("SCMScheduler", {}), "lcm, two steps": ("SCMScheduler", {})}
SPRINT = Pipeline(sprint_pipeline, {}, TRAJECTORIES, size=SIZE, arguments=sprint_arguments, further=sprint_changed)
PIPELINES = {"sana": SANA, "sprint": SPRINT}
