"""SD 3's ControlNet of diffusers: small, of picture and text, and of the picture alone; and at a published size."""

import numpy as np
from diffusers import SD3ControlNetModel

from tests.peers.cases import Case, first
from tests.peers.families.mmdit import TABLE
from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("mmdit control x", 2, 8, 12, 4),
    "t": np.array([3.0, 731.5], np.float32),
    "text": drawn("mmdit control text", 2, 5, 24),
    "pooled": drawn("mmdit control pooled", 2, 20),
    "hint": drawn("mmdit control hint", 2, 8, 12, 4),
}
TOKENS = {name: INPUTS[name] for name in ("t", "pooled", "hint")} | {"x": drawn("mmdit control tokens", 2, 24, 32)}


def small(**options) -> SD3ControlNetModel:
    sizes = {"joint_attention_dim": 24, "num_layers": 2, **options}
    return SD3ControlNetModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=7,
        **sizes,
    )


def run(module, a):
    """The pooled text is not the module's affair: diffusers' pipeline passes zeros for some."""
    x = first(a["x"]) if a["x"].ndim == 4 else a["x"]
    pooled = a["pooled"] * (0 if module.config.force_zeros_for_pooled_projection else 1)
    found = module(
        x, controlnet_cond=first(a["hint"]), encoder_hidden_states=a.get("text"), pooled_projections=pooled,
        timestep=a["t"],
    )  # fmt: skip
    return {f"residual_{i}": residual for i, residual in enumerate(found.controlnet_block_samples)}


CASES = {
    "mmdit_control_net": Case(small, INPUTS, run, kept=TABLE),
    "mmdit_control_net_options": Case(
        lambda: small(
            num_layers=3,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
            force_zeros_for_pooled_projection=False,
            extra_conditioning_channels=1,
        ),
        {**INPUTS, "hint": drawn("mmdit control wide hint", 2, 8, 12, 5)},
        run,
        kept=TABLE,
    ),
    "mmdit_control_net_of_pictures": Case(
        lambda: small(joint_attention_dim=None, use_pos_embed=False, force_zeros_for_pooled_projection=False),
        TOKENS,
        run,
    ),
}
LISTINGS = {  # of InstantX's, for SD3-medium
    "mmdit_control_net_full": lambda: SD3ControlNetModel(
        num_layers=6, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
    )
}
