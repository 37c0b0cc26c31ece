"""ControlNet as diffusers has it: small, and at the size of Stable Diffusion 1.5."""

import numpy as np
from diffusers import ControlNetModel

from tests.peers.cases import Case, first, last
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


CASES = {
    "control_net": Case(
        lambda: ControlNetModel(
            block_out_channels=(32, 64),
            down_block_types=DOWN,
            cross_attention_dim=16,
            layers_per_block=1,
            attention_head_dim=4,
            norm_num_groups=8,
            conditioning_embedding_out_channels=(16, 32),
        ),
        INPUTS,
        run,
    )
}
LISTINGS = {"control_net_full_sd15": lambda: ControlNetModel(cross_attention_dim=768)}
