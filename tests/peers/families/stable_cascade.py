"""Stable Cascade of diffusers: its U-Net and its autoencoder, small and at the published sizes."""

import contextlib
import functools
import pathlib
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from diffusers.pipelines.stable_cascade import pipeline_stable_cascade

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import Pipeline, clip, clip_tokenizer

RESIDUAL, TIME, ATTENTION = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
C = {
    "in_channels": 4,
    "out_channels": 4,
    "timestep_ratio_embedding_dim": 8,
    "conditioning_dim": 12,
    "block_out_channels": (16, 24),
    "num_attention_heads": (2, 3),
    "down_num_layers_per_block": (1, 2),
    "up_num_layers_per_block": (2, 2),
    "clip_text_in_channels": 24,
    "clip_text_pooled_in_channels": 24,
    "clip_image_in_channels": 10,
    "clip_seq": 2,
    "switch_level": [False],
}
B = {
    "in_channels": 4,
    "out_channels": 4,
    "timestep_ratio_embedding_dim": 7,
    "patch_size": 2,
    "conditioning_dim": 12,
    "block_out_channels": (8, 16, 24),
    "num_attention_heads": (0, 0, 3),
    "down_num_layers_per_block": (1, 2, 1),
    "up_num_layers_per_block": (1, 2, 1),
    "down_blocks_repeat_mappers": (2, 1, 1),
    "up_blocks_repeat_mappers": (1, 3, 2),
    "block_types_per_layer": ((RESIDUAL, TIME), (RESIDUAL, TIME), (RESIDUAL, TIME, ATTENTION)),
    "clip_text_pooled_in_channels": 24,
    "clip_seq": 2,
    "effnet_in_channels": 4,
    "pixel_mapper_in_channels": 3,
    "dropout": (0.0, 0.0, 0.1),
    "timestep_conditioning_type": ("sca",),
}
INPUTS = {"t": np.array([0.3, 0.7315], np.float32), "pooled": drawn("cascade pooled", 2, 24)}
C_INPUTS = INPUTS | {"x": drawn("cascade x", 2, 5, 6, 4), "text": drawn("cascade text", 2, 7, 24)}
# Its levels have sides of 6 x 4, 3 x 2 and 1 x 1.
B_INPUTS = INPUTS | {"x": drawn("cascade fine", 2, 12, 8, 4), "coarse": drawn("cascade coarse", 2, 3, 2, 4)}


def stage_c(**options) -> StableCascadeUNet:
    return StableCascadeUNet(**C | options)


def stage_b(**options) -> StableCascadeUNet:
    return StableCascadeUNet(**B | options)


def run(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipelines call it, without an image or with several."""
    inputs = {"timestep_ratio": a["t"], "clip_text_pooled": a["pooled"][:, None]}
    if "text" in a:
        no_image = torch.zeros(len(a["text"]), 1, C["clip_image_in_channels"])
        inputs |= {"clip_text": a["text"], "clip_img": a.get("image", no_image)}
    if "coarse" in a:
        inputs["effnet"] = first(a["coarse"])
    return {"output": last(module(first(a["x"]), **inputs).sample)}


def paella(**options) -> PaellaVQModel:
    fields = {"bottleneck_blocks": 3, "embed_dim": 16, "num_vq_embeddings": 20, "latent_channels": 4, "levels": 3}
    return PaellaVQModel(**fields | options)


def coded(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Its pictures are in [0, 1], ours in [-1, 1]."""
    decode = lambda quantizes: last(module.decode(first(a["z"]), force_not_quantize=not quantizes).sample)
    return {
        "encoded": last(module.encode(first(a["x"] / 2 + 0.5)).latents),
        "decoded": 2 * decode(False) - 1,
        "of_codes": 2 * decode(True) - 1,
    }


CASES = {
    "stable_cascade_c": Case(stage_c, C_INPUTS, run),
    "stable_cascade_c_images": Case(stage_c, C_INPUTS | {"image": drawn("cascade images", 2, 3, 10)}, run),
    "stable_cascade_c_halved": Case(functools.partial(stage_c, switch_level=[True]), C_INPUTS, run),
    "stable_cascade_b": Case(stage_b, B_INPUTS, run),
    "paella": Case(
        paella,
        {"x": drawn("paella x", 2, 16, 8, 3), "z": drawn("paella z", 2, 2, 3, 4)},
        coded,
        kept=("down_blocks.5.1.num_batches_tracked",),
    ),
}
FULL_C = {"clip_text_in_channels": 1280, "clip_image_in_channels": 768, "switch_level": [False]}
FULL_B = {
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "conditioning_dim": 1280,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_num_layers_per_block": [2, 6, 28, 6],
    "up_num_layers_per_block": [6, 28, 6, 2],
    "down_blocks_repeat_mappers": [1, 1, 1, 1],
    "up_blocks_repeat_mappers": [3, 3, 2, 2],
    "block_types_per_layer": [[RESIDUAL, TIME]] * 2 + [[RESIDUAL, TIME, ATTENTION]] * 2,
    "num_attention_heads": [0, 0, 20, 20],
    "effnet_in_channels": 16,
    "pixel_mapper_in_channels": 3,
    "dropout": [0, 0, 0.1, 0.1],
    "timestep_conditioning_type": ["sca"],
}
LISTINGS = {
    "stable_cascade_c_full": functools.partial(StableCascadeUNet, **FULL_C),
    "stable_cascade_b_full": functools.partial(StableCascadeUNet, **FULL_B),
    "paella_full": PaellaVQModel,
}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """The combined pipeline; the text encoder of the second half is read by none of its calls."""
    return diffusers.StableCascadeCombinedPipeline(
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(projected=True),
        decoder=stage_b(),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=paella(levels=2),
        prior_prior=stage_c(),
        prior_text_encoder=clip(projected=True),
        prior_tokenizer=clip_tokenizer(folder / "prior_clip"),
        prior_scheduler=diffusers.DDPMWuerstchenScheduler(),
    )


COARSE: dict[str, torch.Tensor] = {}


def arguments(pipe, usual: dict[str, Any]) -> dict[str, Any]:
    """Those of the first stage; its latents are seen after each step."""

    def seen(pipe, step, t, kept):
        COARSE["coarse"] = last(kept["latents"]).contiguous()
        return kept

    first_stage = {f"prior_{name}": usual.pop(name) for name in ("num_inference_steps", "guidance_scale")}
    return usual | first_stage | {"prior_callback_on_step_end": seen}


@contextlib.contextmanager
def made_finer(pipe, latents: torch.Tensor):
    """The call of a pipeline whose second stage begins at made noise."""
    noise = lambda shape, **_: first(torch.from_numpy(drawn("finer", shape[0], *shape[2:], shape[1])))
    with mock.patch.object(pipeline_stable_cascade, "randn_tensor", noise):
        yield


def pictured(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The second stage's latents and their picture, in [-1, 1] and not clipped."""
    return latents, 2 * pipe.vqgan.decode(pipe.vqgan.config.scale_factor * latents).sample - 1


PIPELINES = {
    "stable_cascade": Pipeline(
        pipeline,
        {},
        {"ddpm": ("DDPMWuerstchenScheduler", {})},
        latents=(3, 6, 4),
        size={"height": 128, "width": 256},
        steps=20,
        arguments=arguments,
        within=made_finer,
        decoded=pictured,
        further=lambda pipe: COARSE,
    )
}
