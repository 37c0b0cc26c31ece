"""ControlNet as diffusers has it: small, of its published sizes, by the original names, and as a union of kinds."""

import numpy as np
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from diffusers.loaders.single_file_utils import LDM_CONTROLNET_KEY, convert_controlnet_checkpoint

from tests.peers.cases import Case, first, last
from tests.peers.families.conditional_unet import Original
from tests.peers.made_weights import drawn

DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
INPUTS = {
    "x": drawn("control x", 1, 4, 4, 4),
    "t": np.array([500.0], np.float32),
    "text": drawn("control text", 1, 5, 16),
    "hint": drawn("control hint", 1, 8, 8, 3),
}


def run(module, a):
    found = module(first(a["x"]), a["t"], a["text"], first(a["hint"]))
    residuals = (*found.down_block_res_samples, found.mid_block_res_sample)
    return {f"residual_{i}": last(residual) for i, residual in enumerate(residuals)}


def small(*hint_widths: int) -> ControlNetModel:
    return ControlNetModel(
        block_out_channels=(32, 64),
        down_block_types=DOWN,
        cross_attention_dim=16,
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        conditioning_embedding_out_channels=hint_widths,
    )


def original(network: ControlNetModel) -> Original:
    """Under the names of control_v11p_sd15_canny.safetensors and its like."""
    return Original(network, LDM_CONTROLNET_KEY, convert_controlnet_checkpoint)


# Two branches of guidance: of one x and one hint, since the tokens of a batch attend to each other there.
UNION = {
    "x": drawn("union x", 1, 4, 4, 4).repeat(2, axis=0),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("union text", 2, 5, 16),
    "pooled": drawn("union pooled", 2, 12),
    "size": np.array([[64.0, 48, 0, 8, 64, 48], [32, 32, 4, 0, 64, 64]], np.float32),
    "hint": drawn("union hint", 1, 8, 8, 3).repeat(2, axis=0),
    "mode": np.array(2, np.int64),
}


def union() -> ControlNetUnionModel:
    return ControlNetUnionModel(
        block_out_channels=(32, 64),
        down_block_types=DOWN[::-1],
        cross_attention_dim=16,
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
        conditioning_embedding_out_channels=(16, 32),
        num_control_type=3,
        num_trans_channel=32,
        num_trans_head=4,
        num_trans_layer=2,
        num_proj_channel=32,
    )


def run_union(module, a):
    """As diffusers' pipeline calls it, for one kind."""
    kind = torch.nn.functional.one_hot(a["mode"], 3)[None].repeat(2, 1)
    added = {"text_embeds": a["pooled"], "time_ids": a["size"]}
    hints = [first(a["hint"])]
    found = module(first(a["x"]), a["t"], a["text"], hints, kind, [int(a["mode"])], added_cond_kwargs=added)
    residuals = (*found.down_block_res_samples, found.mid_block_res_sample)
    return {f"residual_{i}": last(residual) for i, residual in enumerate(residuals)}


CASES = {
    "control_net_union": Case(union, UNION, run_union),
    "control_net": Case(lambda: small(16, 32), INPUTS, run),
    "control_net_original": Case(
        lambda: original(small(4, 4, 8, 8)), {**INPUTS, "hint": drawn("control large hint", 1, 32, 32, 3)}, run
    ),
}
XL = {  # of ControlNetUnion's ProMax
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
LISTINGS = {
    "control_net_union_full_xl": lambda: ControlNetUnionModel(num_control_type=8, **XL),
    "control_net_full_sd15": lambda: ControlNetModel(cross_attention_dim=768),
    "control_net_original_full_sd15": lambda: original(ControlNetModel(cross_attention_dim=768)),
}
