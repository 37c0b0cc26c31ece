"""ControlNet as diffusers has it: small, and at the size of Stable Diffusion 1.5; also by the original names."""

import numpy as np
from diffusers import ControlNetModel
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


CASES = {
    "control_net": Case(lambda: small(16, 32), INPUTS, run),
    "control_net_original": Case(
        lambda: original(small(4, 4, 8, 8)), {**INPUTS, "hint": drawn("control large hint", 1, 32, 32, 3)}, run
    ),
}
LISTINGS = {
    "control_net_full_sd15": lambda: ControlNetModel(cross_attention_dim=768),
    "control_net_original_full_sd15": lambda: original(ControlNetModel(cross_attention_dim=768)),
}
