"""CogVideoX's transformer of diffusers, small in its three published forms, and at the published sizes."""

import numpy as np
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

from tests.peers.cases import Case
from tests.peers.made_weights import drawn

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 12,
    "text_embed_dim": 10,
    "num_layers": 2,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}
FORMS = {
    "cogvideox_sincos": {"spatial_interpolation_scale": 1.875},
    "cogvideox_rope": {"use_rotary_positional_embeddings": True},
    "cogvideox_frames": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
    "cogvideox_picture": {
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
        "in_channels": 8,
    },
    "cogvideox_frames_picture": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "ofs_embed_dim": 12,
        "in_channels": 8,
    },
}
BIG = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
PUBLISHED = {
    "2b": {},
    "5b": BIG,
    "1_5": {**BIG, "patch_size_t": 2, "patch_bias": False},
    "5b_picture": {**BIG, "in_channels": 32, "use_learned_positional_embeddings": True},
    "1_5_picture": {**BIG, "in_channels": 32, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 512},
}


class Parts:
    """What the pipeline's function for the rotary angles reads."""

    vae_scale_factor_spatial = 1

    def __init__(self, transformer: CogVideoXTransformer3DModel):
        self.transformer = transformer


def run(module: CogVideoXTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    x = a["x"].movedim(-1, 2)
    angles = None
    if module.config.use_rotary_positional_embeddings:
        frames, _, height, width = x.shape[1:]
        angles = CogVideoXPipeline._prepare_rotary_positional_embeddings(Parts(module), height, width, frames, "cpu")
    offset = None if module.config.ofs_embed_dim is None else x.new_full((1,), fill_value=2.0)  # as its pipeline
    return {"output": module(x, a["text"], a["t"], ofs=offset, image_rotary_emb=angles).sample.movedim(2, -1)}


def small(name: str) -> Case:
    options = FORMS[name]
    pairs = "patch_size_t" in options
    # of other sides than the training's
    sides = (8, 12) if name == "cogvideox_picture" else (6, 10) if pairs else (10, 6)
    inputs = {
        "x": drawn(f"{name} x", 2, 4 if pairs else 3, *sides, options.get("in_channels", 4)),
        "t": np.array([3.0, 731.0], np.float32),
        "text": drawn(f"{name} text", 2, 5, 10),
    }
    return Case(lambda: CogVideoXTransformer3DModel(**SMALL | options), inputs, run)


CASES = {name: small(name) for name in FORMS}
LISTINGS = {
    f"cogvideox_full_{name}": lambda options=options: CogVideoXTransformer3DModel(**options)
    for name, options in PUBLISHED.items()
}
