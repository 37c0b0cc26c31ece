"""Facts of Stable Diffusion 3 for the tests of all families."""

import numpy as np

from diffusion.published.stable_diffusion_3 import MMDiT
from tests.models.backbone import POOLED, TEXT, TOKENS, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

HIDDEN = {"skip": 1, "norm": False}


def mmdit_adapters(net, a):
    plain = {"text": a["text"], "pooled": a["pooled"]}
    skip = np.array([[False] * 4, [False, True, True, False]])
    controlled = net(a["x"], a["t"], {**plain, "residuals": (a["residual_0"], a["residual_1"])})
    return {
        "output": net(a["x"], a["t"], plain),
        "skipped": net(a["x"], a["t"], {**plain, "skip": skip}),
        "controlled": controlled,
    }


def mmdit_control_net(net, a):
    residuals = net(a["x"], a["t"], {name: a[name] for name in ("text", "pooled") if name in a}, a["hint"])
    return {f"residual_{i}": residual for i, residual in enumerate(residuals)}


CALLS = {
    "mmdit_sd3": Call(denoised, 9e-6, layouts=OWN, longer=True),
    "mmdit_original": Call(denoised, 4e-5, longer=True),
    "mmdit_sd35_medium": Call(mmdit_adapters, 2e-5, layouts=OWN, slow=True, longer=True),
    "mmdit_control_net": Call(mmdit_control_net, 6e-6, layouts=OWN, longer=True),
    "mmdit_control_net_options": Call(mmdit_control_net, 9e-6, layouts=OWN, slow=True, longer=True),
    "mmdit_control_net_of_pictures": Call(mmdit_control_net, 1e-5, layouts=OWN),
}
LISTINGS = {
    **dict.fromkeys(
        ("mmdit_full_sd3_medium", "mmdit_full_sd35_medium", "mmdit_full_sd35_large"), "SD3Transformer2DModel"
    ),
    "mmdit_control_net_full": "SD3ControlNetModel",
}
KINDS = {
    "StableDiffusion3Pipeline": KindFacts((28, 7.0), 7, readers=[("", HIDDEN, 0), ("_2", HIDDEN, 0), ("_3", {}, 256)]),
    "StableDiffusion3ControlNetPipeline": KindFacts((28, 7.0), 7, attaches="controlnet"),
    "StableDiffusion3PAGPipeline": KindFacts((28, 7.0), 7, perturbed=3.0),
}
SAME = {
    "StableDiffusion3Img2ImgPipeline": "StableDiffusion3Pipeline",
    "StableDiffusion3InpaintPipeline": "StableDiffusion3Pipeline",
    "StableDiffusion3ControlNetInpaintingPipeline": "StableDiffusion3ControlNetPipeline",
    "StableDiffusion3PAGImg2ImgPipeline": "StableDiffusion3PAGPipeline",
}
TRAJECTORIES = {"mmdit": {"euler": 7e-6, "heun": 8e-6}, "t5_mmdit": {"euler": 1e-5}}
BACKBONES = {
    "mmdit": Backbone(
        MMDiT(
            4,
            4,
            **TOKENS | {"depth": 3},
            text_width=TEXT,
            pooled_width=POOLED,
            positions=6,
            sample_size=8,
            dual=1,
            qk_norm=True,
        ),
        (8, 8, 4),
        words("pooled"),
        untrained="positions_table|last_block/text/attention/query_norm",  # a fixed table; queries that nothing uses
        blocks="dual_blocks|blocks|last_block",
    )
}
