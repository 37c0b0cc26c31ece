"""LTX-Video's transformer of diffusers, small and at the published size: a time a video, and a time a frame."""

import numpy as np
import torch
from diffusers import LTXVideoTransformer3DModel

from tests.peers.cases import Case
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("ltx_video x", 2, 3, 2, 4, 6),
    "t": np.array([3.0, 731.5], np.float32),
    "t_of_frames": np.array([[0.0, 612.0, 612.0], [0.0, 31.0, 900.0]], np.float32),
    "rate": np.array([12.0, 30.0], np.float32),
    "text": drawn("ltx_video text", 2, 5, 10),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small() -> LTXVideoTransformer3DModel:
    return LTXVideoTransformer3DModel(
        in_channels=6,
        out_channels=6,
        num_attention_heads=2,
        attention_head_dim=16,  # six does not divide the width
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=10,
    )


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
