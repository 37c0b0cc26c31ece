"""SANA's transformer of diffusers, small and at the published sizes; the authors' names, which diffusers translates."""

import numpy as np
import torch
from diffusers import SanaTransformer2DModel
from diffusers.loaders.single_file_utils import convert_sana_transformer_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
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
