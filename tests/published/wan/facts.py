"""Facts of Wan for the tests of all families."""

import numpy as np

from diffusion.published.wan import Wan
from tests.models.backbone import TEXT
from tests.models.interchange.calls import Call, autoencoder_kl
from tests.published.family_facts import KindFacts

SMALL = Wan(4, 10, 24, 2, 2, 40, TEXT, 20)
CLIP = (81, (480, 832), 16.0)


def wan(net, a):
    condition = {name: a[name] for name in ("text", "patches") if name in a}
    by_frame = a["t"][:, None] * np.float32([0, 0.5, 1])
    return {"output": net(a["x"], a["t"], condition), "by_frame": net(a["x"], by_frame, condition)}


def vace(net, a):
    return {"output": net(a["x"], a["t"], {"text": a["text"], "control": a["control"]})}


CALLS = {
    "wan": Call(wan, 2e-5, slow=True, longer=True),
    "wan_plain": Call(wan, 2e-5, slow=True, longer=True),
    "wan_pictured": Call(wan, 2e-5, longer=True),
    "wan_first_and_last": Call(wan, 2e-5, slow=True, longer=True),
    "wan_original": Call(wan, 2e-5, slow=True, longer=True),
    "wan_vace": Call(vace, 2e-5, longer=True),
    "wan_autoencoder": Call(autoencoder_kl, 1e-5, slow=True, longer=True),
    "wan_autoencoder_two": Call(autoencoder_kl, 1e-5, slow=True, longer=True),
    "wan_autoencoder_residual": Call(autoencoder_kl, 1e-5, slow=True, longer=True),
}
LISTINGS = {
    **dict.fromkeys(("wan_full_1_3b", "wan_full_14b", "wan_full_i2v_14b", "wan_full_ti2v_5b"), "WanTransformer3DModel"),
    **dict.fromkeys(("wan_autoencoder_full", "wan_autoencoder_residual_full"), "AutoencoderKLWan"),
    "wan_full_vace_1_3b": "WanVACETransformer3DModel",
}
KINDS = {
    "WanPipeline": KindFacts(
        (50, 5.0), 2, "Wan", readers=[("", {"masked": True}, 512)], clip=(*CLIP, {"second": "transformer_2"})
    ),
    "WanImageToVideoPipeline": KindFacts(
        (50, 5.0), 2, "Wan", clip=(*CLIP, {"second": "transformer_2", "begins": True})
    ),
    "WanVACEPipeline": KindFacts((50, 5.0), 2, "Wan", clip=(*CLIP, {"second": "transformer_2", "fills": True})),
}
CLIP_TRAJECTORIES = {
    "wan": {"unipc": 3e-5},
    **{
        name: {"euler": 1e-5}
        for name in (
            "wan_of_two",
            "wan_from_image",
            "wan_first_and_last",
            "wan_vace",
            "wan_vace_first_and_last",
            "wan_5b",
            "wan_5b_from_image",
        )
    },
}
LORA_LAYERS = {
    "wan": [
        (SMALL, "diffusers", "blocks.1.attn1.to_k"),
        (SMALL, "diffusers", "blocks.0.attn2.add_v_proj"),
        (SMALL, "original", "blocks.1.self_attn.o"),
        (SMALL, "original", "blocks.0.ffn.2"),
    ]
}
