"""HunyuanVideo's transformer of diffusers, small and at the published size."""

import numpy as np
import torch
from diffusers import HunyuanVideoTransformer3DModel

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("hunyuan_video x", 2, 3, 4, 6, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("hunyuan_video text", 2, 5, 10),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
    "pooled": drawn("hunyuan_video pooled", 2, 8),
    "strength": np.array([6.0, 1.0], np.float32),
}


def small() -> HunyuanVideoTransformer3DModel:
    return HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        text_embed_dim=10,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 6, 6),
    )


def run(module: HunyuanVideoTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mask = a["text_mask"].long()
    out = module(first(a["x"]), 1000 * a["t"], a["text"], mask, a["pooled"], 1000 * a["strength"]).sample
    return {"output": last(out)}


CASES = {"hunyuan_video": Case(small, INPUTS, run)}
LISTINGS = {"hunyuan_video_full": HunyuanVideoTransformer3DModel}
