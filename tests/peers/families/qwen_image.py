"""Qwen-Image's transformer of diffusers, small and at the published size."""

import numpy as np
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("qwen_image x", 2, 6, 10, 4),  # an odd number of patches on both sides
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("qwen_image text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
}


def small() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
    )


def run(module: QwenImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch, height, width, channels = a["x"].shape
    tokens = QwenImagePipeline._pack_latents(first(a["x"]), batch, channels, height, width)
    shapes = [[(1, height // 2, width // 2)]] * batch
    out = module(tokens, a["text"], a["text_mask"], a["t"], shapes).sample
    return {"output": last(QwenImagePipeline._unpack_latents(out, 8 * height, 8 * width, 8).squeeze(2))}


CASES = {"qwen_image": Case(small, INPUTS, run)}
LISTINGS = {"qwen_image_full": QwenImageTransformer2DModel}
