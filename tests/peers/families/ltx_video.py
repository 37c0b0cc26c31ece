"""LTX-Video of diffusers: its transformer, with a time a video and a time a frame; its pipelines."""

import contextlib
import pathlib
import sys
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import LTXVideoTransformer3DModel

from tests.peers.cases import Case
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import Pipeline, encoded_by_mean, first_frame, t5, t5_tokenizer

INPUTS = {
    "x": drawn("ltx_video x", 2, 3, 2, 4, 6),
    "t": np.array([3.0, 731.5], np.float32),
    "t_of_frames": np.array([[0.0, 612.0, 612.0], [0.0, 31.0, 900.0]], np.float32),
    "rate": np.array([12.0, 30.0], np.float32),
    "text": drawn("ltx_video text", 2, 5, 10),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small(**options) -> LTXVideoTransformer3DModel:
    fields = {
        "in_channels": 6,
        "out_channels": 6,
        "num_attention_heads": 2,
        "attention_head_dim": 16,  # six does not divide the width
        "cross_attention_dim": 32,
        "num_layers": 2,
        "caption_channels": 10,
    }
    return LTXVideoTransformer3DModel(**fields | options)


def run(module: LTXVideoTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    frames, height, width = a["x"].shape[1:4]
    mask = a["text_mask"].float()

    def call(x, t, text, mask, rate):
        scale = (8 / rate, 32, 32)  # as the pipeline has it
        return module(x.flatten(1, 3), text, t, mask, frames, height, width, scale).sample.reshape(x.shape)

    tokens = a["t_of_frames"].repeat_interleave(height * width, dim=1)
    each = [
        call(a["x"][i, None], tokens[i, None], a["text"][i, None], mask[i, None], float(rate))
        for i, rate in enumerate(a["rate"])
    ]
    return {"output": call(a["x"], a["t"], a["text"], mask, 25), "of_frames": torch.cat(each)}


CASES = {"ltx_video": Case(small, INPUTS, run)}
LISTINGS = {"ltx_video_full": LTXVideoTransformer3DModel}


LTX_FLOW = {  # as it is published
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "shift": 1.0,
    "shift_terminal": 0.1,
    "use_dynamic_shifting": True,
}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Its autoencoder is of 0.9.5, whose decoder receives a time."""
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 16, 16, 16),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(8, 16, 32),
        decoder_layers_per_block=(1,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    vae.latents_mean.copy_(torch.arange(8) / 4 - 1)
    vae.latents_std.copy_(1 + torch.arange(8) / 8)
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(LTX_FLOW),
        vae=vae,
        text_encoder=t5(),
        tokenizer=t5_tokenizer(folder / "t5"),
        transformer=small(in_channels=8, out_channels=8, caption_channels=32),
    )


def from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.LTXImageToVideoPipeline(**pipeline(folder).components)


def of_conditions(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.LTXConditionPipeline(**pipeline(folder).components | {"scheduler": scheduler})


def arguments(pipe, usual: dict) -> dict:
    """It takes tokens."""
    return usual | {"latents": pipe._pack_latents(usual["latents"])}


def image_arguments(pipe, usual: dict) -> dict:
    """It takes no latents beside a first frame."""
    del usual["latents"]
    return usual | {"image": first_frame(usual["height"])}


def condition_arguments(pipe, usual: dict) -> dict:
    """Without noise on the first frame."""
    return image_arguments(pipe, usual) | {"image_cond_noise_scale": 0.0}


@contextlib.contextmanager
def drawn_latents(pipe, latents: torch.Tensor):
    """The call draws these latents, and encodes its first frame by the mean."""
    module = sys.modules[type(pipe).__module__]
    draws = mock.patch.object(module, "randn_tensor", lambda *_, **__: latents.clone())
    with encoded_by_mean(pipe, latents), draws:
        yield


def decode(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if latents.ndim == 3:
        latents = pipe._unpack_latents(latents, 3, 2, 2)
    moments = pipe.vae.latents_mean, pipe.vae.latents_std
    return latents, pipe.vae.decode(pipe._denormalize_latents(latents, *moments), torch.zeros(2)).sample


SIZE = {"height": 64, "width": 64, "num_frames": 17}
LTX = Pipeline(pipeline, LTX_FLOW, latents=(3, 2, 2, 8), size=SIZE, arguments=arguments, decoded=decode)
FROM_IMAGE = LTX._replace(build=from_image, arguments=image_arguments, within=drawn_latents)
CONDITIONS = FROM_IMAGE._replace(build=of_conditions, scheduler={"shift": 1.0}, arguments=condition_arguments)
PIPELINES = {"ltx": LTX, "ltx_from_image": FROM_IMAGE, "ltx_conditions": CONDITIONS}
